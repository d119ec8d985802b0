"""pass@k: the chance that at least one of k independent attempts at a problem succeeds.

The estimator is the unbiased one of Chen et al. 2021 ("Evaluating Large Language Models Trained on
Code", arXiv 2107.03374, section 2.1): with c successes among n samples,

    pass@k = 1 - q_k,    q_k = C(n-c, k) / C(n, k) = prod_{j<k} (n-c-j) / (n-j).

It is never extrapolated: k <= n or a `ValueError`.
"""

import operator
from collections.abc import Sequence
from typing import overload

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Counts = Sequence[int] | npt.NDArray[np.integer]
"""Whole numbers, one per problem."""


def whole_numbers(name: str, value: object) -> IntArray:
    """Return `value` as an array of integers.

    Raises:
        ValueError: It holds anything else; the message calls it `name`.
    """
    array = np.asarray(value)
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be whole numbers, not {array.dtype}.")
    return array.astype(np.int64)


def checked_counts(n: object, c: object, *, least: int = 1) -> tuple[IntArray, IntArray]:
    """Return n and c as integer arrays of one shape.

    Raises:
        ValueError: A count is not whole, n < `least`, c does not lie in [0, n], or the shapes differ.
    """
    samples, successes = whole_numbers("n", n), whole_numbers("c", c)
    try:
        samples, successes = np.broadcast_arrays(samples, successes)
    except ValueError:
        raise ValueError(f"n and c must be of one shape, not {samples.shape} and {successes.shape}.") from None
    if np.any(samples < least):
        raise ValueError(f"n must be at least {least} sample{'s' * (least > 1)} for every problem.")
    if np.any(successes < 0) or np.any(successes > samples):
        raise ValueError("c must lie between 0 and n for every problem.")
    return samples, successes


def checked_attempts(n: object, c: object, k: int) -> tuple[IntArray, IntArray, int]:
    """Return n and c as integer arrays of one shape, and k.

    Raises:
        ValueError: As for `checked_counts`, or k is no whole number in [1, min(n)].
    """
    samples, successes = checked_counts(n, c)
    try:
        attempts = operator.index(k)
    except TypeError:
        raise ValueError(f"k must be a whole number, not {k!r}.") from None
    if attempts < 1:
        raise ValueError(f"k must be at least 1, not {attempts}.")
    if samples.size and attempts > samples.min():
        raise ValueError(f"pass@{attempts} needs at least {attempts} samples of every problem, not {samples.min()}.")
    return samples, successes, attempts


def _failure(n: IntArray, c: IntArray, k: int) -> FloatArray:
    """Return q_k, the chance that k draws without replacement hold no success."""
    q = np.ones(n.shape)
    for j in range(k):
        q *= np.maximum(n - c - j, 0) / (n - j)
    return q


@overload
def pass_at_k(n: int, c: int, k: int) -> float: ...
@overload
def pass_at_k(n: int | Counts, c: Counts, k: int) -> FloatArray: ...
def pass_at_k(n: int | Counts, c: int | Counts, k: int) -> float | FloatArray:
    """Estimate pass@k without bias (arXiv 2107.03374, equation 1).

    Args:
        n: Samples drawn, one number or one per problem, shape (m,).
        c: Successes among them, one number or shape (m,), 0 <= c <= n.
        k: Attempts allowed, 1 <= k <= n.

    Returns:
        A probability in [0, 1], or an array of them of shape (m,).

    Raises:
        ValueError: A count is not whole or out of range, or k exceeds the samples of some problem.
    """
    samples, successes, attempts = checked_attempts(n, c, k)
    value = 1.0 - _failure(samples, successes, attempts)
    return float(value) if value.ndim == 0 else value


def pass_at_k_curve(n: int, c: Counts) -> FloatArray:
    """Estimate pass@1, pass@2, ..., pass@n of every problem at once.

    Uses the recurrence q_k = q_{k-1} (n-c-k+1) / (n-k+1), q_0 = 1; each row is nondecreasing and
    concave in k, starts at c/n and ends at 1 where c > 0.

    Args:
        n: Samples drawn of each problem.
        c: Successes per problem, shape (m,), 0 <= c <= n.

    Returns:
        Probabilities of shape (m, n); column k-1 holds pass@k.

    Raises:
        ValueError: A count is not whole or out of range, or c is not one-dimensional.
    """
    successes = checked_counts(n, c)[1]
    if np.ndim(n) != 0 or successes.ndim != 1:
        raise ValueError("a curve needs one n, and c as one number per problem.")
    distinct, row = np.unique(successes, return_inverse=True)
    drawn = np.arange(n)
    factors = np.maximum(n - distinct[:, None] - drawn, 0) / (n - drawn)
    curves: FloatArray = 1.0 - np.cumprod(factors, axis=1)
    return curves[row]


