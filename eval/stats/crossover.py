"""Where the curves of two models cross: the k from which the trained model no longer leads (docs/statistics.md, 7)."""

import numpy as np

from palestra.eval.stats.exact import Floats
from palestra.eval.stats.intervals import CurveIntervals, Interval, ProblemBootstrap, Values
from palestra.eval.stats.passk import Counts, FloatArray

_ZERO = 1e-12
"""Differences of mean curves up to this are rounding."""


def crossover(ks: Counts, delta: Floats | FloatArray) -> FloatArray:
    """Return k*, the first k with Delta_k <= 0 after some Delta_k > 0, log-linear between the points.

    "None up to K" is a value too: infinity. Where the first model never leads, k* is 0.

    Args:
        ks: Attempts, increasing, shape (K,).
        delta: Differences of mean curves, first minus second, shape (K,) or (B, K).

    Returns:
        k* as a number, or of shape (B,).

    Raises:
        ValueError: ks is not increasing and >= 1, a value is not finite, or the shapes do not fit.
    """
    k, d = checked_grid(ks, delta)
    d = np.where(np.abs(d) <= _ZERO, 0.0, d)
    leads = d > 0
    led_before = np.logical_or.accumulate(leads, axis=-1)
    ends = led_before & ~leads
    after = ends.argmax(axis=-1)
    # The point before the first end of a lead is in the lead; without an end, any index does.
    before = np.maximum(after - 1, 0)
    upper = np.take_along_axis(d, after[..., None], -1)[..., 0]
    lower = np.take_along_axis(d, before[..., None], -1)[..., 0]
    ended = ends.any(axis=-1)
    fraction = np.where(ended, lower / np.where(ended, lower - upper, 1.0), 0.0)
    between = k[before] * (k[after] / k[before]) ** fraction
    return np.where(ended, between, np.where(led_before[..., -1], np.inf, 0.0))


def crossover_interval(bootstrap: ProblemBootstrap, ks: Counts, differences: Values) -> Interval:
    """Return k* with its percentile interval; ends of 0 and infinity mean "never led" and "none up to K".

    Quantiles are those of the inverted distribution, so that censored resamples keep their rank.

    Args:
        bootstrap: Resamples of the m problems.
        ks: Attempts, increasing, shape (K,).
        differences: pass@k of the first minus the second model, shape (m, K).

    Raises:
        ValueError: As for `crossover` and `ProblemBootstrap.resampled_means`.
    """
    stars = crossover(ks, bootstrap.resampled_means(differences))
    tails = [bootstrap.alpha / 2, 1 - bootstrap.alpha / 2]
    low, high = np.quantile(stars, tails, method="inverted_cdf")
    return Interval(float(crossover(ks, np.mean(differences, axis=0))), float(low), float(high))


def curves_cross(curve: CurveIntervals) -> bool:
    """Tell whether the curves cross beyond doubt: the band of the difference is above 0, and below 0 at a larger k.

    Two curves of the same model "cross" by chance in nearly half of all comparisons; this rule says so in 0.3 %.
    """
    led = np.logical_or.accumulate(curve.band_low > 0)
    return bool(np.any(led & (curve.band_high < 0)))


def checked_grid(ks: Counts, values: Floats | FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return ks and the values at them, shape (K,) or (B, K), as arrays.

    Raises:
        ValueError: ks is not increasing and >= 1, or the shapes do not fit.
    """
    k, y = np.asarray(ks, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if k.ndim != 1 or not k.size or k[0] < 1 or np.any(np.diff(k) <= 0):
        raise ValueError("ks must be increasing numbers >= 1.")
    if y.shape[-1:] != k.shape:
        raise ValueError(f"one value per k is needed ({len(k)}), not {y.shape}.")
    if not np.all(np.isfinite(y)):
        raise ValueError("the values at ks must be finite.")
    return k, y
