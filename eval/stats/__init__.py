"""Statistics of the instrument: pure functions of arrays, on numpy (scipy where a quantile needs it).

One model: `passk`, `intervals`, `bounds`, `reliability`, `diversity`, `chance`, `exact`, `extrapolation`. Two
models: `paired`, `crossover`, `coverage`, `efficiency`, `likelihood`. Claims: `discovery` and `problems` (single
problems), `multiplicity`, `parts` and `verdict` (labels), `seeds` (training methods), `plan` (what a claim needs).
"""

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
