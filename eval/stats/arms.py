"""Training over time: regimes of checkpoints, and two arms at equal cost or accuracy (docs/statistics.md, 17).

Everything is a mean over problems, so a point between two checkpoints is a mean of their per-problem values, and
problems are what is resampled. None of it says anything about other training seeds.
"""

from enum import StrEnum
from typing import NamedTuple

import numpy as np

from palestra.eval.stats.exact import Floats
from palestra.eval.stats.intervals import Interval, ProblemBootstrap, bootstrap_difference
from palestra.eval.stats.passk import FloatArray


class Regime(StrEnum):
    """What training on did to success in many tries (ProRL, arXiv 2505.24864, by intervals instead of by eye)."""

    DIMINISH = "Diminish"
    """More in one try, less in K."""
    PLATEAU = "Plateau"
    """More in one try and in K; the second half of training changed nothing in K tries."""
    SUSTAINED = "Sustained"
    """More in K tries, and still more at the end than half way."""
    UNRESOLVED = "unresolved"


class RegimeEvidence(NamedTuple):
    """What a regime rests on: paired differences."""

    first: Interval
    """Final minus base at k=1."""
    many: Interval
    """Final minus base at k=K."""
    late: Interval
    """Final minus middle checkpoint at k=K."""


def regime(evidence: RegimeEvidence, margin: float = 0.05) -> Regime:
    """Name the regime.

    ProRL's figures were sorted by eye. Here every part must be shown by its interval; and an interval of the late
    change that merely contains 0, as any does with few problems, is no plateau: it must lie within the margin.

    Args:
        evidence: The differences.
        margin: A smaller change in pass@K counts as none.
    """
    first, many, late = evidence
    if first.low > 0 and many.high < 0:
        return Regime.DIMINISH
    if many.low > 0 and late.low > 0:
        return Regime.SUSTAINED
    if first.low > 0 and many.low > 0 and -margin < late.low and late.high < margin:
        return Regime.PLATEAU
    return Regime.UNRESOLVED


def at_cost(costs: Floats, values: FloatArray, cost: float) -> FloatArray:
    """Return each problem's value at a cost, linear between checkpoints.

    Args:
        costs: Of the checkpoints, increasing, shape (J,); the base, which cost nothing, is one of them.
        values: Per problem and checkpoint, shape (m, J).
        cost: Between the least and the greatest.

    Raises:
        ValueError: The costs do not increase, or the cost lies outside them.
    """
    x = np.asarray(costs, dtype=np.float64)
    if x.ndim != 1 or len(x) < 2 or np.any(np.diff(x) <= 0):
        raise ValueError("costs must increase from checkpoint to checkpoint.")
    if not x[0] <= cost <= x[-1]:
        raise ValueError(f"a cost of {cost:g} lies outside the checkpoints' {x[0]:g} to {x[-1]:g}.")
    right = int(np.clip(np.searchsorted(x, cost), 1, len(x) - 1))
    share = (cost - x[right - 1]) / (x[right] - x[right - 1])
    point: FloatArray = (1 - share) * values[:, right - 1] + share * values[:, right]
    return point


def equal_cost(
    first: tuple[Floats, FloatArray],
    second: tuple[Floats, FloatArray],
    *,
    resamples: int = 2000,
    alpha: float = 0.05,
    seed: int = 0,
) -> tuple[float, Interval]:
    """Compare two arms at the greatest cost that both reached.

    Args:
        first: Costs and per-problem values of an arm's checkpoints, as for `at_cost`.
        second: The same of the other arm, on the same problems.
        resamples: Bootstrap resamples.
        alpha: One minus the coverage.
        seed: Seed of the bootstrap.

    Returns:
        That cost, and first minus second with its paired interval over problems.

    Raises:
        ValueError: As for `at_cost`.
    """
    cost = min(float(np.max(np.asarray(costs))) for costs, _ in (first, second))
    values = [at_cost(costs, table, cost) for costs, table in (first, second)]
    return cost, bootstrap_difference(*values, resamples=resamples, alpha=alpha, seed=seed)


class EqualAccuracy(NamedTuple):
    """Two arms at equal in-distribution accuracy."""

    accuracy: Interval
    """The greatest that both reached."""
    first: Interval
    """Out-of-distribution accuracy of the first arm where it got there."""
    second: Interval
    difference: Interval
    """First minus second."""


def equal_accuracy(
    first: tuple[FloatArray, FloatArray],
    second: tuple[FloatArray, FloatArray],
    *,
    resamples: int = 2000,
    alpha: float = 0.05,
    seed: int = 0,
) -> EqualAccuracy:
    """Compare what two arms do out of distribution where they are equally good in distribution.

    Each arm is the polygon of its checkpoints in the plane of both accuracies, and is read where it first reaches the
    greatest in-distribution accuracy that both reach. Both splits' problems are resampled, the arms paired.

    Args:
        first: Per problem and checkpoint, the base being the first: in distribution (m, J), out of it (m', J).
        second: The same of the other arm, with its own J and the same problems.
        resamples: Bootstrap resamples.
        alpha: One minus the coverage.
        seed: Seed of the bootstrap.
    """
    inside = ProblemBootstrap(len(first[0]), resamples=resamples, seed=seed)
    outside = ProblemBootstrap(len(first[1]), resamples=resamples, seed=seed + 1)
    paths = []
    for values in (first, second):
        x = np.vstack([values[0].mean(axis=0), inside.resampled_means(values[0])])
        y = np.vstack([values[1].mean(axis=0), outside.resampled_means(values[1])])
        paths.append((x, y))
    target = np.minimum(paths[0][0].max(axis=1), paths[1][0].max(axis=1))
    reached = [_first_reach(x, y, target) for x, y in paths]
    return EqualAccuracy(
        *(_interval(column, alpha) for column in (target, reached[0], reached[1], reached[0] - reached[1]))
    )


def _first_reach(x: FloatArray, y: FloatArray, target: FloatArray) -> FloatArray:
    """Return y where each path, a row, first reaches x = target, linear between its points."""
    there = x >= target[:, None] - 1e-12
    right = there.argmax(axis=1)
    left = np.maximum(right - 1, 0)
    rows = np.arange(len(x))
    step = x[rows, right] - x[rows, left]
    share = np.where(step > 0, (target - x[rows, left]) / np.where(step > 0, step, 1.0), 1.0)
    found: FloatArray = (1 - share) * y[rows, left] + share * y[rows, right]
    return found


def _interval(column: FloatArray, alpha: float) -> Interval:
    """Return the first entry with the percentile interval of the others."""
    low, high = np.quantile(column[1:], [alpha / 2, 1 - alpha / 2])
    return Interval(float(column[0]), float(low), float(high))
