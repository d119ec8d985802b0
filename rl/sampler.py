"""Groups of episodes for the trainer: TRL's `rollout_func`, free of TRL."""

import random
from collections.abc import Sequence
from typing import Any

from palestra.agents.codec import ChatCodec
from palestra.agents.engine import SamplingParams
from palestra.agents.rollout import Episode, rollout
from palestra.agents.trajectory import Trajectory
from palestra.agents.transformers_engine import TransformersEngine
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
        dynamic: Replace groups whose outcomes are all equal by groups of fresh tasks (DAPO's dynamic
            sampling, arXiv 2503.14476, equation 11), for at most 4 rounds.
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
    ) -> None:
        self.env, self.variant = env, variant
        self.codec, self.params = codec, params
        self.group_size, self.seed = group_size, seed
        self.max_length, self.dynamic = max_length, dynamic
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
            flat = [g for g, group in enumerate(groups) if len({t.outcome for t in group}) == 1]
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

    def _count(self, groups: list[list[Trajectory]]) -> None:
        episodes = [t for group in groups for t in group]
        self.statistics = {
            "groups_sampled": float(len(groups)),
            "outcome_before_filter": sum(t.outcome for t in episodes) / len(episodes),
            "turns": sum(len(t.turns) for t in episodes) / len(episodes),
            "errors": float(sum(t.stop == "error" for t in episodes)),
        }


def _as_columns(episodes: list[Trajectory]) -> dict[str, Any]:
    """Lay out trajectories for TRL; an episode whose tools broke, or that never began, carries no loss."""
    blank = [t.stop == "error" or not t.turns for t in episodes]
    return {
        "prompt_ids": [t.prompt_ids for t in episodes],
        "completion_ids": [t.completion_ids or t.prompt_ids[-1:] for t in episodes],
        "logprobs": [t.logprobs or [0.0] for t in episodes],
        "env_mask": [[0] * max(1, len(t.mask)) if off else t.mask for t, off in zip(episodes, blank, strict=True)],
        "outcome": [t.outcome for t in episodes],
        "process": [sum(t.process.values()) for t in episodes],
        "turns": [[(s.start, s.end, sum(s.process.values())) for s in t.turns] for t in episodes],
    }
