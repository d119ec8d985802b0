"""Groups of episodes for the trainer: TRL's `rollout_func`, free of TRL."""

import random
from collections.abc import Sequence
from typing import Any

from palestra.agents.codec import ChatCodec
from palestra.agents.engine import SamplingParams
from palestra.agents.rollout import Episode, rollout
from palestra.agents.trajectory import Trajectory
from palestra.agents.transformers_engine import TransformersEngine
from palestra.envs.errors import PalestraError, UsageError
from palestra.envs.registry import make

MAX_ROUNDS = 4
"""Rounds of dynamic sampling before groups without contrast are accepted."""


class GroupSampler:
    """Runs a group of episodes per task and returns their tokens, masks and rewards.

    Args:
        env: Environment id.
        variant: Its variant.
        codec: Chat to tokens.
        params: Sampling settings.
        group_size: Episodes per task.
        seed: With the trainer's step and the place in the batch, decides every episode: a resumed run
            samples what the uninterrupted one would have.
        max_length: The model's context in tokens.
        dynamic: Replace groups whose rewards are all equal by groups of fresh tasks (DAPO's dynamic
            sampling, arXiv 2503.14476, equation 11), for at most 4 rounds.
        by_outcome: Whether outcomes count as rewards.
        by_process: Whether process terms do.
    """

    def __init__(
        self,
        env: str,
        variant: str,
        codec: ChatCodec,
        params: SamplingParams,
        group_size: int,
        seed: int,
        max_length: int | None,
        dynamic: bool,
        by_outcome: bool = True,
        by_process: bool = False,
    ) -> None:
        self.env, self.variant = env, variant
        self.codec, self.params = codec, params
        self.group_size, self.seed = group_size, seed
        self.max_length, self.dynamic = max_length, dynamic
        self.by_outcome, self.by_process = by_outcome, by_process
        self.statistics: dict[str, float] = {}
        """Of the last call: what dynamic sampling hides, and the shape of episodes."""

    def __call__(self, prompts: Sequence[str], trainer: Any) -> dict[str, Any]:
        """Sample for TRL.

        Args:
            prompts: Task indices as text, each repeated `group_size` times in a row.
            trainer: The trainer; its model samples, its step seeds.

        Returns:
            TRL's `prompt_ids`, `completion_ids`, `logprobs` and `env_mask`, and per episode `outcome`,
            `process` (summed) and `turns` (start, end, process reward).
        """
        model = trainer.accelerator.unwrap_model(trainer.model)
        engine = TransformersEngine(model, self.codec.stop_ids, self.codec.pad_id)
        where = f"{self.seed}|{trainer.state.global_step}|{trainer.accelerator.process_index}"
        indices = [int(prompt) for prompt in prompts[:: self.group_size]]
        groups = self._sample(indices, engine, f"{where}|0")
        self._count(groups)
        for attempt in range(1, MAX_ROUNDS if self.dynamic else 0):
            flat = [g for g, group in enumerate(groups) if self._flat(group)]
            if not flat:
                break
            rng = random.Random(f"refill|{where}|{attempt}")
            fresh = self._sample([rng.getrandbits(48) for _ in flat], engine, f"{where}|{attempt}")
            self.statistics["groups_sampled"] += len(fresh)
            for g, group in zip(flat, fresh, strict=True):
                groups[g] = group
        return _as_columns([t for group in groups for t in group])

    def _sample(self, indices: list[int], engine: TransformersEngine, where: str) -> list[list[Trajectory]]:
        places = {}
        for g, index in enumerate(indices):
            for member in range(self.group_size):
                seed = random.Random(f"{where}|{g}|{member}").getrandbits(64)
                places[Episode(index, seed)] = (g, member)
        done: dict[tuple[int, int], Trajectory] = {}
        for episode, trajectory in rollout(
            lambda: make(self.env, self.variant),
            list(places),
            engine,
            self.codec,
            self.params,
            max_length=self.max_length,
        ):
            done[places[episode]] = trajectory
        return [[done[g, member] for member in range(self.group_size)] for g in range(len(indices))]

    def _flat(self, group: list[Trajectory]) -> bool:
        """Whether no reward that counts differs within the group."""
        rewards = {
            (t.outcome if self.by_outcome else 0.0, tuple(_turn_rewards(t)) if self.by_process else ())
            for t in group
            if t.stop != "error"
        }
        return len(rewards) <= 1

    def _count(self, groups: list[list[Trajectory]]) -> None:
        episodes = [t for group in groups for t in group]
        broken = [t for t in episodes if t.stop == "error"]
        if len(broken) == len(episodes):
            raise PalestraError(f"every episode of a step failed through its tools' machinery: {broken[0].error}")
        if not any(t.turns for t in episodes):
            raise UsageError(
                f"no episode fits: prompts and max_tokens ({self.params.max_tokens}) exceed the model's context of "
                f"{self.max_length} tokens; lower --max-tokens"
            )
        self.statistics = {
            "groups_sampled": float(len(groups)),
            "outcome_before_filter": sum(t.outcome for t in episodes) / len(episodes),
            "turns": sum(len(t.turns) for t in episodes) / len(episodes),
            "errors": float(len(broken)),
            "out_of_context": sum(t.stop == "length" for t in episodes) / len(episodes),
        }


def _turn_rewards(t: Trajectory) -> list[float]:
    return [sum(span.process.values()) for span in t.turns]


def _as_columns(episodes: list[Trajectory]) -> dict[str, Any]:
    """Lay out trajectories for TRL.

    An episode whose tools broke, or that never began, carries no loss; a broken one has no outcome (None).
    """
    blank = [t.stop == "error" or not t.turns for t in episodes]
    return {
        "prompt_ids": [t.prompt_ids for t in episodes],
        "completion_ids": [t.completion_ids or t.prompt_ids[-1:] for t in episodes],
        "logprobs": [t.logprobs or [0.0] for t in episodes],
        "env_mask": [[0] * max(1, len(t.mask)) if off else t.mask for t, off in zip(episodes, blank, strict=True)],
        "outcome": [None if t.stop == "error" else t.outcome for t in episodes],
        "process": [None if t.stop == "error" else sum(_turn_rewards(t)) for t in episodes],
        "turns": [
            [] if t.stop == "error" else [(s.start, s.end, sum(s.process.values())) for s in t.turns] for t in episodes
        ],
    }
