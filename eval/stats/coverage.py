"""What either model solves within k attempts: both, one alone, or neither (docs/statistics.md, 10).

Counting solved problems is biased: two copies of one model each solve some that the other misses. The
expectations here need only that the two models' samples of a problem are independent, and every figure comes
with what the base model would show against a copy of itself.
"""

from typing import NamedTuple

import numpy as np

from palestra.eval.stats.intervals import Interval, ProblemBootstrap
from palestra.eval.stats.passk import Counts, FloatArray, checked_counts, pass_at_k, pass_at_k_variance


class CoverageSets(NamedTuple):
    """Per problem, the chance of each case within k attempts of either model, shape (m,); means are shares."""

    both: FloatArray
    base_only: FloatArray
    rl_only: FloatArray
    neither: FloatArray


class Coverage(NamedTuple):
    """Shares of problems at budget k with percentile intervals over problems."""

    both: Interval
    base_only: Interval
    rl_only: Interval
    neither: Interval
    aa_only: Interval
    """What the base would solve alone against a copy of itself: the share that is noise."""
    excess: Interval
    """RL only, over `aa_only`."""
    retention: Interval
    """SRR = both / (both + base only): of what the base solves, how much is kept."""
    discovery: Interval
    """NDR = RL only / (RL only + both): of what RL solves, how much is new."""
    support: Interval
    """SDS, the harmonic mean of the two."""
    net_change: Interval
    """NSCR = (RL only - base only) / (both + RL only + base only)."""


def coverage_sets(n_base: int | Counts, c_base: Counts, n_rl: int | Counts, c_rl: Counts, k: int) -> CoverageSets:
    """Estimate without bias what either model solves within k attempts.

    With b and r the pass@k of a problem: both b r, base only b (1-r), RL only (1-b) r, neither (1-b)(1-r).
    At k = n these are the counts of problems solved.

    Args:
        n_base: Samples of the base, one number or shape (m,).
        c_base: Successes among them, shape (m,).
        n_rl: Samples of the trained model, one number or shape (m,).
        c_rl: Successes among them, shape (m,), in the same order of problems.
        k: Attempts, 1 <= k <= n of either.

    Raises:
        ValueError: A count is out of range, or the shapes differ.
    """
    b, r = np.asarray(pass_at_k(n_base, c_base, k)), np.asarray(pass_at_k(n_rl, c_rl, k))
    if b.shape != r.shape or b.ndim != 1:
        raise ValueError(f"both models need the same problems, not {b.shape} and {r.shape}.")
    return CoverageSets(b * r, b * (1 - r), (1 - b) * r, (1 - b) * (1 - r))


def aa_only(n: int | Counts, c: Counts, k: int) -> FloatArray:
    """Estimate the chance that one of two copies of a model solves a problem and the other does not: q_k - q_2k.

    Args:
        n: Samples drawn, one number or shape (m,).
        c: Successes among them, shape (m,).
        k: Attempts, 2k <= n.

    Returns:
        The chance that this copy does and that one does not, shape (m,).

    Raises:
        ValueError: A count is not whole or out of range, or 2k exceeds the samples of some problem.
    """
    samples, successes = checked_counts(n, c)
    if samples.size and 2 * k > samples.min():
        raise ValueError(f"the A/A control at k={k} needs {2 * k} samples of every problem, not {samples.min()}.")
    return np.asarray(pass_at_k(samples, successes, 2 * k)) - np.asarray(pass_at_k(samples, successes, k))


def excess(
    n_base: int | Counts, c_base: Counts, n_rl: int | Counts, c_rl: Counts, k: int, *, same_seeds: bool = False
) -> FloatArray:
    """Estimate what RL alone solves beyond noise: RL only minus the base's A/A control, shape (m,).

    Its expectation is 0 for two copies of one model. Single values may be negative.

    Where both models drew sample j with the same random numbers, their estimates b and r move together, and
    (1-b) r falls short by their covariance. That is at most (v_B + v_R)/2 with v the variances of b and r, whose
    unbiased estimates are added: the result is then too large rather than too small, and 0 for two equal runs.

    Args:
        n_base: As for `coverage_sets`.
        c_base: As for `coverage_sets`.
        n_rl: As for `coverage_sets`.
        c_rl: As for `coverage_sets`.
        k: Attempts, 2k <= n of the base, and of RL too with the same seeds.
        same_seeds: Whether sample j of both models may have been drawn with the same random numbers.

    Raises:
        ValueError: As for `coverage_sets`, `aa_only` and `pass_at_k_variance`.
    """
    beyond = coverage_sets(n_base, c_base, n_rl, c_rl, k).rl_only - aa_only(n_base, c_base, k)
    if not same_seeds:
        return beyond
    return beyond + (pass_at_k_variance(n_base, c_base, k) + pass_at_k_variance(n_rl, c_rl, k)) / 2


def coverage(
    bootstrap: ProblemBootstrap,
    n_base: int | Counts,
    c_base: Counts,
    n_rl: int | Counts,
    c_rl: Counts,
    k: int,
) -> Coverage:
    """Return the shares and rates at budget k with percentile intervals; rates are ratios of means.

    A rate whose denominator is 0 in some resamples is taken over the others; it is NaN if all are.

    Args:
        bootstrap: Resamples of the m problems.
        n_base: As for `coverage_sets`.
        c_base: As for `coverage_sets`.
        n_rl: As for `coverage_sets`.
        c_rl: As for `coverage_sets`.
        k: Attempts, 2k <= n of the base.

    Raises:
        ValueError: As for `coverage_sets` and `aa_only`.
    """
    sets = coverage_sets(n_base, c_base, n_rl, c_rl, k)
    copy = aa_only(n_base, c_base, k)
    columns = np.stack([*sets, copy], axis=1)
    shares = bootstrap.curve(columns)
    beyond = bootstrap.curve((sets.rl_only - copy)[:, None], bounds=(-1.0, 1.0)).interval(0)
    estimates = _rates(columns.mean(axis=0, keepdims=True))[0]
    resampled = _rates(bootstrap.resampled_means(columns))
    tails = [bootstrap.alpha / 2, 1 - bootstrap.alpha / 2]
    retention, discovery, support, net_change = (
        Interval(float(e), *_quantiles(r, tails)) for e, r in zip(estimates, resampled.T, strict=True)
    )
    return Coverage(
        both=shares.interval(0),
        base_only=shares.interval(1),
        rl_only=shares.interval(2),
        neither=shares.interval(3),
        aa_only=shares.interval(4),
        excess=beyond,
        retention=retention,
        discovery=discovery,
        support=support,
        net_change=net_change,
    )


def _rates(means: FloatArray) -> FloatArray:
    """Return SRR, NDR, SDS and NSCR of rows of (both, base only, RL only, ...), shape (B, 4)."""
    both, base_only, rl_only = means[:, 0], means[:, 1], means[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        kept = both / (both + base_only)
        new = rl_only / (rl_only + both)
        harmonic = 2 * kept * new / (kept + new)
        net = (rl_only - base_only) / (both + rl_only + base_only)
    return np.stack([kept, new, harmonic, net], axis=1)


def _quantiles(values: FloatArray, tails: list[float]) -> tuple[float, float]:
    defined = values[np.isfinite(values)]
    if not defined.size:
        return np.nan, np.nan
    low, high = np.quantile(defined, tails)
    return float(low), float(high)
