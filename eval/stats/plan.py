"""How many problems, samples and seeds a claim needs, from a pilot's counts (docs/statistics.md, 16).

The variance of a mean difference has two parts: problems differ, which only more problems help against, and
samples are luck, which more samples help against. A pilot with 2k <= n samples tells both apart without bias.
"""

import math
from typing import NamedTuple

import numpy as np

from palestra.eval.stats.bounds import check_probability
from palestra.eval.stats.discovery import samples_needed
from palestra.eval.stats.passk import Counts, FloatArray, checked_counts, overlap_weights, pass_at_k, pass_at_k_curve

MAX_SAMPLES = 2**20
"""Where more samples than this would be needed, more problems are the answer."""
MAX_SEEDS = 1000
_ROUNDING = 1e-12
"""A variance up to this is that of equal numbers."""


class VarianceParts(NamedTuple):
    """Variance over problems of the difference in pass@k, as measured with n samples."""

    total: float
    sampling: float
    """The part that is luck of sampling."""

    @property
    def between(self) -> float:
        """The part that remains with infinitely many samples; at least 0."""
        return max(self.total - self.sampling, 0.0)


class Plan(NamedTuple):
    """What it takes to show a difference of `delta` in pass@k with the power asked for."""

    k: int
    delta: float
    parts: VarianceParts
    problems: int | None
    """Problems at the pilot's number of samples; None: the pilot shows no spread to plan from."""
    samples: int | None
    """Samples of each of the pilot's problems; None: no number of samples does, take more problems, or no spread."""
    seeds: int | None
    """Training seeds of either method; None without a spread between seeds, or beyond 1000."""
    discovery_samples: int
    """Samples without a success that show one problem out of the base's reach."""


def variance_parts(n: int, c_first: Counts, c_second: Counts, k: int) -> VarianceParts:
    """Split the variance over problems of pass@k of the first minus the second model.

    Args:
        n: Samples of every problem by either model.
        c_first: Successes of the first model, shape (m,), m >= 2.
        c_second: Successes of the second, in the same order.
        k: Attempts, 2k <= n.

    Raises:
        ValueError: A count is out of range, 2k > n, or fewer than 2 problems.
    """
    return VarianceParts(
        total=_total_variance(n, c_first, c_second, k),
        sampling=float(sampling_variance_at(n, c_first, k, n).mean() + sampling_variance_at(n, c_second, k, n).mean()),
    )


def sampling_variance_at(n: int, c: Counts, k: int, new_n: int) -> FloatArray:
    """Estimate from n samples, without bias, the variance of pass@k if it were measured with `new_n` samples.

    Two draws of k among new_n share J samples, so E[q_k^2] = E[(1-p)^{2k-J}]; each power is estimated by
    q_{2k-J} of the pilot. At new_n = n it equals `pass_at_k_variance`.

    Args:
        n: Samples of the pilot.
        c: Successes per problem, shape (m,).
        k: Attempts, 2k <= n.
        new_n: Samples planned, >= k.

    Returns:
        Variances of shape (m,).

    Raises:
        ValueError: A count is out of range, 2k > n or new_n < k.
    """
    checked_counts(n, c)
    if 2 * k > n:
        raise ValueError(f"the variance of pass@{k} needs at least {2 * k} samples of every problem, not {n}.")
    shared, weight = overlap_weights(new_n, k)
    failure = 1.0 - pass_at_k_curve(n, c)
    # max: q_{2k-J} >= q_2k, so it is >= 0 exactly and may round to -1e-17.
    variance: FloatArray = np.maximum(failure[:, 2 * k - shared - 1] @ weight - failure[:, 2 * k - 1], 0.0)
    return variance


def problems_needed(sd: float, delta: float, *, alpha: float = 0.05, power: float = 0.8) -> int:
    """Return m = ceil(((z_{1-alpha/2} + z_power) sd / delta)^2), for a mean difference delta.

    Args:
        sd: Standard deviation over problems of the paired difference.
        delta: Difference that shall be found.
        alpha: Level of the two-sided test.
        power: Chance of finding it.

    Raises:
        ValueError: sd < 0, delta <= 0, or a level outside (0, 1).
    """
    if sd < 0 or delta <= 0:
        raise ValueError(f"sd must be >= 0 and delta > 0, not {sd:g} and {delta:g}.")
    return max(2, math.ceil((_z_sum(alpha, power) * sd / delta) ** 2))


