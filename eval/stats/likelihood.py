"""The base's likelihood of what the trained model found: a lower bound of base success (docs/statistics.md, 11).

Log-probabilities are sums over the tokens the policy chose, under both models, at the sampling distribution
used (temperature applied, no top-p, no top-k) and from one engine. Tokens of tools and environment cancel.
Probabilities are of whole trajectories, so a bound can be low just because the base words things differently.
"""

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from palestra.eval.stats.bounds import check_probability, lower_bound, upper_bound
from palestra.eval.stats.exact import Floats
from palestra.eval.stats.passk import FloatArray

WEAK_ESS = 20.0
"""Below this effective sample size an importance-sampled bound is weak."""


class Scored(NamedTuple):
    """Samples of one problem from one model, scored under both models; arrays of shape (n,)."""

    log_base: Floats
    """Log-probability of the trajectory under the base."""
    log_rl: Floats
    """Log-probability under the trained model."""
    correct: Sequence[bool] | npt.NDArray[np.bool_]
    """Whether the trajectory succeeded."""


class LikelihoodBound(NamedTuple):
    """What the samples of both models say about the base's success probability."""

    estimate: float
    """Mass of the correct trajectories that either model reaches; no estimate of p."""
    standard_error: float
    low: float
    """One-sided lower bound."""
    ess: float
    """Effective number of correct samples behind the estimate: (sum x)^2 / sum x^2."""

    @property
    def weak(self) -> bool:
        """Whether too few samples carry the estimate for the bound to be near the truth."""
        return self.ess < WEAK_ESS


class Bracket(NamedTuple):
    """Bounds on the base's success probability that hold together."""

    low: float
    high: float


def mis_lower_bound(base: Scored, rl: Scored, alpha: float = 0.05) -> LikelihoodBound:
    """Bound base success from below by multiple importance sampling over the samples of both models.

    With the balance heuristic (Veach and Guibas 1995),

        p_B = sum over correct samples y of either model of  pi_B(y) / (n_B pi_B(y) + n_R pi_R(y)),

    whose weights never exceed 1/n_B. It is unbiased, and yet blind to solutions that neither model sampled:
    with few effective samples it falls short of p, which is why it is a lower bound only. The bound is normal,
    estimate - z se, with the two models' samples as strata; from one half on, where a normal bound takes failures
    that were not seen for impossible, it is at most the exact one of as many effective samples (Korn and Graubard
    1998): BetaInv(alpha; ess, ess / estimate - ess + 1).

    Args:
        base: Samples of the base, at least 2.
        rl: Samples of the trained model, at least 2.
        alpha: One minus the coverage of the bound.

    Raises:
        ValueError: Fewer than 2 samples, or shapes, log-probabilities or alpha that make no sense.
    """
    check_probability("alpha", alpha)
    samples = [_checked(base), _checked(rl)]
    n_base, n_rl = (len(correct) for _, _, correct in samples)
    terms, variance = [], 0.0
    for log_base, log_rl, correct in samples:
        if len(correct) < 2:
            raise ValueError("importance sampling needs at least 2 samples of either model.")
        # A trajectory the base cannot produce adds 0; -inf - -inf is not asked for.
        reachable = correct & (log_base > -np.inf)
        mixture = np.logaddexp(math.log(n_base) + log_base[reachable], math.log(n_rl) + log_rl[reachable])
        x = np.zeros(len(correct))
        x[reachable] = np.exp(log_base[reachable] - mixture)
        terms.append(x)
        variance += len(x) * float(x.var(ddof=1))
    x = np.concatenate(terms)
    estimate, error = float(x.sum()), math.sqrt(variance)
    # Of x / max(x): the squares of tiny terms would be 0.
    relative = x / x.max() if estimate else x
    ess = float(relative.sum() ** 2 / (relative**2).sum()) if estimate else 0.0
    return LikelihoodBound(estimate, error, _low(estimate, error, ess, alpha), ess)


def _low(estimate: float, error: float, ess: float, alpha: float) -> float:
    from scipy.special import betaincinv, ndtri

    normal = estimate - float(ndtri(1 - alpha)) * error
    if estimate >= 0.5:
        normal = min(normal, float(betaincinv(ess, ess / min(1.0, estimate) - ess + 1, alpha)))
    return max(0.0, normal)


def distinct_mass(log_base: Floats, trajectories: Sequence[Hashable]) -> float:
    """Return the base's probability of a set of distinct correct trajectories: p can be no smaller.

    There is no sampling error in it.

    Args:
        log_base: Log-probability of each correct trajectory under the base, shape (n,).
        trajectories: What tells them apart, such as tuples of token ids; duplicates count once.

    Raises:
        ValueError: The lengths differ, or a log-probability exceeds 0 or is NaN.
    """
    logs = _log_probabilities(log_base)
    if len(logs) != len(trajectories):
        raise ValueError(f"{len(logs)} log-probabilities do not fit {len(trajectories)} trajectories.")
    distinct = dict(zip(trajectories, logs.tolist(), strict=True))
    if not distinct:
        return 0.0
    return min(1.0, float(np.exp(np.logaddexp.reduce(list(distinct.values())))))


