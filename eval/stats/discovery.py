"""Which problems one model solves that another cannot: screening, then fresh samples (docs/statistics.md, 9).

"0 of 64, so it cannot" proves no more than pass@64 <= 0.95. A problem is *discovered* at budget K if

    pass@K of the weak model <= eta    and    p of the strong model >= delta,

both shown. Problems picked because the weak model failed are picked partly for its bad luck, so the weak
side is tested on samples drawn afterwards, for the candidates only. The strong side is tested on the samples
at hand, over all problems, because those pick the candidates too. False claims are held at a share q on
either side by Benjamini and Hochberg.

Each problem's own 95 % bound on the strong side would not do. Simulated with 500 problems of p = 0 (weak) and
0.045 (strong), delta = 0.05 and n = 256, that claims 6 discoveries a run, all false, and some in every run; the
rule here claims none. It costs power near delta alone: of problems with p = 0.1 it finds 0.56 instead of 0.90, of
p = 0.15 and more 0.99 (`tests/eval/test_stats_worlds.py`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from palestra.eval.stats.bounds import check_probability, rate_within
from palestra.eval.stats.exact import Floats
from palestra.eval.stats.multiplicity import benjamini_hochberg, true_claims
from palestra.eval.stats.passk import Counts, FloatArray, IntArray, checked_counts, whole_numbers

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class DiscoveryRule:
    """What a discovery is."""

    budget: int = 256
    """K: attempts within which the weak model must fail."""
    eta: float = 0.5
    """pass@K that the weak model must not exceed."""
    delta: float = 0.05
    """Success probability that the strong model must reach."""
    q: float = 0.05
    """Expected share of false claims allowed."""

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise ValueError(f"budget must be at least 1, not {self.budget}.")
        for name in ("eta", "delta", "q"):
            check_probability(name, getattr(self, name))

    @property
    def weak_limit(self) -> float:
        """The p at which pass@K is eta."""
        return rate_within(self.budget, self.eta)


class Fresh(NamedTuple):
    """Samples drawn for the candidates after they were chosen."""

    n: Counts
    """Samples per problem, shape (m,); 0 where none were drawn."""
    c: Counts
    """Successes among them, shape (m,)."""


@dataclass(frozen=True)
class Discoveries:
    """The outcome of the test, arrays of shape (m,)."""

    candidates: BoolArray
    """Problems worth fresh samples."""
    p_values: FloatArray
    """Of the weak model's p >= its limit, 1 where no fresh samples were drawn."""
    confirmed: BoolArray
    """Discovered, at a false share of q."""
    at_least: int
    """With confidence 1-q, the weak side is right for no fewer of the confirmed."""


def samples_needed(budget: int, eta: float, alpha: float = 0.05) -> int:
    """Return how many samples without a success show pass@K <= eta: n >= K ln(alpha) / ln(1-eta).

    Raises:
        ValueError: The budget is under 1, or eta or alpha does not lie in (0, 1).
    """
    if budget < 1:
        raise ValueError(f"budget must be at least 1, not {budget}.")
    check_probability("eta", eta)
    check_probability("alpha", alpha)
    return math.ceil(budget * math.log(alpha) / math.log1p(-eta))


def failure_p_values(n: Counts, c: Counts, rule: DiscoveryRule) -> FloatArray:
    """Return p-values of "p >= the rule's limit": P(X <= c) for X ~ Bin(n, limit).

    Args:
        n: Samples drawn, shape (m,); 0 gives 1.
        c: Successes among them, shape (m,).
        rule: What a discovery is.

    Raises:
        ValueError: A count is not whole or out of range.
    """
    samples, successes = checked_counts(n, c, least=0)
    from scipy.special import bdtr

    values: FloatArray = bdtr(successes.astype(np.float64), samples, rule.weak_limit)
    return values


