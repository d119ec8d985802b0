"""Exact bounds on one problem's success probability, and what they say about many attempts (docs/statistics.md, 9).

Clopper and Pearson 1934, one-sided: each bound holds with probability at least 1 - alpha whatever p is.
"""

import math

import numpy as np

from palestra.eval.stats.passk import Counts, FloatArray, checked_counts


def lower_bound(n: int | Counts, c: int | Counts, alpha: float = 0.05) -> FloatArray:
    """Return the one-sided lower bound L = BetaInv(alpha; c, n-c+1) of p; 0 where c = 0.

    Args:
        n: Samples drawn, one number or shape (m,).
        c: Successes among them, one number or shape (m,).
        alpha: One minus the coverage.

    Returns:
        Probabilities of the shape of c.

    Raises:
        ValueError: A count is not whole or out of range, or alpha does not lie in (0, 1).
    """
    samples, successes = checked_counts(n, c)
    check_probability("alpha", alpha)
    # Imported here and below: loading scipy.special takes half a second that most commands do not need.
    from scipy.special import betaincinv

    inner = betaincinv(np.maximum(successes, 1), samples - successes + 1, alpha)
    return np.where(successes == 0, 0.0, inner)


def upper_bound(n: int | Counts, c: int | Counts, alpha: float = 0.05) -> FloatArray:
    """Return the one-sided upper bound U = BetaInv(1-alpha; c+1, n-c) of p; 1 where c = n.

    With c = 0 it is 1 - alpha^(1/n), about 3/n for alpha = 0.05.

    Args:
        n: Samples drawn, one number or shape (m,).
        c: Successes among them, one number or shape (m,).
        alpha: One minus the coverage.

    Returns:
        Probabilities of the shape of c.

    Raises:
        ValueError: A count is not whole or out of range, or alpha does not lie in (0, 1).
    """
    samples, successes = checked_counts(n, c)
    check_probability("alpha", alpha)
    from scipy.special import betaincinv

    inner = betaincinv(successes + 1, np.maximum(samples - successes, 1), 1 - alpha)
    return np.where(successes == samples, 1.0, inner)


def rate_within(attempts: int, eta: float) -> float:
    """Return the p at which a success within K attempts has chance eta: 1-(1-eta)^(1/K).

    Raises:
        ValueError: K < 1, or eta does not lie in (0, 1).
    """
    if attempts < 1:
        raise ValueError(f"attempts must be at least 1, not {attempts}.")
    check_probability("eta", eta)
    return -math.expm1(math.log1p(-eta) / attempts)


def unseen_rate(n: int, alpha: float = 0.05) -> float:
    """Return the p at which n samples show no success with chance alpha: 1 - alpha^(1/n), about 3/n.

    Problems with a smaller p are likely to look unsolvable.

    Raises:
        ValueError: n < 1, or alpha does not lie in (0, 1).
    """
    return rate_within(n, 1.0 - alpha)


def check_probability(name: str, value: float) -> None:
    """Refuse what does not lie strictly between 0 and 1.

    Raises:
        ValueError: The message calls the value `name`.
    """
    if not 0.0 < value < 1.0:
        raise ValueError(f"{name} must lie strictly between 0 and 1, not {value}.")
