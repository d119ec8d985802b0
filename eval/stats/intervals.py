"""Intervals for means over problems, whole pass@k curves, and training seeds (docs/statistics.md, 4 and 5).

Problems (or whole clusters of problems) are the only thing resampled. The samples inside a problem are
not: their noise is already in each problem's estimate, and drawing them again biases pass@k (one success
in n = k samples estimates 1, and its resamples average 1-(1-1/n)^n = 0.63).

The population estimand is meant throughout: the mean over new problems from the same generator.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from palestra.eval.stats.bounds import check_probability
from palestra.eval.stats.passk import FloatArray

MIN_CLUSTERS = 10
"""Fewer clusters than this carry no usable interval for the population."""
NEAR_CONSTANT = 0.01
"""Values this close to each other are treated as constant: resamples cannot show what was never drawn."""
FEW = 5
"""Fewer problems than this that differ from the others are too few for resamples of them."""
_BLOCK = 2**22
_KEPT = 2**25
"""Draws that are kept at most."""
_DIGITS = 12
"""Ends of intervals are rounded to so many decimals: sums that should be 0 may be -1e-17."""

Values = Sequence[float] | Sequence[Sequence[float]] | npt.NDArray[np.floating]


class Interval(NamedTuple):
    """An estimate with its two-sided interval, all three in the same unit."""

    estimate: float
    low: float
    high: float

    def excludes(self, value: float = 0.0) -> bool:
        """Tell whether `value` lies outside [low, high]."""
        return not self.low <= value <= self.high

    def to_json(self) -> dict[str, float | None]:
        """Return it as JSON values, rounded; JSON knows no infinity, which is null."""
        # + 0.0: a difference of -1e-17 is 0, not -0.
        return {name: round(x, 6) + 0.0 if math.isfinite(x) else None for name, x in self._asdict().items()}


@dataclass(frozen=True)
class CurveIntervals:
    """Means over problems at K points, each array of shape (K,), in the unit of the values."""

    estimate: FloatArray
    low: FloatArray
    """Lower end of the pointwise interval: holds at one point chosen beforehand."""
    high: FloatArray
    band_low: FloatArray
    """Lower end of the simultaneous band: holds at all K points together."""
    band_high: FloatArray
    critical: float
    """Band half-width in standard errors; 1.96 at least for alpha = 0.05."""

    def interval(self, column: int) -> Interval:
        """Return the pointwise interval at one point."""
        return Interval(float(self.estimate[column]), float(self.low[column]), float(self.high[column]))

    def band(self, column: int) -> Interval:
        """Return the simultaneous band at one point."""
        return Interval(float(self.estimate[column]), float(self.band_low[column]), float(self.band_high[column]))


class ProblemBootstrap:
    """Resamples of m problems that are the same for every series, so that series stay paired.

    Pointwise intervals are percentile intervals (Efron 1979). The band is the studentised sup-t band: with
    resample means mean*_b and standard errors se*_b,

        T_b = max_k |mean*_bk - mean_k| / se*_bk,   c = (1-alpha) quantile of T,   band = mean_k +- c se_k,

    where two pseudo-problems, one at either bound of the values, take part in every mean and se (two clusters
    of mean size where there are clusters), and c is not allowed under the normal quantile. They stand for the
    problems not drawn, as the "plus four" of Agresti and Coull 1998 does for one proportion, and are negligible
    for many problems. Without them, a resample that misses the only easy problem has se* near 0 and c explodes:
    with m = 50 sparse problems the plain band was five times as wide, and where nearly all problems are solved
    its joint coverage fell under 0.5. Adding 1/G^2 to every se^2 mends that, and covers only 0.87 to 0.90 for
    uniform p, m = 150 and k up to 64. With pseudo-problems, joint coverage was 0.93 to 1.00 in 56 simulated
    settings (7 worlds; curves and differences; m = 20, 50, 150 and 400); it is above 0.98 for differences of two
    copies of one model, where little varies.

    Where all values agree within `NEAR_CONSTANT`, resamples say nothing. There the interval is the one
    that allows for problems not seen: a share u = 1 - (alpha/2)^(1/G) of problems may lie at the bounds.
    For all-0 values this is the exact binomial interval [0, 1 - (alpha/2)^(1/m)]. Where fewer than `FEW` problems
    differ from the others, resamples say little: the pointwise interval allows for those as well, so that one
    success among many problems does not leave a narrower interval than none.

    Standard errors of clustered problems are the cluster-robust ones of a mean with the G/(G-1) factor
    (Liang and Zeger 1986), and whole clusters are resampled.
    """

    def __init__(
        self,
        problems: int,
        *,
        clusters: Sequence[object] | npt.NDArray[np.generic] | None = None,
        resamples: int = 2000,
        alpha: float = 0.05,
        seed: int = 0,
    ) -> None:
        if problems < 1:
            raise ValueError("an interval over problems needs at least 1 problem.")
        check_probability("alpha", alpha)
        if resamples < 1:
            raise ValueError(f"resamples must be at least 1, not {resamples}.")
        self.problems = problems
        self.resamples = resamples
        self.alpha = alpha
        self.seed = seed
        self._member = _membership(problems, clusters)
        self._sizes = np.bincount(self._member).astype(np.float64)
        self._kept: list[npt.NDArray[np.uint32]] | None = None

    @property
    def units(self) -> int:
        """Number of clusters, or of problems where there are none: what is resampled."""
        return len(self._sizes)

    def curve(self, values: Values, *, bounds: tuple[float, float] = (0.0, 1.0)) -> CurveIntervals:
        """Compute means, pointwise intervals and the simultaneous band over columns.

        Args:
            values: One row per problem, shape (m, K); e.g. pass@1..pass@K, or a paired difference of two.
            bounds: The least and greatest value possible: (0, 1) for pass@k, (-1, 1) for a difference.

        Raises:
            ValueError: The shape does not fit, or a value is not finite or lies outside the bounds.
        """
        x = self._checked(values, bounds)
        mean = x.mean(axis=0)
        unit = self.problems / self.units
        sums = np.vstack([self._sums(x), np.full(x.shape[1], bounds[0] * unit), np.full(x.shape[1], bounds[1] * unit)])
        sizes = np.append(self._sizes, [unit, unit])
        centre, se = (row[0] for row in clustered_mean(np.ones((1, len(sizes))), sums, sizes))
        spread = np.ptp(x, axis=0)
        constant = spread < NEAR_CONSTANT
        each = self._sums(x) / self._sizes[:, None]
        few = (np.abs(each - np.median(each, axis=0)) >= NEAR_CONSTANT).sum(axis=0) < FEW

        means = np.empty((self.resamples, x.shape[1]))
        sup = np.zeros(self.resamples)
        start = 0
        for drawn in self._weights():
            block = slice(start, start + len(drawn))
            weights = np.hstack([drawn, np.ones((len(drawn), 2))])
            centres, errors = clustered_mean(weights, sums, sizes)
            distance = np.where(constant, 0.0, np.abs(centres - centre) / errors)
            sup[block] = distance.max(axis=1)
            # The pointwise interval is of the problems drawn alone.
            count = (drawn @ self._sizes)[:, None]
            means[block] = centres + (2 * unit * centres - unit * sum(bounds)) / count
            start += len(drawn)
        low, high = np.quantile(means, [self.alpha / 2, 1 - self.alpha / 2], axis=0).round(_DIGITS) + 0.0  # no -0.0
        critical = max(float(np.quantile(sup, 1 - self.alpha)), NormalDist().inv_cdf(1 - self.alpha / 2))
        unseen_low, unseen_high = self._unseen(mean, np.where(constant, spread, 0.0), bounds)
        return CurveIntervals(
            estimate=mean,
            low=np.where(constant, unseen_low, np.where(few, np.minimum(low, unseen_low), low)),
            high=np.where(constant, unseen_high, np.where(few, np.maximum(high, unseen_high), high)),
            band_low=np.where(constant, unseen_low, np.clip(centre - critical * se, *bounds)),
            band_high=np.where(constant, unseen_high, np.clip(centre + critical * se, *bounds)),
            critical=critical,
        )

    def resampled_means(self, values: Values) -> FloatArray:
        """Return the mean over problems in every resample, shape (B, K), for statistics of means such as ratios.

        The resamples are those of `curve`; values may be any finite numbers.

        Args:
            values: One row per problem, shape (m, K).

        Raises:
            ValueError: The shape does not fit, or a value is not finite.
        """
        x = self._checked(values, (-np.inf, np.inf))
        sums = self._sums(x)
        blocks = [(weights @ sums) / (weights @ self._sizes)[:, None] for weights in self._weights()]
        return np.concatenate(blocks)

    def _sums(self, x: FloatArray) -> FloatArray:
        sums = np.zeros((self.units, x.shape[1]))
        np.add.at(sums, self._member, x)
        return sums

    def _checked(self, values: Values, bounds: tuple[float, float]) -> FloatArray:
        x = np.asarray(values, dtype=np.float64)
        if x.ndim != 2 or x.shape[0] != self.problems or x.shape[1] == 0:
            raise ValueError(f"values must have shape ({self.problems}, K) with K >= 1, not {x.shape}.")
        inside = np.isfinite(x) & (x >= bounds[0] - 1e-9) & (x <= bounds[1] + 1e-9)
        if not np.all(inside):
            raise ValueError(f"values must be finite and lie in [{bounds[0]:g}, {bounds[1]:g}].")
        return x

    def _weights(self) -> Iterator[FloatArray]:
        """Yield how often each unit is drawn, resamples in rows, in blocks that bound the memory.

        Drawing takes longer than all that is done with the draws, so they are kept for the next series (`_KEPT`).
        """
        if self._kept is not None:
            yield from (block.astype(np.float64) for block in self._kept)
            return
        kept: list[npt.NDArray[np.uint32]] = []
        rng = np.random.default_rng(self.seed)
        units, left = self.units, self.resamples
        while left:
            rows = min(left, max(1, _BLOCK // units))
            drawn = rng.integers(0, units, (rows, units)) + units * np.arange(rows)[:, None]
            block = np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units).astype(np.uint32)
            if self.resamples * units <= _KEPT:
                kept.append(block)
            yield block.astype(np.float64)
            left -= rows
        self._kept = kept or None

    def _unseen(
        self, mean: FloatArray, spread: FloatArray, bounds: tuple[float, float]
    ) -> tuple[FloatArray, FloatArray]:
        share = 1.0 - (self.alpha / 2) ** (1.0 / self.units)
        low = (1 - share) * (mean - spread) + share * bounds[0]
        high = (1 - share) * (mean + spread) + share * bounds[1]
        return np.clip(low, *bounds), np.clip(high, *bounds)


def clustered_mean(weights: FloatArray, sums: FloatArray, sizes: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Compute means over problems with cluster-robust standard errors, for many weightings at once.

    With e_i the deviation from the mean, se^2 = G/(G-1) sum_g (sum_{i in g} e_i)^2 / m^2 (Liang and Zeger
    1986); clusters of one problem give the ordinary standard error sd/sqrt(m).

    Args:
        weights: How often each cluster counts, shape (B, G); ones for the sample itself.
        sums: Sum of the values of each cluster, shape (G, K).
        sizes: Problems in each cluster, shape (G,).

    Returns:
        Means and standard errors, both of shape (B, K).
    """
    units = len(sizes)
    count = (weights @ sizes)[:, None]
    mean = (weights @ sums) / count
    squares = weights @ sums**2
    if np.all(sizes == 1):  # The general expression, with a third of the work saved.
        squares -= mean**2 * count
    else:
        squares -= 2 * mean * (weights @ (sums * sizes[:, None])) - mean**2 * (weights @ sizes**2)[:, None]
    factor = units / (units - 1) if units > 1 else 1.0
    # max: a sum of squares, which may round to just under 0.
    return mean, np.sqrt(factor * np.maximum(squares, 0.0)) / count


