"""What training saves at test time, in attempts of the base model (docs/statistics.md, 14).

RL often changes the length of answers: divide each figure by tokens per attempt to compare at equal cost.
"""

from typing import NamedTuple

import numpy as np

from palestra.eval.stats.crossover import checked_grid
from palestra.eval.stats.exact import Floats
from palestra.eval.stats.intervals import Interval, ProblemBootstrap, Values
from palestra.eval.stats.passk import Counts, FloatArray


class Efficiency(NamedTuple):
    """Figures of one comparison, each with a percentile interval over problems."""

    gap: Interval
    """pass@K of the base minus pass@1 of the trained model: what sampling could still reach (Delta_SE)."""
    k_eq: Interval
    """Attempts with which the base equals the trained model's pass@k; infinity: more than K."""
    tries_base: Interval
    """Mean attempts of the base up to its first success, at most K."""
    tries_trained: Interval
    """The same of the trained model."""


def k_eq(ks: Counts, base: Floats | FloatArray, target: float | FloatArray) -> FloatArray:
    """Return the attempts at which the base curve reaches a value, log-linear between the points.

    At most ks[0] where the base starts above the target (ks[0] is returned), infinity where it ends below.

    Args:
        ks: Attempts, increasing, shape (K,).
        base: Mean pass@k of the base, nondecreasing, shape (K,) or (B, K).
        target: pass@k of the other model, a number or shape (B,).

    Returns:
        Attempts as a number, or of shape (B,).

    Raises:
        ValueError: ks is not increasing and >= 1, or the shapes do not fit.
    """
    k, curve = checked_grid(ks, base)
    goal = np.asarray(target, dtype=np.float64)
    reached = curve >= goal[..., None]
    after = reached.argmax(axis=-1)
    before = np.maximum(after - 1, 0)
    high = np.take_along_axis(curve, after[..., None], -1)[..., 0]
    low = np.take_along_axis(curve, before[..., None], -1)[..., 0]
    inside = after > 0
    fraction = np.where(inside, (goal - low) / np.where(inside, high - low, 1.0), 0.0)
    between = k[before] * (k[after] / k[before]) ** fraction
    return np.where(reached.any(axis=-1), between, np.inf)


def efficiency(bootstrap: ProblemBootstrap, base: Values, trained: Values, *, k: int = 1) -> Efficiency:
    """Return the efficiency figures of a comparison.

    Args:
        bootstrap: Resamples of the m problems.
        base: pass@1..pass@K of the base per problem, shape (m, K).
        trained: The same of the trained model.
        k: Attempts of the trained model whose pass@k the base has to equal.

    Raises:
        ValueError: The shapes differ or do not fit the bootstrap, or k lies outside [1, K].
    """
    first, second = np.asarray(base, dtype=np.float64), np.asarray(trained, dtype=np.float64)
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(f"both curves must have one shape (m, K), not {first.shape} and {second.shape}.")
    if not 1 <= k <= first.shape[1]:
        raise ValueError(f"k must lie in [1, {first.shape[1]}], not {k}.")
    ks = np.arange(1, first.shape[1] + 1)
    tries = np.stack([restricted_tries(first), restricted_tries(second)], axis=1)
    at_once = np.column_stack([tries, first[:, -1] - second[:, 0], second[:, k - 1]])
    means = bootstrap.resampled_means(at_once)
    equal = k_eq(ks, bootstrap.resampled_means(first), means[:, 3])
    estimate = at_once.mean(axis=0)
    return Efficiency(
        gap=_interval(estimate[2], means[:, 2], bootstrap.alpha),
        k_eq=_interval(float(k_eq(ks, first.mean(axis=0), estimate[3])), equal, bootstrap.alpha),
        tries_base=_interval(estimate[0], means[:, 0], bootstrap.alpha),
        tries_trained=_interval(estimate[1], means[:, 1], bootstrap.alpha),
    )


def restricted_tries(curve: Values) -> FloatArray:
    """Return each problem's mean attempts up to its first success, at most K: sum_{j<K} (1 - pass@j), pass@0 = 0.

    Unbiased, being linear in unbiased estimates.

    Args:
        curve: pass@1..pass@K per problem, shape (m, K).

    Returns:
        Attempts in [1, K], shape (m,).

    Raises:
        ValueError: The shape does not fit.
    """
    values = np.asarray(curve, dtype=np.float64)
    if values.ndim != 2 or not values.shape[1]:
        raise ValueError(f"curve must have shape (m, K), not {values.shape}.")
    tries: FloatArray = 1.0 + (1.0 - values[:, :-1]).sum(axis=1)
    return tries


def _interval(estimate: float, resampled: FloatArray, alpha: float) -> Interval:
    low, high = np.quantile(resampled, [alpha / 2, 1 - alpha / 2], method="inverted_cdf")
    return Interval(float(estimate), float(low), float(high))
