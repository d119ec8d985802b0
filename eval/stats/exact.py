"""pass@k from success probabilities that are known exactly: for every k, without samples.

An environment whose actions can be enumerated, or whose correct traces are forced, gives p = P(success) of
each problem by summing the probabilities of its correct trajectories. Then theta(k) = 1-(1-p)^k holds for
every k (docs/statistics.md, 1), no budget is too small, and only the choice of problems is left to chance:
`ProblemBootstrap.curve` of `theta_curve` gives that interval.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from palestra.eval.stats.passk import Counts, FloatArray, whole_numbers

Floats = Sequence[float] | npt.NDArray[np.floating]


def theta(p: float | Floats, k: int | Counts) -> FloatArray:
    """Return the chance of a success within k attempts, 1-(1-p)^k.

    There is no cancellation for tiny p: theta of p = 1e-12 and k = 1000 is 1e-9 to full precision.

    Args:
        p: Success probabilities.
        k: Attempts, >= 1; p and k are broadcast against each other.

    Returns:
        Probabilities of the broadcast shape.

    Raises:
        ValueError: A p lies outside [0, 1], or a k is not whole or under 1.
    """
    chance, attempts = np.asarray(p, dtype=np.float64), whole_numbers("k", k)
    if not np.all((chance >= 0) & (chance <= 1)):
        raise ValueError("p must lie in [0, 1].")
    if np.any(attempts < 1):
        raise ValueError("k must be at least 1.")
    with np.errstate(divide="ignore"):
        value: FloatArray = -np.expm1(attempts * np.log1p(-chance))
    return value


def theta_curve(p: Floats, ks: Counts) -> FloatArray:
    """Return `theta` of every problem at every k.

    Args:
        p: Success probability of each problem, shape (m,).
        ks: Attempts, shape (K,), as large as one likes.

    Returns:
        Probabilities of shape (m, K).

    Raises:
        ValueError: As for `theta`, or p or ks is not one-dimensional.
    """
    chance, attempts = np.asarray(p, dtype=np.float64), np.asarray(ks)
    if chance.ndim != 1 or attempts.ndim != 1:
        raise ValueError("p and ks must each be one list of numbers.")
    return theta(chance[:, None], attempts)


def attempts_to_reach(p: Floats, eta: float = 0.5) -> FloatArray:
    """Return the number of attempts after which theta reaches eta: log(1-eta) / log(1-p); infinite for p = 0.

    Args:
        p: Success probabilities, shape (m,).
        eta: The chance of a success asked for, in (0, 1).

    Returns:
        Attempts of shape (m,), not rounded, and at least 1.

    Raises:
        ValueError: A p lies outside [0, 1], or eta outside (0, 1).
    """
    chance = np.asarray(p, dtype=np.float64)
    if not np.all((chance >= 0) & (chance <= 1)) or not 0.0 < eta < 1.0:
        raise ValueError("p must lie in [0, 1] and eta strictly between 0 and 1.")
    with np.errstate(divide="ignore"):
        needed: FloatArray = np.maximum(np.log1p(-eta) / np.log1p(-chance), 1.0)
    return needed
