"""Claims about training methods: the training seed is the unit of replication (docs/statistics.md, 13).

More problems measure one trained model more finely; they do not replicate its training. Treating problems as
replicates rejects a true null in two thirds of cases at usual spreads between seeds; Welch's test over the
seeds' means keeps its level from S = 3 on.
"""

from typing import NamedTuple

import numpy as np

from palestra.eval.stats.bounds import check_probability
from palestra.eval.stats.exact import Floats
from palestra.eval.stats.intervals import MIN_CLUSTERS, Interval
from palestra.eval.stats.paired import Clusters, cluster_means
from palestra.eval.stats.passk import FloatArray

ONE_SEED = "one seed: the interval covers problems, not training"
_ROUNDING = 1e-12
"""A spread up to this is that of equal numbers."""


class SeedTest(NamedTuple):
    """A difference of two methods over training seeds."""

    interval: Interval
    """Mean of the first minus mean of the second."""
    p_value: float
    """Two-sided, of no difference."""
    degrees: float
    """Welch's degrees of freedom."""


def welch_over_seeds(first: Floats, second: Floats, *, alpha: float = 0.05) -> SeedTest:
    """Compare two methods by their seeds' means without assuming equal spreads (Welch 1947).

    Args:
        first: One value per training seed of the first method (already a mean over problems), shape (S1,), S1 >= 2.
        second: The same of the second method, shape (S2,), S2 >= 2; the seeds need not match.
        alpha: One minus the coverage.

    Raises:
        ValueError: Fewer than 2 seeds of either, a value that is not finite, or no spread between any seeds.
    """
    a, b = _seed_values(first), _seed_values(second)
    va, vb = float(a.var(ddof=1)) / len(a), float(b.var(ddof=1)) / len(b)
    if (va + vb) ** 0.5 <= _ROUNDING * max(1.0, np.abs(a).max(), np.abs(b).max()):
        raise ValueError("neither side has any spread; a test needs some.")
    degrees = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    return _t_test(float(a.mean() - b.mean()), (va + vb) ** 0.5, degrees, alpha)


def difference_in_differences(
    first_ood: Floats, first_id: Floats, second_ood: Floats, second_id: Floats, *, alpha: float = 0.05
) -> SeedTest:
    """Test whether two methods differ in what they lose out of distribution, over training seeds.

    DiD = (first - second)_OOD - (first - second)_ID, by Welch over each seed's own OOD - ID.

    Args:
        first_ood: Out-of-distribution value of each seed of the first method, shape (S1,).
        first_id: In-distribution value of the same seeds, in the same order, shape (S1,).
        second_ood: The same of the second method, shape (S2,).
        second_id: The same of the second method, shape (S2,).
        alpha: One minus the coverage.

    Raises:
        ValueError: The two values of a method's seeds do not pair up, or as for `welch_over_seeds`.
    """
    changes = []
    for ood, same in ((first_ood, first_id), (second_ood, second_id)):
        a, b = _seed_values(ood), _seed_values(same)
        if a.shape != b.shape:
            raise ValueError(f"every seed needs a value in and out of distribution, not {a.shape} and {b.shape}.")
        changes.append(a - b)
    return welch_over_seeds(changes[0], changes[1], alpha=alpha)


def difference_in_differences_one_seed(
    difference_ood: Floats,
    difference_id: Floats,
    *,
    clusters_ood: Clusters | None = None,
    clusters_id: Clusters | None = None,
    alpha: float = 0.05,
) -> SeedTest:
    """Test the same with one seed per method, over problems: it says nothing about other training seeds.

    The splits are strata, each with its own problems; within one, the two methods are paired. Print `ONE_SEED`
    beside it.

    Args:
        difference_ood: First minus second method per problem out of distribution, shape (m_ood,), m_ood >= 2.
        difference_id: The same in distribution, shape (m_id,), m_id >= 2.
        clusters_ood: One cluster label per problem; each cluster's mean then counts once.
        clusters_id: The same in distribution.
        alpha: One minus the coverage.

    Raises:
        ValueError: Fewer than 2 problems or 10 clusters, or as for `welch_over_seeds`.
    """
    units = []
    for values, clusters in ((difference_ood, clusters_ood), (difference_id, clusters_id)):
        x = np.asarray(values, dtype=np.float64)
        if clusters is not None:
            x = np.array(list(cluster_means(x, clusters).values()))
            if len(x) < MIN_CLUSTERS:
                raise ValueError(f"{len(x)} clusters are too few for an interval; report their means instead.")
        units.append(x)
    return welch_over_seeds(units[0], units[1], alpha=alpha)


def _t_test(difference: float, se: float, degrees: float, alpha: float) -> SeedTest:
    from scipy.special import stdtr, stdtrit

    check_probability("alpha", alpha)
    half = float(stdtrit(degrees, 1 - alpha / 2)) * se
    p_value = 2 * float(stdtr(degrees, -abs(difference) / se))
    return SeedTest(Interval(difference, difference - half, difference + half), p_value, degrees)


def _seed_values(values: Floats) -> FloatArray:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) < 2 or not np.all(np.isfinite(x)):
        raise ValueError("give one finite value per unit, at least 2; one seed shows no spread.")
    return x
