"""pass@k beyond the samples drawn, by a model of how hard problems are (docs/statistics.md, 14).

An extrapolation is only as good as its model, and no data up to n can tell: draw it dashed, call it
model-based, and never let a verdict use it.
"""

from typing import NamedTuple

import numpy as np

from palestra.eval.stats.passk import Counts, FloatArray, checked_counts


class BetaBinomial(NamedTuple):
    """Problems whose p is Beta(a, b), but for a share that is never solved."""

    a: float
    b: float
    zero_share: float = 0.0


def beta_binomial_pass_at_k(model: BetaBinomial, k: Counts) -> FloatArray:
    """Return mean pass@K under the model: (1 - zero_share) (1 - B(a, b+K) / B(a, b)).

    Args:
        model: The distribution of p.
        k: Attempts, any number of them, shape (K,).

    Returns:
        Probabilities of shape (K,).

    Raises:
        ValueError: a or b is not positive, or the share lies outside [0, 1].
    """
    if model.a <= 0 or model.b <= 0 or not 0 <= model.zero_share <= 1:
        raise ValueError(f"{model} is no distribution.")
    from scipy.special import betaln

    failure = np.exp(betaln(model.a, model.b + np.asarray(k, dtype=np.float64)) - betaln(model.a, model.b))
    value: FloatArray = (1.0 - model.zero_share) * (1.0 - failure)
    return value


def fit_beta_binomial(n: int | Counts, c: Counts, *, zero_inflated: bool = False) -> BetaBinomial:
    """Fit the distribution of p over problems by maximum likelihood.

    Args:
        n: Samples drawn, one number or shape (m,).
        c: Successes per problem, shape (m,), not all 0 and not all n: such data fit no distribution.
        zero_inflated: Allow a share of problems that are never solved.

    Raises:
        ValueError: A count is not whole or out of range, or all are 0 or n.
    """
    samples, successes = checked_counts(n, c)
    if np.all(successes == 0) or np.all(successes == samples):
        raise ValueError("all problems failed always, or succeeded always: no distribution can be fitted.")
    from scipy.optimize import minimize
    from scipy.special import betaln, expit, log_expit

    def negative_log_likelihood(x: FloatArray) -> float:
        a, b = np.exp(x[:2])
        log_chance = betaln(a + successes, b + samples - successes) - betaln(a, b)
        if zero_inflated:
            # In logarithms throughout: the chance of one order of thousands of samples is no positive float.
            unsolved = np.where(successes == 0, log_expit(x[2]), -np.inf)
            log_chance = np.logaddexp(unsolved, log_expit(-x[2]) + log_chance)
        return -float(log_chance.sum())

    start = np.zeros(3 if zero_inflated else 2)
    bounds = [(-7.0, 9.0), (-7.0, 9.0), (-12.0, 12.0)][: len(start)]
    found = minimize(negative_log_likelihood, start, method="L-BFGS-B", bounds=bounds).x
    return BetaBinomial(
        float(np.exp(found[0])), float(np.exp(found[1])), float(expit(found[2])) if zero_inflated else 0.0
    )
