"""Chance and verifier noise: up to which k a pass@k says anything about the model (docs/statistics.md, 8).

With enough attempts a guesser solves everything, and so does a verifier that sometimes accepts a wrong answer.
"""

import math
from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from palestra.eval.stats.bounds import upper_bound
from palestra.eval.stats.exact import Floats, theta_curve
from palestra.eval.stats.passk import Counts, FloatArray, checked_attempts, pass_at_k

MAX_CHANCE = 0.05
"""Claims stop at the k where guessing alone reaches this pass@k."""
MAX_INFLATION = 10.0
"""Claims stop at the k where the correction multiplies noise by more than this."""


def chance_curve(g: Floats, ks: Counts) -> FloatArray:
    """Return mean_i 1-(1-g_i)^k, the pass@k of a guesser: to be drawn beside every curve.

    Args:
        g: Chance rate of each problem, shape (m,).
        ks: Attempts, shape (K,).

    Returns:
        Probabilities of shape (K,).

    Raises:
        ValueError: A rate lies outside [0, 1], a k is under 1, or no problems.
    """
    rates = _rates(g)
    curve: FloatArray = theta_curve(rates, ks).mean(axis=0)
    return curve


def skill_at_k(n: int | Counts, c: Counts, g: float | Floats, k: int) -> FloatArray:
    """Estimate 1-(1-s)^k without bias, where p = g + (1-g)s: pass@k of the skill alone, 1 - q_k/(1-g)^k.

    Single values may be negative. They must not be clipped before averaging: that would bias the mean.

    Args:
        n: Samples drawn, one number or shape (m,).
        c: Successes among them, shape (m,).
        g: Chance rate, one number or shape (m,), in [0, 1).
        k: Attempts, 1 <= k <= n.

    Returns:
        Numbers of at most 1, shape (m,).

    Raises:
        ValueError: A count is out of range, or a rate lies outside [0, 1).
    """
    samples, successes, attempts = checked_attempts(n, c, k)
    rate = np.asarray(g, dtype=np.float64)
    if not np.all((rate >= 0) & (rate < 1)):
        raise ValueError("a chance rate must lie in [0, 1).")
    failure = 1.0 - np.asarray(pass_at_k(samples, successes, attempts))
    values: FloatArray = 1.0 - failure * np.exp(-attempts * np.log1p(-rate))
    return values


def chance_limit(g: Floats, k_max: int) -> int:
    """Return the greatest k <= k_max at which a claim may be made, 0 if there is none.

    There mean pass@k of a guesser is at most 0.05, and (1-g)^{-k} at most 10 for every problem.

    Args:
        g: Chance rate of each problem, shape (m,).
        k_max: Greatest k of interest, >= 0.

    Raises:
        ValueError: A rate lies outside [0, 1], or no problems.
    """
    rates = _rates(g)
    greatest = float(rates.max())
    if greatest == 0.0 or k_max < 1:
        return max(k_max, 0)
    noise_limit = 0 if greatest == 1.0 else math.floor(math.log(MAX_INFLATION) / -math.log1p(-greatest))
    ks = np.arange(1, min(k_max, noise_limit) + 1)
    return int((chance_curve(rates, ks) <= MAX_CHANCE).sum())


def valid_k(false_accepts: int, audited: int, *, accepted_share: float = 1.0, alpha: float = 0.05) -> int:
    """Return K_valid = floor(0.05 / fp), fp being the exact upper bound of the verifier's false-positive rate.

    A verifier that accepts a wrong answer with probability fp drives pass@k to 1 once k fp is near 1. With no
    error among 50 audited, fp <= 0.058 and K_valid = 0: small audits allow no claim about many attempts.

    Args:
        false_accepts: Wrong answers that were accepted, among those audited.
        audited: Answers audited by hand.
        accepted_share: 1 if the audited answers are wrong ones. Where the audit went through *accepted*
            answers, the share of all answers that the verifier accepts: fp is then the chance that a sample is
            both wrong and accepted.
        alpha: One minus the coverage of the bound.

    Raises:
        ValueError: A count is not whole or out of range, or the share lies outside (0, 1].
    """
    if not 0.0 < accepted_share <= 1.0:
        raise ValueError(f"accepted_share must lie in (0, 1], not {accepted_share}.")
    return math.floor(MAX_CHANCE / (float(upper_bound(audited, false_accepts, alpha)) * accepted_share))


def permutation_chance(
    answers: Sequence[Sequence[Hashable]] | npt.NDArray[np.generic], gold: Sequence[Hashable]
) -> FloatArray:
    """Measure each problem's chance rate: how often answers to other problems equal its own correct answer.

    It uses the model's own answers, so it knows the model's habits. The reference answers must be in the form
    the extractor gives.

    Args:
        answers: The answers to each problem, m lists.
        gold: The correct answer of each problem, shape (m,).

    Returns:
        Rates of shape (m,): the mean over the other problems of the share of their answers that match.

    Raises:
        ValueError: Fewer than 2 problems, or a problem without answers.
    """
    m = len(gold)
    if m < 2 or len(answers) != m or any(len(given) == 0 for given in answers):
        raise ValueError("a permutation needs at least 2 problems, each with a correct answer and some answers.")
    total: dict[Hashable, float] = {}
    own = np.zeros(m)
    for i, given in enumerate(answers):
        for answer in given:
            total[answer] = total.get(answer, 0.0) + 1.0 / len(given)
            own[i] += (answer == gold[i]) / len(given)
    everywhere = np.array([total.get(answer, 0.0) for answer in gold])
    # max: a difference of sums, which may round to just under 0.
    return np.maximum(everywhere - own, 0.0) / (m - 1)


def _rates(g: Floats) -> FloatArray:
    rates = np.asarray(g, dtype=np.float64)
    if rates.ndim != 1 or not rates.size or not np.all((rates >= 0) & (rates <= 1)):
        raise ValueError("chance rates must be one number in [0, 1] per problem, of at least 1 problem.")
    return rates