@overload
def pass_at_k_variance(n: int, c: int, k: int) -> float: ...
@overload
def pass_at_k_variance(n: int | Counts, c: Counts, k: int) -> FloatArray: ...
def pass_at_k_variance(n: int | Counts, c: int | Counts, k: int) -> float | FloatArray:
    """Estimate the sampling variance of one problem's pass@k without bias: q_k^2 - q_2k.

    It follows from E[q_2k] = (1-p)^{2k} = (E[q_k])^2. It covers the luck of sampling only, not the choice
    of problems.

    Args:
        n: Samples drawn, one number or shape (m,).
        c: Successes among them, one number or shape (m,).
        k: Attempts allowed, 2k <= n: no unbiased estimate exists beyond.

    Returns:
        A variance (squared probability), >= 0, or an array of shape (m,).

    Raises:
        ValueError: A count is not whole or out of range, or 2k exceeds the samples of some problem.
    """
    samples, successes, attempts = checked_attempts(n, c, k)
    if samples.size and 2 * attempts > samples.min():
        raise ValueError(
            f"the variance of pass@{attempts} needs at least {2 * attempts} samples of every problem, "
            f"not {samples.min()}."
        )
    once = _failure(samples, successes, attempts)
    # max: the difference is >= 0 exactly and may round to -1e-17.
    value = np.maximum(once**2 - _failure(samples, successes, 2 * attempts), 0.0)
    return float(value) if value.ndim == 0 else value


def sampling_variance(p: float | FloatArray, n: int, k: int) -> FloatArray:
    """Compute the exact variance of the pass@k estimate of a problem with success probability p.

    Two draws of k among n samples share J of them, J ~ Hypergeometric(n, k, k), so that
    E[q_k^2] = E[(1-p)^{2k-J}] and Var = (1-p)^{2k} (E[(1-p)^{-J}] - 1). It equals
    sum_c Bin(c; n, p) (1-q_k(c))^2 - theta^2 (docs/statistics.md, 3).

    Args:
        p: Success probabilities, one number or shape (m,).
        n: Samples that will be drawn.
        k: Attempts, 1 <= k <= n.

    Returns:
        Variances of the shape of p.

    Raises:
        ValueError: p is no probability, or k lies outside [1, n].
    """
    chance = np.asarray(p, dtype=np.float64)
    if not np.all((chance >= 0) & (chance <= 1)):
        raise ValueError("p must lie in [0, 1].")
    shared, weight = overlap_weights(n, k)
    with np.errstate(divide="ignore"):
        log_failure = np.log1p(-chance)[..., None]
    # At p = 1 both powers are 0, as 2k - j >= k >= 1.
    values: FloatArray = (np.exp((2 * k - shared) * log_failure) - np.exp(2 * k * log_failure)) @ weight
    return values


def overlap_weights(n: int, k: int) -> tuple[IntArray, FloatArray]:
    """Return how many samples two draws of k among n share: the possible numbers, and their chances.

    Raises:
        ValueError: k lies outside [1, n].
    """
    if not 1 <= k <= n:
        raise ValueError(f"k must lie in [1, {n}], not {k}.")
    shared = np.arange(max(0, 2 * k - n), k + 1)
    before = shared[:-1]
    steps = 2 * np.log(k - before) - np.log(before + 1) - np.log(n - 2 * k + before + 1)
    log_weight = np.concatenate([[0.0], np.cumsum(steps)])
    weight = np.exp(log_weight - log_weight.max())
    return shared, weight / weight.sum()


def pass_at_k_variance_plugin(n: int, c: Counts, k: int) -> FloatArray:
    """Estimate the sampling variance of pass@k where 2k > n: `sampling_variance` at p = (c+1/2)/(n+1).

    No unbiased estimate exists there. This one is biased; whoever shows it must say so (docs/statistics.md, 3).

    Args:
        n: Samples drawn of each problem.
        c: Successes per problem, shape (m,).
        k: Attempts, 1 <= k <= n.

    Returns:
        Variances of shape (m,).

    Raises:
        ValueError: A count is not whole or out of range.
    """
    _, successes, attempts = checked_attempts(n, c, k)
    return sampling_variance((successes + 0.5) / (n + 1), n, attempts)


def fixed_benchmark_se(n: int | Counts, c: Counts, k: int) -> float:
    """Estimate the standard error of mean pass@k over these very problems: sqrt(sum v_i) / m.

    The estimand is the fixed benchmark: the luck of sampling counts, the choice of problems does not
    (docs/statistics.md, 1 and 3).

    Raises:
        ValueError: As for `pass_at_k_variance`, or no problems.
    """
    variances = np.atleast_1d(pass_at_k_variance(n, c, k))
    if not variances.size:
        raise ValueError("a mean needs at least 1 problem.")
    return float(np.sqrt(variances.sum())) / variances.size


def k_grid(k_max: int, *, per_octave: int = 8) -> IntArray:
    """Return 1, ..., k_max in whole numbers evenly spread over log k, both ends included.

    A band over this grid is a band over the curve for all purposes: pass@k is smooth in log k.

    Raises:
        ValueError: k_max or per_octave is under 1.
    """
    if k_max < 1 or per_octave < 1:
        raise ValueError("a grid needs k_max >= 1 and per_octave >= 1.")
    points = 2.0 ** (np.arange(np.ceil(np.log2(k_max) * per_octave)) / per_octave)
    return np.unique(np.concatenate([np.rint(points).astype(np.int64), [1, k_max]]))
