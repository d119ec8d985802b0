"""Two models on the same problems, and means of single values (docs/statistics.md, 4 and 6).

Everything here is about one number per problem, such as a difference of pass@k at a k chosen beforehand. For
whole curves, use the bands of `intervals`.
"""

from collections.abc import Sequence
from itertools import product

import numpy as np
import numpy.typing as npt

from palestra.eval.stats.bounds import check_probability
from palestra.eval.stats.exact import Floats
from palestra.eval.stats.intervals import MIN_CLUSTERS, Interval, clustered_mean
from palestra.eval.stats.passk import FloatArray

Clusters = Sequence[object] | npt.NDArray[np.generic]
MAX_EXACT_FLIPS = 14
"""Up to this many problems or clusters, all 2^G sign flips are tried."""
_BLOCK = 2**22


def t_interval(values: Floats, *, clusters: Clusters | None = None, alpha: float = 0.05) -> Interval:
    """Student's t interval of a mean over problems, cluster-robust where problems come in clusters.

    m-1 degrees of freedom, or G-1 with G clusters. It is not clipped to the range of the values.

    Args:
        values: One number per problem, shape (m,), m >= 2.
        clusters: One cluster label per problem.
        alpha: One minus the coverage.

    Raises:
        ValueError: Fewer than 2 problems or 10 clusters, a value that is not finite, or alpha outside (0, 1).
    """
    check_probability("alpha", alpha)
    x = _finite(values)
    sums, sizes = _cluster_sums(x, clusters)
    if len(sizes) < 2:
        raise ValueError("a t interval needs at least 2 problems.")
    if clusters is not None and len(sizes) < MIN_CLUSTERS:
        raise ValueError(f"{len(sizes)} clusters are too few for an interval; report `cluster_means` instead.")
    from scipy.special import stdtrit

    mean, se = (float(v.item()) for v in clustered_mean(np.ones((1, len(sizes))), sums[:, None], sizes))
    half = float(stdtrit(len(sizes) - 1, 1 - alpha / 2)) * se
    return Interval(mean, mean - half, mean + half)


def cluster_means(values: Floats, clusters: Clusters) -> dict[object, float]:
    """Return each cluster's mean: what to print where fewer than 10 clusters carry no interval.

    Raises:
        ValueError: A value is not finite, or the labels do not fit the values.
    """
    x = _finite(values)
    sums, sizes = _cluster_sums(x, clusters)
    names = np.unique(np.asarray(clusters)).tolist()
    return dict(zip(names, (sums / sizes).tolist(), strict=True))


def sign_flip_p(
    differences: Floats, *, clusters: Clusters | None = None, resamples: int = 9999, seed: int = 0
) -> float:
    """Two-sided p-value of a mean difference by flipping signs (Fisher 1935): exact for up to 14 units.

    The null is that the two models are exchangeable on every problem (on every cluster, where given).

    Args:
        differences: First minus second per problem, shape (m,).
        clusters: One cluster label per problem; whole clusters are flipped.
        resamples: Random flips where there are too many units for all of them.
        seed: Seed of the flips.

    Raises:
        ValueError: No problems, or a value that is not finite.
    """
    x = _finite(differences)
    if not x.size:
        raise ValueError("a test needs at least 1 problem.")
    sums, _ = _cluster_sums(x, clusters)
    # A flip that ties the observed sum must count as one that reaches it, in spite of rounding.
    observed = abs(float(sums.sum())) - 1e-12 * float(np.abs(sums).sum())
    units = len(sums)
    if units <= MAX_EXACT_FLIPS:
        signs = np.array(list(product((-1.0, 1.0), repeat=units)))
        return float((np.abs(signs @ sums) >= observed).mean())
    rng = np.random.default_rng(seed)
    reached, left = 0, resamples
    while left:
        rows = min(left, max(1, _BLOCK // units))
        signs = 2.0 * rng.integers(0, 2, (rows, units)) - 1.0
        reached += int((np.abs(signs @ sums) >= observed).sum())
        left -= rows
    return (reached + 1) / (resamples + 1)


def mcnemar_p(first_only: int, second_only: int) -> float:
    """Exact two-sided McNemar p-value from the problems that only one of two models solved (McNemar 1947).

    For tables of solved and unsolved problems; pass@k at k = n is such a table.

    Raises:
        ValueError: A count is negative.
    """
    if first_only < 0 or second_only < 0:
        raise ValueError("counts must be >= 0.")
    from scipy.special import bdtr

    return min(1.0, 2.0 * float(bdtr(min(first_only, second_only), first_only + second_only, 0.5)))


def variance_saved(first: Floats, second: Floats) -> float:
    """Return the share of the variance that pairing saves: 1 - var(a-b) / (var a + var b).

    Negative where the two move against each other; 0 where neither varies.

    Args:
        first: One number per problem, shape (m,), m >= 2.
        second: The other side, in the same order, shape (m,).

    Raises:
        ValueError: The shapes differ, fewer than 2 problems, or a value that is not finite.
    """
    a, b = _finite(first), _finite(second)
    if a.shape != b.shape or len(a) < 2:
        raise ValueError("pairing needs the same problems twice, and at least 2 of them.")
    unpaired = float(a.var() + b.var())
    return 1.0 - float((a - b).var()) / unpaired if unpaired else 0.0


def _finite(values: Floats) -> FloatArray:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or not np.all(np.isfinite(x)):
        raise ValueError("values must be one finite number per problem.")
    return x


def _cluster_sums(x: FloatArray, clusters: Clusters | None) -> tuple[FloatArray, FloatArray]:
    if clusters is None:
        return x, np.ones(len(x))
    labels = np.asarray(clusters)
    if labels.shape != x.shape:
        raise ValueError(f"clusters must name one cluster per problem ({len(x)}), not {labels.shape}.")
    member = np.unique(labels, return_inverse=True)[1]
    return np.bincount(member, x).astype(np.float64), np.bincount(member).astype(np.float64)