def success_p_values(n: Counts, c: Counts, rule: DiscoveryRule, chance: float | Floats = 0.0) -> FloatArray:
    """Return p-values of "p <= max(delta, chance)": P(X >= c) for X binomial at that rate.

    Args:
        n: Samples drawn, shape (m,).
        c: Successes among them, shape (m,).
        rule: What a discovery is.
        chance: Success rate of guessing, one number or shape (m,): a guesser makes no discovery.

    Raises:
        ValueError: A count is not whole or out of range, or a rate lies outside [0, 1].
    """
    samples, successes = checked_counts(n, c)
    rate = np.maximum(np.asarray(chance, dtype=np.float64), rule.delta)
    if not np.all(rate <= 1):
        raise ValueError("a chance rate must lie in [0, 1].")
    from scipy.special import betainc

    reached = betainc(np.maximum(successes, 1), samples - successes + 1, rate)
    return np.where(successes == 0, 1.0, reached)


def candidates(
    weak: tuple[int | Counts, Counts],
    strong: tuple[int | Counts, Counts],
    rule: DiscoveryRule,
    *,
    chance: float | Floats = 0.0,
) -> BoolArray:
    """Tell which problems are worth fresh samples of the weak model.

    Its success rate so far must allow a confirmation (c/n at most the rule's limit), and the strong model's
    p > delta must be significant over all problems.

    Args:
        weak: Samples n and successes c of the model that should fail, shape (m,) or one n.
        strong: The same of the model that should succeed, in the same order of problems.
        rule: What a discovery is.
        chance: Success rate of guessing, one number or shape (m,).

    Returns:
        Shape (m,). For losses, swap the models.

    Raises:
        ValueError: A count is not whole or out of range, or the shapes differ.
    """
    n_weak, c_weak = checked_counts(*weak)
    n_strong, c_strong = checked_counts(*strong)
    if c_weak.shape != c_strong.shape or c_weak.ndim != 1:
        raise ValueError(f"both models need the same problems, not {c_weak.shape} and {c_strong.shape}.")
    shown = benjamini_hochberg(success_p_values(n_strong, c_strong, rule, chance)) <= rule.q
    return shown & (c_weak <= rule.weak_limit * n_weak)


def confirm(
    candidate: BoolArray,
    fresh: Fresh | None,
    rule: DiscoveryRule,
    *,
    controls: Sequence[Fresh] = (),
) -> Discoveries:
    """Test the candidates on fresh samples.

    Args:
        candidate: What `candidates` returned, shape (m,).
        fresh: Fresh samples of the weak model; None or zeros where none were drawn, which confirms nothing.
        rule: What a discovery is.
        controls: Fresh samples of other models that must fail too, such as the weak model with the answer
            format shown to it. The least favourable model counts (intersection-union test).

    Raises:
        ValueError: A count is not whole or out of range, or the shapes differ.
    """
    candidate = np.asarray(candidate, dtype=bool)
    p = np.ones(len(candidate))
    drawn = np.zeros(len(candidate), dtype=bool)
    if fresh is not None:
        tested = [_tested(samples, len(candidate)) for samples in (fresh, *controls)]
        drawn = candidate & np.all([n > 0 for n, _ in tested], axis=0)
        p[drawn] = np.max([failure_p_values(n, c, rule) for n, c in tested], axis=0)[drawn]
    confirmed = np.zeros(len(candidate), dtype=bool)
    confirmed[drawn] = benjamini_hochberg(p[drawn]) <= rule.q
    return Discoveries(candidate, p, confirmed, at_least=true_claims(p[drawn], confirmed[drawn], rule.q))


def _tested(samples: Fresh, problems: int) -> tuple[IntArray, IntArray]:
    n, c = whole_numbers("n", samples.n), whole_numbers("c", samples.c)
    if n.shape != (problems,) or c.shape != (problems,):
        raise ValueError(f"fresh samples need one n and c per problem ({problems}), not {n.shape} and {c.shape}.")
    return n, c