def _membership(problems: int, clusters: Sequence[object] | npt.NDArray[np.generic] | None) -> npt.NDArray[np.int64]:
    if clusters is None:
        return np.arange(problems)
    labels = np.asarray(clusters)
    if labels.shape != (problems,):
        raise ValueError(f"clusters must name one cluster per problem ({problems}), not {labels.shape}.")
    names, member = np.unique(labels, return_inverse=True)
    if len(names) < MIN_CLUSTERS:
        raise ValueError(
            f"{len(names)} clusters are too few for an interval (at least {MIN_CLUSTERS}); "
            "report each cluster's value instead."
        )
    return member.astype(np.int64)


def bootstrap_mean(
    values: Values,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    clusters: Sequence[object] | None = None,
    resamples: int = 2000,
    alpha: float = 0.05,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of a mean over problems.

    With fewer than about 20 problems a percentile interval is too narrow.

    Args:
        values: One value per problem, shape (m,).
        bounds: The least and greatest value possible.
        clusters: One cluster label per problem; whole clusters are then resampled.
        resamples: Bootstrap resamples.
        alpha: One minus the coverage.
        seed: Seed of the resampling; the same seed gives the same interval.

    Raises:
        ValueError: No problems, fewer than 10 clusters, or a value outside the bounds.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1:
        raise ValueError(f"values must be one number per problem, not an array of shape {x.shape}.")
    bootstrap = ProblemBootstrap(len(x), clusters=clusters, resamples=resamples, alpha=alpha, seed=seed)
    return bootstrap.curve(x[:, None], bounds=bounds).interval(0)


def bootstrap_difference(
    first: Values,
    second: Values,
    *,
    clusters: Sequence[object] | None = None,
    resamples: int = 2000,
    alpha: float = 0.05,
    seed: int = 0,
) -> Interval:
    """Paired percentile bootstrap interval of mean(first - second) over the same problems.

    Args:
        first: One value in [0, 1] per problem, shape (m,).
        second: The other side, in the same order of problems, shape (m,).
        clusters: One cluster label per problem; whole clusters are then resampled.
        resamples: Bootstrap resamples.
        alpha: One minus the coverage.
        seed: Seed of the resampling.

    Raises:
        ValueError: The two differ in shape, or as for `bootstrap_mean`.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"a paired difference needs the same problems twice, not {a.shape} and {b.shape}.")
    return bootstrap_mean(a - b, bounds=(-1.0, 1.0), clusters=clusters, resamples=resamples, alpha=alpha, seed=seed)


def t_interval_over_seeds(per_seed_values: Sequence[float], *, alpha: float = 0.05) -> Interval:
    """Student's t interval of a mean over training seeds, S-1 degrees of freedom.

    The training seed is the unit of replication for a claim about a training method: problems measure one
    trained model more finely, they do not replicate the training. Values that agree exactly give a
    zero-width interval, which says that the seeds do not differ and nothing about other seeds.

    Args:
        per_seed_values: One value per training seed (already a mean over problems), shape (S,), S >= 2.
        alpha: One minus the coverage.

    Raises:
        ValueError: Fewer than two seeds, a value that is not finite, or alpha outside (0, 1).
    """
    check_probability("alpha", alpha)
    x = np.asarray(per_seed_values, dtype=np.float64)
    if x.ndim != 1 or len(x) < 2:
        raise ValueError("an interval over training seeds needs at least 2 seeds; one seed shows no spread.")
    if not np.all(np.isfinite(x)):
        raise ValueError("every seed's value must be finite.")
    # Imported here: loading scipy.special takes half a second that most commands do not need.
    from scipy.special import stdtrit

    mean = float(x.mean())
    half = float(stdtrit(len(x) - 1, 1 - alpha / 2)) * float(x.std(ddof=1)) / len(x) ** 0.5
    return Interval(mean, mean - half, mean + half)
