"""Demonstrations as training rows: the same tokens that a rollout would hold, so no second encoding exists."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from palestra.agents.codec import ChatCodec
from palestra.agents.rollout import replay
from palestra.agents.trajectory import Trajectory
from palestra.envs.core import TextEnv
from palestra.envs.errors import PalestraError

IGNORE = -100
"""Label of tokens that carry no loss."""


def training_row(trajectory: Trajectory) -> dict[str, list[int]]:
    """Return `input_ids` and `labels` of an episode; only what the model wrote carries loss."""
    labels = [i if m else IGNORE for i, m in zip(trajectory.completion_ids, trajectory.mask, strict=True)]
    return {
        "input_ids": trajectory.prompt_ids + trajectory.completion_ids,
        "labels": [IGNORE] * len(trajectory.prompt_ids) + labels,
    }


def solved(env: TextEnv, codec: ChatCodec, index: int, *, worked: bool = True) -> Trajectory:
    """Return the environment's own demonstration of a task.

    Args:
        env: The environment.
        codec: Chat to tokens.
        index: Of the task.
        worked: Whether the solution is shown turn by turn; if not, the final answer is all there is.

    Raises:
        PalestraError: The demonstration does not solve the task, so it must not be learned from.
    """
    task = env.task_at(index)
    turns = env.demonstrate(task).turns if worked else (f"<answer>{task.answer}</answer>",)
    trajectory = replay(env, codec, index, turns)
    if trajectory.outcome != 1.0:
        reason = trajectory.error or "the environment gives its own demonstration outcome 0"
        raise PalestraError(f"cannot learn from {trajectory.task}: {reason}; mend `solve` or `grade`")
    return trajectory


def shuffled(env: TextEnv, codec: ChatCodec, index: int, other: int) -> Trajectory:
    """Return the demonstration of task `other`, played at task `index`: the protocol without the skill."""
    return replay(env, codec, index, env.demonstrate(env.task_at(other)).turns)


def index_stream(seed: int) -> Iterator[int]:
    """Yield task indices, the same for every arm of a comparison that uses the same seed."""
    rng = random.Random(f"tasks|{seed}")
    while True:
        yield rng.getrandbits(48)


class PadRows:
    """Collates rows into right-padded tensors `input_ids`, `labels` and `attention_mask`, each (rows, longest)."""

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Pad a batch."""
        width = max(len(row["input_ids"]) for row in rows)

        def padded(values: list[list[int]], fill: int) -> torch.Tensor:
            return torch.tensor([v + [fill] * (width - len(v)) for v in values])

        ids = [list(row["input_ids"]) for row in rows]
        return {
            "input_ids": padded(ids, self.pad_id),
            "labels": padded([list(row["labels"]) for row in rows], IGNORE),
            "attention_mask": padded([[1] * len(v) for v in ids], 0),
        }
