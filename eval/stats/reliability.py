"""How dependable success is: pass^k, G-Pass@k, majority votes, Cover@tau (docs/statistics.md, 14).

All are exact functions of counts: nothing is drawn at random.
"""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from palestra.eval.stats.bounds import lower_bound
from palestra.eval.stats.passk import (
    Counts,
    FloatArray,
    IntArray,
    checked_attempts,
    checked_counts,
    pass_at_k,
    whole_numbers,
)


def pass_hat_k(n: int | Counts, c: Counts, k: int) -> FloatArray:
    """Estimate pass^k, the chance that all of k attempts succeed, without bias: C(c, k) / C(n, k).

    Yao et al. 2024 (tau-bench, arXiv 2406.12045).

    Args:
        n: Samples drawn, one number or shape (m,).
        c: Successes among them, shape (m,).
        k: Attempts, 1 <= k <= n.

    Returns:
        Probabilities of shape (m,).

    Raises:
        ValueError: A count is not whole or out of range, or k exceeds the samples of some problem.
    """
    samples, successes, attempts = checked_attempts(n, c, k)
    # All k succeed exactly when no failure is among them.
    return 1.0 - np.asarray(pass_at_k(samples, samples - successes, attempts))


def g_pass_at_k(n: int | Counts, c: Counts, k: int, tau: float) -> FloatArray:
    """Estimate G-Pass@k_tau, the chance of at least max(1, ceil(tau k)) successes in k attempts, without bias.

    Liu et al. 2024 (arXiv 2412.13147). tau = 0 gives pass@k, tau = 1 gives pass^k.

    Args:
        n: Samples drawn, one number or shape (m,).
        c: Successes among them, shape (m,).
        k: Attempts, 1 <= k <= n.
        tau: Share of the attempts that must succeed, in [0, 1].

    Returns:
        Probabilities of shape (m,).

    Raises:
        ValueError: A count is not whole or out of range, k exceeds the samples, or tau lies outside [0, 1].
    """
    samples, successes, attempts = checked_attempts(n, c, k)
    if not 0.0 <= tau <= 1.0:
        raise ValueError(f"tau must lie in [0, 1], not {tau}.")
    from scipy.stats import hypergeom

    # Not ceil(tau k): 0.07 * 100 is 7.000000000000001 in floating point, and must ask for 7 of 100.
    least = 1 + int(np.searchsorted(np.arange(1, attempts + 1) / attempts, tau))
    values: FloatArray = hypergeom.sf(least - 1, samples, successes, attempts)
    return values


def majority_at_k(counts: Counts, correct: int, k: int) -> float:
    """Estimate maj@k without bias: the chance that the most frequent of k answers is the correct one.

    The k answers are drawn without replacement from the n seen; answers tied for most frequent share the
    credit. Wang et al. 2022 (self-consistency, arXiv 2203.11171) with the draw averaged exactly.

    Given that the correct answer is drawn t times, the other answers are independent binomials conditioned
    on their sum; an answer seen fewer than t times can neither win nor tie, so all of those are one binomial.
    A tie with r others is worth 1/(r+1) = integral of y^r over [0, 1], which a Gauss rule in y gives exactly.

    Args:
        counts: How often each distinct answer was seen, shape (answers,); n is their sum.
        correct: Index of the correct answer in `counts`; give it a count of 0 where it was never seen.
        k: Votes, 1 <= k <= n.

    Raises:
        ValueError: A count is not whole or is negative, or k lies outside [1, n].
    """
    seen = whole_numbers("counts", counts)
    if seen.ndim != 1 or not 0 <= correct < len(seen) or np.any(seen < 0):
        raise ValueError("counts must be one list of whole numbers >= 0, and correct an index into it.")
    n = int(seen.sum())
    if not 1 <= k <= n:
        raise ValueError(f"k must lie in [1, {n}], not {k}.")
    from scipy.stats import binom

    votes = np.arange(k + 1)

    @cache
    def mass(count: int) -> FloatArray:
        """Return the chances of 0..k votes for an answer seen `count` times, the sum left free."""
        chances: FloatArray = binom.pmf(votes, count, k / n)
        return chances

    own, others = int(seen[correct]), np.delete(seen, correct)
    won = sum(mass(own)[t] * _no_other_ahead(others, t, k - t, mass) for t in range(1, min(own, k) + 1))
    return float(won / mass(n)[k])


