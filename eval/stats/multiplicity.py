"""P-values adjusted for how many were looked at: one under q is a claim at level q (docs/statistics.md, 5)."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from palestra.eval.stats.passk import FloatArray

PValues = Sequence[float] | npt.NDArray[np.floating]


def holm(p_values: PValues) -> FloatArray:
    """Adjust p-values so that the chance of any false claim is bounded (Holm 1979).

    For comparisons across tasks, splits and methods.

    Args:
        p_values: Shape (N,).

    Raises:
        ValueError: A p-value lies outside [0, 1], or the array is not one-dimensional.
    """
    p = _checked(p_values)
    order = np.argsort(p)
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return _in_order(np.minimum(steps, 1.0), order)


def benjamini_hochberg(p_values: PValues) -> FloatArray:
    """Adjust p-values so that the expected share of false claims is bounded (Benjamini and Hochberg 1995).

    For claims about single problems.

    Args:
        p_values: Shape (N,), independent or positively dependent.

    Raises:
        ValueError: A p-value lies outside [0, 1], or the array is not one-dimensional.
    """
    p = _checked(p_values)
    order = np.argsort(p)
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    return _in_order(np.minimum.accumulate(scaled[::-1])[::-1], order)


def true_claims(p_values: PValues, claimed: npt.NDArray[np.bool_], alpha: float = 0.05) -> int:
    """Return how many of the claims are true, with confidence 1 - alpha, whatever made one claim them.

    Closed testing with Simes tests (Goeman, Meijer, Krebs and Solari 2019, Biometrika 106:841). With h the size
    of the largest set of hypotheses that its Simes test keeps, it is max over u of
    1 - u + #{claimed i: h p_i <= u alpha}. Holm's count holds as well and is often 0 where all p-values are
    alike, being limited by the fewest samples a p-value can rest on.

    Args:
        p_values: Of all hypotheses tested, shape (N,), independent or positively dependent.
        claimed: Which of them are claimed to be false, shape (N,).
        alpha: One minus the confidence.

    Raises:
        ValueError: A p-value lies outside [0, 1], or the shapes differ.
    """
    p = _checked(p_values)
    if claimed.shape != p.shape:
        raise ValueError(f"claims and p-values differ in shape: {claimed.shape} and {p.shape}.")
    if not claimed.any():
        return 0
    largest_first = np.sort(p)[::-1]
    kept = 0
    for size in range(len(p), 0, -1):
        ranks = np.arange(size, 0, -1)
        if np.all(size * largest_first[:size] > ranks * alpha):
            kept = size
            break
    u = np.arange(1, int(claimed.sum()) + 1)
    counts = (kept * p[claimed] <= u[:, None] * alpha).sum(axis=1)
    return max(0, int((1 - u + counts).max()))


def _checked(p_values: PValues) -> FloatArray:
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not np.all((p >= 0) & (p <= 1)):
        raise ValueError("p-values must be one list of numbers in [0, 1].")
    return p


def _in_order(values: FloatArray, order: npt.NDArray[np.intp]) -> FloatArray:
    restored = np.empty_like(values)
    restored[order] = values
    return restored
