"""Lower bounds of base success that `palestra likelihood` wrote, matched to the runs of a comparison."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from palestra.envs.errors import UsageError
from palestra.eval.loading import LoadedRun
from palestra.eval.stats.passk import FloatArray


@dataclass(frozen=True)
class Reach:
    """What one such file says."""

    path: Path
    content: dict[str, Any]

    def is_of(self, base: LoadedRun, trained: LoadedRun) -> bool:
        """Tell whether it is about the models of these runs, sampled in the same way."""
        ours = base.env, base.info.manifest.get("model"), trained.info.manifest.get("model")
        theirs = tuple(self.content[name] for name in ("env", "base", "trained"))
        return ours == theirs and self.content["sampling"] == base.info.manifest["sampling"]

    def bounds(self, base: LoadedRun, variant: str, problems: Sequence[int]) -> FloatArray:
        """Return the base's least success probability of each problem, 0 where nothing is known, shape (m,).

        Raises:
            UsageError: A problem is another task there.
        """
        found: list[dict[str, Any]] = next(
            (v["problems"] for v in self.content["variants"] if v["name"] == variant), []
        )
        known = {row["problem"]: row for row in found}
        for problem in problems:
            if problem in known and known[problem]["key"] != base.keys[variant][problem]:
                raise UsageError(f"problem {problem} of {variant} is another task in {self.path}; write it again.")
        return np.array([known[p]["bound"]["low"] if p in known else 0.0 for p in problems], dtype=np.float64)


def read_reach(path: str | Path) -> Reach:
    """Read such a file.

    Raises:
        UsageError: It cannot be read, or is something else.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        for row in (row for variant in content["variants"] for row in variant["problems"]):
            if not (isinstance(row["key"], str) and 0 <= row["bound"]["low"] <= 1 and int(row["problem"]) >= 0):
                raise ValueError
        _ = [content[name] for name in ("env", "base", "trained", "sampling")]
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is not what `palestra likelihood BASE TRAINED --out FILE` writes.") from error
    return Reach(Path(path), content)


def check_used(reaches: Sequence[Reach], runs: Sequence[LoadedRun]) -> None:
    """Make sure that every file is about a pair of the runs.

    Raises:
        UsageError: One is not.
    """
    for reach in reaches:
        if not any(reach.is_of(runs[0], run) for run in runs[1:]):
            raise UsageError(
                f"{reach.path} is about other models or settings than {runs[0].info.label} and a run after it; "
                f"write it again with `palestra likelihood {runs[0].info.path} RUN --out {reach.path}`."
            )
