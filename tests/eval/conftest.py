"""Builds small run directories whose truth is known."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toyruns import SAMPLING, MakeRun, Trajectory, record, trajectory_of

from palestra.eval.store import RunStore


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Write a run with a given number of successes per variant and problem, at shuffled samples."""

    def make(
        label: str,
        successes: Mapping[str, Sequence[int]],
        n: int = 16,
        *,
        manifest: Mapping[str, Any] | None = None,
        fields: Mapping[str, Any] | None = None,
        trajectory: Trajectory = trajectory_of,
        finish: bool = True,
    ) -> Path:
        path = tmp_path / label
        content = {"env": "palestra/Toy-v0", "model": label, "sampling": SAMPLING, **(manifest or {})}
        rng = np.random.default_rng(0)
        with RunStore.create(path, content) as store:
            for variant, counts in successes.items():
                for problem, count in enumerate(counts):
                    solved = set(rng.permutation(n)[:count].tolist())
                    for sample in range(n):
                        line = record(variant, problem, sample, outcome=float(sample in solved), **(fields or {}))
                        store.append(line, trajectory(line))
            if finish:
                store.finish()
        return path

    return make
