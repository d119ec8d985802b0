"""Sample records and trajectories of a toy environment, shared by the tests of this folder."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from palestra.eval.store import SampleRecord

SAMPLING = {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 256}
Trajectory = Callable[[SampleRecord], dict[str, Any]]


def record(variant: str = "test", problem: int = 0, sample: int = 0, **changes: Any) -> SampleRecord:
    fields: dict[str, Any] = {
        "env": "palestra/Toy-v0",
        "variant": variant,
        "problem": problem,
        "key": f"{variant}-{problem}",
        "sample": sample,
        "seed": 17,
        "outcome": 0.0,
        "process": {"format": 1.0},
        "turns": 2,
        "tokens_in": 30,
        "tokens_out": 12,
        "wall_s": 0.25,
        "stop": "answer",
    }
    return SampleRecord(**{**fields, **changes})


def trajectory_of(sample: SampleRecord) -> dict[str, Any]:
    return {
        "task": f"problem {sample.problem} of {sample.variant}",
        "messages": [
            {"role": "user", "content": "What is it?"},
            {"role": "assistant", "content": f"sample {sample.sample}"},
        ],
        "outcome": sample.outcome,
        "process": sample.process,
        "stop": sample.stop,
    }


class MakeRun(Protocol):
    """Writes a run and returns its folder."""

    def __call__(
        self,
        label: str,
        successes: Mapping[str, Sequence[int]],
        n: int = 16,
        *,
        manifest: Mapping[str, Any] | None = None,
        fields: Mapping[str, Any] | None = None,
        trajectory: Trajectory = trajectory_of,
        finish: bool = True,
    ) -> Path: ...