def success_bracket(n: int, c: int, likelihood: tuple[Scored, Scored], alpha: float = 0.05) -> Bracket:
    """Bracket base success by sampling from both sides and by likelihood from below.

    p_B lies in [max(exact lower bound, likelihood lower bound), exact upper bound]. The larger of two lower
    bounds fails where either fails, so the levels are split: alpha/2 above, alpha/4 for each below. (With
    alpha/2 for each of the lower two, the bracket could miss in 1.5 alpha of cases.) Where the two sides contradict
    each other, both ends are the upper one.

    Args:
        n: Samples of the base, drawn apart from those in `likelihood` or the same.
        c: Successes among them.
        likelihood: Samples of the base and of the trained model as for `mis_lower_bound`.
        alpha: One minus the coverage.

    Raises:
        ValueError: As for `mis_lower_bound`, or a count is out of range.
    """
    seen = mis_lower_bound(*likelihood, alpha=alpha / 4).low
    low, high = max(float(lower_bound(n, c, alpha / 4)), seen), float(upper_bound(n, c, alpha / 2))
    return Bracket(min(low, high), high)


def novelty(log_rl_answers: Floats, log_own: Floats) -> FloatArray:
    """Return how unlikely answers are to the base, as a rank among its own samples: 0 usual, 1 unlike any.

    Args:
        log_rl_answers: Mean log-probability per token, under the base, of the trained model's correct answers to
            one problem, shape (a,).
        log_own: The same of the base's own samples of that problem, shape (n,), n >= 1.

    Returns:
        The share of the base's samples that it finds likelier, ties counting half, shape (a,).

    Raises:
        ValueError: No samples of the base's own, or a log-probability exceeds 0 or is NaN.
    """
    answers, own = _log_probabilities(log_rl_answers), np.sort(_log_probabilities(log_own))
    if not own.size:
        raise ValueError("a rank needs at least 1 sample of the base's own.")
    at_most = np.searchsorted(own, answers, side="right")
    under = np.searchsorted(own, answers, side="left")
    rank: FloatArray = 1.0 - (at_most + under) / (2 * own.size)
    return rank


def perplexity(log_probability: Floats, tokens: Sequence[int] | npt.NDArray[np.integer]) -> float:
    """Return exp(-total log-probability / total tokens) of a set of samples under one model.

    Limit-of-RLVR (arXiv 2504.13837) shows it four ways: either model's samples under either model.

    Args:
        log_probability: Of each sample, shape (n,).
        tokens: Tokens the policy chose in each sample, shape (n,).

    Raises:
        ValueError: The lengths differ, there are no tokens, or a log-probability exceeds 0 or is NaN.
    """
    logs, counts = _log_probabilities(log_probability), np.asarray(tokens)
    if logs.shape != counts.shape or counts.sum() < 1:
        raise ValueError("perplexity needs the number of tokens of each sample, at least 1 in all.")
    return float(np.exp(-logs.sum() / counts.sum()))


def sequence_kl(rl: Scored) -> tuple[float, float]:
    """Estimate KL(RL || base) per trajectory from the trained model's own samples.

    The mean of the log-ratios, and its standard error. Exact sums over the full softmax per token have less
    variance where they are available.

    Raises:
        ValueError: Fewer than 2 samples, or log-probabilities that make no sense.
    """
    log_base, log_rl, correct = _checked(rl)
    if len(correct) < 2:
        raise ValueError("an estimate with its error needs at least 2 samples.")
    ratio = log_rl - log_base
    return float(ratio.mean()), float(ratio.std(ddof=1)) / math.sqrt(len(ratio))


def _checked(samples: Scored) -> tuple[FloatArray, FloatArray, npt.NDArray[np.bool_]]:
    log_base, log_rl = _log_probabilities(samples.log_base), _log_probabilities(samples.log_rl)
    correct = np.asarray(samples.correct, dtype=bool)
    if not log_base.shape == log_rl.shape == correct.shape:
        raise ValueError("every sample needs a log-probability under either model, and whether it was correct.")
    return log_base, log_rl, correct


def _log_probabilities(values: Floats) -> FloatArray:
    logs = np.asarray(values, dtype=np.float64)
    # Written so that a NaN fails it; sums of token log-probabilities round to just over 0.
    if logs.ndim != 1 or not np.all(logs <= 1e-6):
        raise ValueError("log-probabilities must be numbers of at most 0, one per sample.")
    return logs
