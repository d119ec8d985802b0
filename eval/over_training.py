"""Checkpoints over training: the regime of each arm, and arms against each other at equal cost and equal accuracy.

Runs are those of `palestra eval`, of the base and of checkpoints of one or more trainings, on the same problems with
the same settings. What a checkpoint cost is in its run's manifest (`training`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from palestra.envs.errors import UsageError, unknown_name
from palestra.eval.loading import LoadedRun, load_runs, samples_to_compare
from palestra.eval.stats.arms import EqualAccuracy, Regime, RegimeEvidence, equal_accuracy, equal_cost, regime
from palestra.eval.stats.intervals import Interval, ProblemBootstrap, bootstrap_difference
from palestra.eval.stats.passk import FloatArray, pass_at_k_curve

COSTS = ("tokens_sampled", "tokens_trained", "optimiser_steps", "seconds")
"""By what arms can be matched."""


@dataclass(frozen=True)
class Point:
    """One checkpoint on one variant."""

    run: str
    """Label of the run."""
    cost: dict[str, float] | None
    """What it cost; None if its run does not say so. The base costs nothing."""
    first: Interval
    """pass@1."""
    many: Interval
    """pass@K."""


@dataclass(frozen=True)
class ArmCurve:
    """One arm on one variant."""

    arm: str
    variant: str
    k: int
    """K: the greatest k of the solid part, n/2."""
    points: tuple[Point, ...]
    """The base and the checkpoints in order."""
    regime: Regime | None
    """None with a single checkpoint: there is no half way."""
    evidence: RegimeEvidence | None


@dataclass(frozen=True)
class EqualCost:
    """Two arms at equal cost on one variant."""

    first: str
    second: str
    variant: str
    cost: str
    """Which of `COSTS`."""
    at: float
    difference: Interval
    """pass@1 of the first minus that of the second."""


@dataclass(frozen=True)
class AtEqualAccuracy:
    """Two arms out of distribution, at equal accuracy in distribution."""

    first: str
    second: str
    variant: str
    """Out of distribution."""
    found: EqualAccuracy


@dataclass(frozen=True)
class OverTraining:
    """The result of `over_training`."""

    env: str
    n: int
    """Samples of each problem."""
    curves: tuple[ArmCurve, ...]
    equal_cost: tuple[EqualCost, ...]
    equal_accuracy: tuple[AtEqualAccuracy, ...]

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {
            "v": 1,
            "env": self.env,
            "n": self.n,
            "curves": [_curve_json(curve) for curve in self.curves],
            "equal_cost": [{**vars(equal), "difference": equal.difference.to_json()} for equal in self.equal_cost],
            "equal_accuracy": [
                {**vars(at), "found": {name: part.to_json() for name, part in at.found._asdict().items()}}
                for at in self.equal_accuracy
            ],
        }


def _curve_json(curve: ArmCurve) -> dict[str, Any]:
    evidence = curve.evidence
    return {
        **vars(curve),
        "points": [{**vars(p), "first": p.first.to_json(), "many": p.many.to_json()} for p in curve.points],
        "evidence": None if evidence is None else {name: x.to_json() for name, x in evidence._asdict().items()},
    }


def over_training(
    base: str | Path,
    arms: Mapping[str, Sequence[str | Path]],
    *,
    variants: Sequence[str] | None = None,
    match: str | None = "tokens_trained",
    resamples: int = 2000,
    alpha: float = 0.05,
    seed: int = 0,
) -> OverTraining:
    """Follow arms over their checkpoints.

    Args:
        base: Run of the model before training.
        arms: By name, the runs of an arm's checkpoints from the earliest to the last.
        variants: Of these only; None for all.
        match: The cost at which arms are compared, one of `COSTS`; None for no such comparison.
        resamples: Bootstrap resamples.
        alpha: One minus the coverage of each interval.
        seed: Seed of the bootstrap.

    Raises:
        UsageError: The runs cannot be compared, there is no arm, or a checkpoint's cost is not known or does not grow.
        PalestraError: A run is damaged.
    """
    if match is not None and match not in COSTS:
        raise unknown_name("cost", match, COSTS)
    if not arms or not all(arms.values()):
        raise UsageError("give at least one arm with at least one run.")
    flat = [(name, run) for name, runs in arms.items() for run in runs]
    # Labels only have to differ: runs of different arms may have folders of the same name.
    loaded = load_runs([base, *(_labelled(number, run) for number, (_, run) in enumerate(flat, 1))], variants)
    n = samples_to_compare(loaded)
    if n < 2:
        more = "evaluate at a --temperature above 0" if loaded[0].deterministic else "extend with `palestra eval -n`"
        raise UsageError(f"curves over k need at least 2 samples of every problem; {more}.")
    own = {name: [run for (arm, _), run in zip(flat, loaded[1:], strict=True) if arm == name] for name in arms}
    names = sorted(loaded[0].keys, key=lambda name: (name != "test", name))
    how = {"resamples": resamples, "alpha": alpha, "seed": seed}
    return OverTraining(
        env=loaded[0].env,
        n=n,
        curves=tuple(_curve(arm, v, [loaded[0], *runs], n, how) for v in names for arm, runs in own.items()),
        equal_cost=tuple(
            _equal_cost((a, [loaded[0], *own[a]]), (b, [loaded[0], *own[b]]), v, n, match, how)
            for v in names
            if match is not None
            for a, b in combinations(own, 2)
        ),
        equal_accuracy=tuple(
            _equal_accuracy((a, [loaded[0], *own[a]]), (b, [loaded[0], *own[b]]), v, n, how)
            for v in names
            if "test" in names and v != "test" and not v.startswith("train")
            for a, b in combinations(own, 2)
        ),
    )


def _labelled(number: int, run: str | Path) -> str:
    return f"{number}:{Path(run).name}={run}"


def _values(runs: Sequence[LoadedRun], variant: str, n: int) -> list[FloatArray]:
    """Return pass@1..n of each run, shape (m, n)."""
    problems = sorted(runs[0].keys[variant])
    return [pass_at_k_curve(n, run.successes(variant, problems, n)) for run in runs]


def _cost(run: LoadedRun) -> dict[str, float] | None:
    found = run.info.manifest.get("training")
    return {name: float(found[name]) for name in COSTS if name in found} if isinstance(found, dict) else None


def _curve(arm: str, variant: str, runs: Sequence[LoadedRun], n: int, how: dict[str, Any]) -> ArmCurve:
    values = _values(runs, variant, n)
    k = n // 2
    bootstrap = ProblemBootstrap(len(values[0]), **how)
    both = [bootstrap.curve(value[:, [0, k - 1]]) for value in values]
    costs = [dict.fromkeys(COSTS, 0.0), *(_cost(run) for run in runs[1:])]
    evidence = None
    if len(runs) > 2:
        middle = values[1 + (len(runs) - 2) // 2]
        evidence = RegimeEvidence(
            bootstrap_difference(values[-1][:, 0], values[0][:, 0], **how),
            bootstrap_difference(values[-1][:, k - 1], values[0][:, k - 1], **how),
            bootstrap_difference(values[-1][:, k - 1], middle[:, k - 1], **how),
        )
    return ArmCurve(
        arm,
        variant,
        k,
        tuple(
            Point(_name(run), cost, found.interval(0), found.interval(1))
            for run, cost, found in zip(runs, costs, both, strict=True)
        ),
        None if evidence is None else regime(evidence),
        evidence,
    )


def _name(run: LoadedRun) -> str:
    return run.info.path.resolve().name


def _equal_cost(
    first: tuple[str, Sequence[LoadedRun]],
    second: tuple[str, Sequence[LoadedRun]],
    variant: str,
    n: int,
    match: str,
    how: dict[str, Any],
) -> EqualCost:
    tables = []
    for arm, runs in (first, second):
        costs = [0.0]
        for run in runs[1:]:
            cost = (_cost(run) or {}).get(match)
            if cost is None:
                raise UsageError(
                    f"{run.info.path} does not say what its model cost in {match}; evaluate it again with this "
                    "version from a checkpoint or a finished run's folder, or leave that out with --match none."
                )
            if cost <= costs[-1]:
                raise UsageError(
                    f"the runs of arm {arm} do not grow in {match} ({_name(run)} has {cost:g} after {costs[-1]:g}); "
                    "give them from the earliest to the last, or match by something else."
                )
            costs.append(cost)
        tables.append((costs, np.stack([value[:, 0] for value in _values(runs, variant, n)], axis=1)))
    at, difference = equal_cost(tables[0], tables[1], **how)
    return EqualCost(first[0], second[0], variant, match, at, difference)


def _equal_accuracy(
    first: tuple[str, Sequence[LoadedRun]],
    second: tuple[str, Sequence[LoadedRun]],
    variant: str,
    n: int,
    how: dict[str, Any],
) -> AtEqualAccuracy:
    tables = [
        tuple(np.stack([value[:, 0] for value in _values(runs, v, n)], axis=1) for v in ("test", variant))
        for _, runs in (first, second)
    ]
    found = equal_accuracy((tables[0][0], tables[0][1]), (tables[1][0], tables[1][1]), **how)
    return AtEqualAccuracy(first[0], second[0], variant, found)