def detectable_difference(sd: float, problems: int, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Return the least difference found with the power asked for: (z_{1-alpha/2} + z_power) sd / sqrt(m).

    Raises:
        ValueError: sd < 0, fewer than 1 problem, or a level outside (0, 1).
    """
    if sd < 0 or problems < 1:
        raise ValueError("sd must be >= 0 and problems at least 1.")
    return _z_sum(alpha, power) * sd / math.sqrt(problems)


def samples_for_variance(n: int, c_first: Counts, c_second: Counts, k: int, target: float) -> int | None:
    """Return the fewest samples at which the variance over problems of the difference is at most `target`.

    Args:
        n: Samples of the pilot.
        c_first: Successes of the first model, shape (m,).
        c_second: Successes of the second.
        k: Attempts, 2k <= n.
        target: Variance wanted.

    Returns:
        A number of at least 2k, so that the variance can again be estimated, or None if none is enough.

    Raises:
        ValueError: As for `variance_parts`.
    """
    return _fewest_samples(n, (c_first, c_second), k, target - variance_parts(n, c_first, c_second, k).between)


def _fewest_samples(n: int, models: tuple[Counts, Counts], k: int, allowed: float) -> int | None:
    """Return the fewest samples, at least 2k, at which the luck of sampling varies by at most `allowed`."""

    def enough(samples: int) -> bool:
        return sum(float(sampling_variance_at(n, c, k, samples).mean()) for c in models) <= allowed

    low, high = 2 * k - 1, 2 * k
    while not enough(high):
        low, high = high, 2 * high
        if high > MAX_SAMPLES:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def seeds_needed(sd: float, delta: float, *, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """Return the fewest training seeds per method with which Welch's test finds a difference delta.

    From the noncentral t distribution with 2S-2 degrees of freedom, both methods having the same spread.

    Args:
        sd: Standard deviation between the training seeds of a method, > 0.
        delta: Difference that shall be found.
        alpha: Level of the two-sided test.
        power: Chance of finding it.

    Returns:
        S >= 2, or None beyond 1000.

    Raises:
        ValueError: sd or delta is not positive, or a level lies outside (0, 1).
    """
    if sd <= 0 or delta <= 0:
        raise ValueError("sd and delta must be > 0.")
    check_probability("alpha", alpha)
    check_probability("power", power)
    from scipy.special import nctdtr, stdtrit

    for seeds in range(2, MAX_SEEDS + 1):
        degrees = 2 * seeds - 2
        found = 1.0 - float(nctdtr(degrees, delta / sd * math.sqrt(seeds / 2), stdtrit(degrees, 1 - alpha / 2)))
        if found >= power:
            return seeds
    return None


def plan(
    n: int,
    c_first: Counts,
    c_second: Counts | None,
    *,
    k: int,
    delta: float,
    seed_sd: float | None = None,
    budget: int = 256,
    eta: float = 0.5,
    alpha: float = 0.05,
    power: float = 0.8,
) -> Plan:
    """Plan from a pilot how to show a difference of `delta` in mean pass@k.

    Args:
        n: Samples of every problem of the pilot by either model.
        c_first: Successes of the first model, shape (m,), m >= 2.
        c_second: Successes of the second, in the same order; None for a pilot of one model, which then stands for
            two with its spread over problems and nothing in common.
        k: Attempts, 2k <= n.
        delta: Difference that shall be found.
        seed_sd: Standard deviation between training seeds, where several were trained.
        budget: K of a discovery.
        eta: pass@K that the base must not exceed in a discovery.
        alpha: Level of the two-sided tests.
        power: Chance of finding the difference.

    Raises:
        ValueError: As for `variance_parts`, `problems_needed`, `seeds_needed` and `samples_needed`; delta is no
            difference of two probabilities.
    """
    if not 0.0 < delta <= 1.0:
        raise ValueError(f"delta must lie in (0, 1], not {delta:g}.")
    if c_second is None:
        parts = VarianceParts(*(2 * part for part in _one_model_parts(n, c_first, k)))
    else:
        parts = variance_parts(n, c_first, c_second, k)
    target = (delta / _z_sum(alpha, power)) ** 2 * len(c_first)
    problems = problems_needed(math.sqrt(parts.total), delta, alpha=alpha, power=power)
    samples = _fewest_samples(n, (c_first, c_first if c_second is None else c_second), k, target - parts.between)
    spread = parts.total > _ROUNDING
    return Plan(
        k=k,
        delta=delta,
        parts=parts,
        problems=problems if spread else None,
        samples=samples if spread else None,
        seeds=seeds_needed(seed_sd, delta, alpha=alpha, power=power) if seed_sd else None,
        discovery_samples=samples_needed(budget, eta, alpha),
    )


def _one_model_parts(n: int, c: Counts, k: int) -> VarianceParts:
    values = np.asarray(pass_at_k(n, c, k))
    if len(values) < 2:
        raise ValueError("a pilot needs at least 2 problems.")
    return VarianceParts(float(values.var(ddof=1)), float(sampling_variance_at(n, c, k, n).mean()))


def _total_variance(n: int, c_first: Counts, c_second: Counts, k: int) -> float:
    first, second = np.asarray(pass_at_k(n, c_first, k)), np.asarray(pass_at_k(n, c_second, k))
    if first.shape != second.shape or len(first) < 2:
        raise ValueError("a pilot needs the same problems twice, and at least 2 of them.")
    return float((first - second).var(ddof=1))


def _z_sum(alpha: float, power: float) -> float:
    check_probability("alpha", alpha)
    check_probability("power", power)
    from scipy.special import ndtri

    return float(ndtri(1 - alpha / 2) + ndtri(power))
