"""The parts of a rule: statements that an interval shows, rules out, or leaves open (docs/statistics.md, 12)."""

import math
from dataclasses import dataclass
from typing import Literal

from palestra.eval.stats.intervals import Interval

_ZERO = 1e-12
"""An estimate as close to the threshold as this lies at it: the rest is rounding."""
State = Literal["holds", "ruled out", "open"]


@dataclass(frozen=True)
class Part:
    """One statement: a quantity lies above, or below, a threshold."""

    name: str
    """What is measured, e.g. "Delta at k=1"."""
    interval: Interval
    threshold: float
    above: bool
    """Whether the statement is "above the threshold"; else "below"."""
    k: int | None = None
    """Attempts, where the quantity is Delta at one k."""

    @property
    def state(self) -> State:
        """What the interval says about the statement."""
        if self.interval.low > self.threshold:
            return "holds" if self.above else "ruled out"
        if self.interval.high < self.threshold:
            return "ruled out" if self.above else "holds"
        return "open"

    @property
    def shrink(self) -> float | None:
        """Factor by which the standard error must shrink to decide an open part; None if no factor does.

        It is at most 1; the estimate is taken for the truth.
        """
        estimate, low, high = self.interval
        gap = estimate - self.threshold
        half = estimate - low if gap > 0 else high - estimate
        return min(1.0, abs(gap) / half) if abs(gap) > _ZERO and half > 0 else None

    def problems_needed(self, problems: int) -> int | None:
        """Return how many problems would decide an open part, at the samples used; None if no number does."""
        return None if self.shrink is None else math.ceil(problems / self.shrink**2)

    def __str__(self) -> str:
        estimate, low, high = self.interval
        side = "above" if self.above else "below"
        shown = {"holds": "", "ruled out": "not ", "open": "not shown to be "}[self.state]
        return f"{self.name} is {estimate:+.3f} [{low:+.3f}, {high:+.3f}], {shown}{side} {self.threshold:g}"
