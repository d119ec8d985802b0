"""Statistics of the instrument: pure functions of arrays, on numpy (scipy where a quantile needs it)."""

from palestra.eval.stats.intervals import (
    CurveIntervals,
    Interval,
    ProblemBootstrap,
    bootstrap_difference,
    bootstrap_mean,
    t_interval_over_seeds,
)
from palestra.eval.stats.passk import pass_at_k, pass_at_k_curve, pass_at_k_variance

__all__ = [
    "CurveIntervals",
    "Interval",
    "ProblemBootstrap",
    "bootstrap_difference",
    "bootstrap_mean",
    "pass_at_k",
    "pass_at_k_curve",
    "pass_at_k_variance",
    "t_interval_over_seeds",
]
