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


def _whole(name: str, value: object) -> IntArray:
    array = np.asarray(value)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be whole numbers, not {array.dtype}.")
    return array.astype(np.int64)


def _checked(n: object, c: object, k: int) -> tuple[IntArray, IntArray, int]:
    samples, successes = _whole("n", n), _whole("c", c)
    try:
        attempts = operator.index(k)
    except TypeError:
        raise ValueError(f"k must be a whole number, not {k!r}.") from None
    if np.any(samples < 1):
        raise ValueError("n must be at least 1 sample for every problem.")
    if np.any(successes < 0) or np.any(successes > samples):
        raise ValueError("c must lie between 0 and n for every problem.")
    if attempts < 1:
        raise ValueError(f"k must be at least 1, not {attempts}.")
    if samples.size and attempts > samples.min():
        raise ValueError(f"pass@{attempts} needs at least {attempts} samples of every problem, not {samples.min()}.")
    return samples, successes, attempts


def _failure(n: IntArray, c: IntArray, k: int) -> FloatArray:
    """Return q_k, the chance that k draws without replacement hold no success."""
    q = np.ones(np.broadcast_shapes(n.shape, c.shape))
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
    samples, successes, attempts = _checked(n, c, k)
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
    samples, successes, _ = _checked(n, c, 1)
    if samples.ndim != 0 or successes.ndim != 1:
        raise ValueError("a curve needs one n, and c as one number per problem.")
    distinct, row = np.unique(successes, return_inverse=True)
    drawn = np.arange(int(samples))
    factors = np.maximum(samples - distinct[:, None] - drawn, 0) / (samples - drawn)
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
    samples, successes, attempts = _checked(n, c, k)
    if samples.size and 2 * attempts > samples.min():
        raise ValueError(
            f"the variance of pass@{attempts} needs at least {2 * attempts} samples of every problem, "
            f"not {samples.min()}."
        )
    once = _failure(samples, successes, attempts)
    # max: the difference is >= 0 exactly and may round to -1e-17.
    value = np.maximum(once**2 - _failure(samples, successes, 2 * attempts), 0.0)
    return float(value) if value.ndim == 0 else value
