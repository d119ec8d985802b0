"""Reads stored trajectories by models held in this process, token by token as they were sampled."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from palestra.agents.codec import ChatCodec
from palestra.agents.models import load_model
from palestra.agents.scoring import token_logprobs
from palestra.envs.core import TextEnv
from palestra.envs.errors import UsageError
from palestra.envs.registry import make
from palestra.eval.episodes import model_identity
from palestra.eval.loading import LoadedRun
from palestra.eval.records import SampleRecord, read_trajectory
from palestra.eval.settings import EvalSettings

BATCH = 256
"""Trajectories that are read at a time."""


class Read(NamedTuple):
    """A stored trajectory and what each model thinks of it."""

    sample: SampleRecord
    tokens: int
    """That the policy chose, at least 1."""
    logprobs: tuple[float, ...]
    """Their log-probability under each model, in nats, at the sampling temperature."""


class Readers(ExitStack):
    """The models of several runs of one environment, each of which can read the trajectories of all.

    Raises:
        UsageError: A model is gone, has changed since its run, or does not share the others' tokenizer.
    """

    def __init__(self, runs: Sequence[LoadedRun]) -> None:
        super().__init__()
        loaded = [_load(run) for run in runs]
        self._models = [each.model.eval() for each in loaded]
        first, *others = (each.tokenizer for each in loaded)
        for other in others:
            if first.get_vocab() != other.get_vocab() or first.chat_template != other.chat_template:
                raise UsageError(
                    "the models do not share a tokenizer and chat template: none can read the others' tokens."
                )
        self._codec = ChatCodec(first)
        self._envs: dict[str, TextEnv] = {}
        self._prompts: dict[tuple[str, int], list[int]] = {}

    def __enter__(self) -> Self:
        return self

    def read(self, run: LoadedRun, samples: Sequence[SampleRecord], temperature: float) -> Iterator[Read]:
        """Read trajectories of a run, those of like length together; samples without a turn are left out.

        Raises:
            UsageError: The run holds no tokens, or a problem is another task now.
            PalestraError: A trajectory is damaged.
        """
        ordered = sorted((s for s in samples if s.turns), key=lambda sample: sample.tokens_out or 0)
        for start in range(0, len(ordered), BATCH):
            batch = ordered[start : start + BATCH]
            prompts = [self._prompt(sample) for sample in batch]
            rests, chosen = zip(*(_tokens(run, sample) for sample in batch), strict=True)
            under_each = []
            for model in self._models:
                (logs,) = token_logprobs(model, prompts, rests, (temperature,))
                # Rounded logarithms may add up to just over 0.
                under_each.append([min(float(row[: len(c)] @ c), 0.0) for row, c in zip(logs, chosen, strict=True)])
            for sample, c, *logprobs in zip(batch, chosen, *under_each, strict=True):
                yield Read(sample, int(c.sum()), tuple(logprobs))

    def _prompt(self, sample: SampleRecord) -> list[int]:
        """Return the tokens before the first turn."""
        where = sample.variant, sample.problem
        if where not in self._prompts:
            if sample.variant not in self._envs:
                self._envs[sample.variant] = self.enter_context(
                    make(sample.env, sample.variant, syntax=self._codec.syntax)
                )
            env = self._envs[sample.variant]
            observation, _ = env.reset(options={"index": sample.problem})
            assert env.task is not None
            if env.task.key != sample.key:
                raise UsageError(
                    f"problem {sample.problem} of {sample.variant} is another task now; evaluate the runs again."
                )
            self._prompts[where] = self._codec.start(env.system_prompt(), observation)
            env.end_episode()
        return self._prompts[where]


def _load(run: LoadedRun) -> Any:
    stored = run.info.manifest.get("model")
    if "imported" in run.info.manifest or not isinstance(stored, dict) or "weights" not in stored:
        raise UsageError(f"{run.info.path} was not sampled from a model in this process: it holds no tokens.")
    settings = EvalSettings(model=stored["name"], env=run.env, out=run.info.path)
    if model_identity(settings) != stored:
        raise UsageError(f"the model '{stored['name']}' has changed since {run.info.path}; evaluate it again.")
    return load_model(stored["name"])


def _tokens(run: LoadedRun, sample: SampleRecord) -> tuple[list[int], npt.NDArray[np.int64]]:
    """Return the tokens after the prompt, and 1 for each of those that the model chose."""
    stored = read_trajectory(run.info.path, sample.part, sample.offset).get("tokens")
    if not stored:
        raise UsageError(f"{run.info.path} holds no tokens, only text; evaluate again with this version.")
    end = stored["turns"][-1][1]  # what the environment said last, no model answered
    chosen = np.zeros(end, dtype=np.int64)
    for first, last in stored["turns"]:
        chosen[first:last] = 1
    return stored["completion_ids"][:end], chosen
