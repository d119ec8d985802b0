"""pass@1 on tasks of the training variant that training never sees, every n steps."""

import random
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from palestra.agents.rollout import Episode, rollout
from palestra.envs.core import TextEnv
from palestra.envs.registry import make
from palestra.rl.processes import gather, rank, whole_weights, world
from palestra.rl.sampler import GroupSampler

_SHARE = 16
"""One task in so many is kept for validation, by the hash of its key."""


def is_held_out(key: str) -> bool:
    """Whether a task belongs to the validation slice."""
    return blake2b(f"validation|{key}".encode(), digest_size=8).digest()[0] % _SHARE == 0


def task_stream(seed: int, env: TextEnv, *, held_out: bool) -> Iterator[int]:
    """Yield task indices of the validation slice, or of the rest; the rest is what all arms with a seed train on."""
    rng = random.Random(f"validation|{seed}" if held_out else f"tasks|{seed}")
    while True:
        index = rng.getrandbits(48)
        if is_held_out(env.task_at(index).key) == held_out:
            yield index


class Validation(TrainerCallback):
    """Measures and logs `validation/pass@1`, always with the same tasks and sampling seeds.

    Args:
        sampler: Its settings and engine are used.
        problems: Tasks, one episode each.
        every: Optimiser steps between measurements; one more is made before the first step.
    """

    def __init__(self, sampler: GroupSampler, problems: int, every: int) -> None:
        self._sampler, self._every = sampler, every
        settings = sampler.settings
        with make(settings.env, settings.variant) as env:
            tasks = task_stream(settings.seed, env, held_out=True)
            self._episodes = [
                Episode(next(tasks), random.Random(f"validation|{settings.seed}|{i}").getrandbits(64))
                for i in range(problems)
            ]
        self.trainer: Any = None
        """Set once the trainer is made."""
        self.history: list[tuple[int, float]] = []
        """(step, pass@1)."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure where the run starts."""
        if state.global_step == 0:
            self._measure(0)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure if it is time."""
        if state.global_step % self._every == 0:
            self._measure(state.global_step)

    def state(self) -> dict[str, Any]:
        """Return what a resumed run has to restore."""
        return {"history": self.history}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.history = [(step, score) for step, score in state["history"]]

    def _measure(self, step: int) -> None:
        s = self._sampler.settings
        with whole_weights(self.trainer) as model:
            done = rollout(
                lambda: make(s.env, s.variant, syntax=self._sampler.codec.syntax),
                self._episodes[rank() :: world()],
                self._sampler.engine_of(model),
                self._sampler.codec,
                s.params,
                max_length=s.max_length,
            )
            outcomes = [t.outcome for _, t in done if t.stop != "error"]
        outcomes = gather(outcomes)
        score = sum(outcomes) / max(1, len(outcomes))
        self.history.append((step, score))
        found = {"validation/pass@1": score, "validation/episodes": float(len(outcomes))}
        if step:  # with the step's own numbers: a log of its own would take their place
            for name, value in found.items():
                self.trainer.record(name, value)
        else:
            self.trainer.log(found)