def _no_other_ahead(others: IntArray, t: int, drawn: int, mass: Callable[[int], FloatArray]) -> float:
    """Return the credit of an answer drawn t times, weighted by the chance that the others sum to `drawn`."""
    rivals = others[others >= t]
    ties = min(len(rivals), drawn // t)
    nodes, weights = np.polynomial.legendre.leggauss(ties // 2 + 1)
    y = (nodes[:, None] + 1) / 2
    total = np.tile(mass(int(others[others < t].sum()))[: drawn + 1], (len(y), 1))
    for rival in rivals.tolist():
        chances = mass(rival)
        grown = np.zeros_like(total)
        for s in range(min(t, drawn) + 1):
            grown[:, s:] += chances[s] * (y if s == t else 1.0) * total[:, : drawn + 1 - s]
        total = grown
    return float(weights @ total[:, drawn]) / 2


def best_of_k(scores: Sequence[float], outcomes: Sequence[float], k: int) -> float:
    """Estimate best-of-k without bias: the chance that the highest-scored of k samples is a success.

    The k are drawn without replacement from the n at hand: the one of rank r (from 1) is the highest with chance
    C(n-r, k-1) / C(n, k). Samples of equal score share the credit.

    Args:
        scores: Of each sample, e.g. its log-probability, shape (n,).
        outcomes: 1 success, 0 failure, shape (n,).
        k: Samples to choose from, 1 <= k <= n.

    Raises:
        ValueError: The shapes differ, or k lies outside [1, n].
    """
    score, outcome = np.asarray(scores, dtype=np.float64), np.asarray(outcomes, dtype=np.float64)
    n = len(score)
    if score.shape != outcome.shape or score.ndim != 1 or not 1 <= k <= n:
        raise ValueError(f"scores and outcomes must be as many, and k lie in [1, {n}], not {k}.")
    # P(all k are of rank > r) = C(n-r, k) / C(n, k) is pass@k's q with r "successes" above.
    q = 1.0 - np.asarray(pass_at_k(n, np.arange(n + 1), k))
    first = q[:-1] - q[1:]
    _, group = np.unique(-score, return_inverse=True)
    order = np.argsort(-score, kind="stable")
    shares = np.bincount(group, outcome) / np.bincount(group)
    return float(np.clip(first @ shares[group[order]], 0.0, 1.0))


def cover_at_tau(n: int | Counts, c: Counts, tau: float, alpha: float = 0.05) -> FloatArray:
    """Tell per problem whether p >= tau is shown: whether the exact lower bound of p reaches tau.

    The mean is a conservative Cover@tau (Dragoi et al. 2025, arXiv 2510.08325), the share of problems with
    p >= tau; pass@k is a Beta(1, k)-weighted mix of it. Counting c/n >= tau instead would count lucky problems.

    Args:
        n: Samples drawn, one number or shape (m,).
        c: Successes among them, shape (m,).
        tau: The success probability asked for, in (0, 1].
        alpha: One minus the coverage of each problem's bound.

    Returns:
        1.0 or 0.0 per problem, shape (m,).

    Raises:
        ValueError: A count is not whole or out of range, or tau or alpha is no probability.
    """
    if not 0.0 < tau <= 1.0:
        raise ValueError(f"tau must lie in (0, 1], not {tau}.")
    samples, successes = checked_counts(n, c)
    return (lower_bound(samples, successes, alpha) >= tau).astype(np.float64)
