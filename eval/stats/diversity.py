"""How many different answers and problems the samples reach, and how many they do not show (docs/statistics.md, 14).

Compare models at an equal number of samples only: every figure here grows with it.
"""

import math
from typing import NamedTuple

import numpy as np

from palestra.eval.stats.passk import Counts, IntArray, checked_counts, pass_at_k, whole_numbers


class Entropy(NamedTuple):
    """Entropy of a distribution over answers, in nats, by three estimators."""

    plugin: float
    """Of the observed shares; biased downwards, by much where answers are many."""
    miller_madow: float
    """Plug-in + (answers seen - 1) / 2n (Miller 1955)."""
    chao_shen: float
    """Coverage-adjusted (Chao and Shen 2003): the one to report."""
    enough: bool
    """False where no answer was seen twice: n is then too small for any estimate."""


def answer_entropy(counts: Counts) -> Entropy:
    """Estimate the entropy of the answers behind the counts.

    Chao-Shen: with coverage C = 1 - f1/n (f1 answers seen once) and shares p_a = C n_a/n,
    H = -sum_a p_a log p_a / (1 - (1 - p_a)^n). Where f1 = n, C would be 0; f1 = n-1 is used.

    Args:
        counts: How often each answer was seen, shape (answers,).

    Raises:
        ValueError: A count is not whole or is negative, or none is positive.
    """
    seen = _seen(counts)
    n = int(seen.sum())
    shares = seen / n
    plugin = float(-(shares * np.log(shares)).sum())
    singles = int((seen == 1).sum())
    covered = (1 - min(singles, n - 1) / n) * shares
    # One sample alone has coverage 1: log p is 0 there.
    inclusion = -np.expm1(n * np.log1p(-np.minimum(covered, 1 - 1e-16)))
    return Entropy(
        plugin=plugin,
        miller_madow=plugin + (len(seen) - 1) / (2 * n),
        chao_shen=float(-(covered * np.log(covered) / inclusion).sum()),
        enough=singles < n,
    )


def distinct_at_k(counts: Counts, k: int) -> float:
    """Estimate without bias how many different answers k samples show: sum_a pass@k(n, n_a) (rarefaction).

    Hurlbert 1971.

    Args:
        counts: How often each answer was seen, shape (answers,); n is their sum.
        k: Samples, 1 <= k <= n.

    Raises:
        ValueError: A count is not whole or is negative, or k lies outside [1, n].
    """
    seen = _seen(counts)
    return float(pass_at_k(int(seen.sum()), seen, k).sum())


def good_turing_slope(n: int, c: Counts) -> float:
    """Return what the last sample added to the share of problems solved: pass@n - pass@(n-1) = f1/(m n).

    f1 counts the problems with exactly one success. One more sample of every problem would solve about
    f1/n more problems (Good 1953).

    Args:
        n: Samples drawn of each problem.
        c: Successes per problem, shape (m,).

    Raises:
        ValueError: A count is not whole or out of range, or no problems.
    """
    successes = _problems(n, c)
    return float((successes == 1).sum()) / (len(successes) * n)


def chao2(n: int, c: Counts) -> float:
    """Bound from below how many problems have p > 0: S + (n-1)/n f1(f1-1) / (2(f2+1)) (Chao 1987, corrected).

    S problems were solved, f1 of them once, f2 twice. A bound in expectation, not an estimate.

    Args:
        n: Samples drawn of each problem.
        c: Successes per problem, shape (m,).

    Returns:
        A number of problems; it may exceed m by chance.

    Raises:
        ValueError: A count is not whole or out of range, or no problems.
    """
    successes = _problems(n, c)
    once, twice = int((successes == 1).sum()), int((successes == 2).sum())
    return int((successes > 0).sum()) + (n - 1) / n * math.comb(once, 2) / (twice + 1)


def _problems(n: int, c: Counts) -> IntArray:
    successes = checked_counts(n, c)[1]
    if np.ndim(n) != 0 or successes.ndim != 1 or not successes.size:
        raise ValueError("give one n, and c as one number per problem, of at least 1 problem.")
    return successes


def _seen(counts: Counts) -> IntArray:
    values = whole_numbers("counts", counts)
    if values.ndim != 1 or np.any(values < 0) or not np.any(values > 0):
        raise ValueError("counts must be one list of whole numbers >= 0, not all 0.")
    return values[values > 0]
