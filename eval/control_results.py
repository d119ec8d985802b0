"""What holding a trained run against a control found: typed, in words, and as JSON."""

from dataclasses import dataclass
from typing import Any

from palestra.eval.stats.intervals import Interval


@dataclass(frozen=True)
class EqualTokens:
    """The base's own samples, as many as cost what one sample of the control costs."""

    votes: int
    """Samples, at least 1."""
    majority: Interval
    """Chance that the most frequent answer is right (maj@k, ties share the credit)."""
    most_probable: Interval | None
    """Chance that the sample to which the base gives the highest probability is right; None if none were recorded."""


@dataclass(frozen=True)
class ControlResult:
    """One trained run held against one control on one variant, in one try unless said otherwise."""

    variant: str
    run: str
    """Label of the trained run."""
    base: str
    control: str
    """Label of the control."""
    reached: Interval
    """pass@1 of the control minus that of the base."""
    gain: Interval
    """pass@1 of the trained run minus that of the base."""
    share: Interval | None
    """`reached` over `gain`; None where no gain is shown."""
    beyond: Interval
    """pass@1 of the trained run minus that of the control."""
    beyond_last: Interval
    """The same difference at `last_k`."""
    last_k: int
    discovered: int
    """Problems that the verdict says the trained run discovered."""
    also_solved: int
    """How many of them the control solved in any of its samples."""
    cost: float | None
    """Tokens that the control draws for an episode, over those of the base; None if they were not recorded."""
    equal_tokens: EqualTokens | None

    def __str__(self) -> str:
        text = (
            f"{self.control} of {self.base} reaches {_points(self.reached)} points of {self.run}'s "
            f"{_points(self.gain)} over {self.base} in one try"
        )
        if self.share is not None:
            text += f", that is {self.share.estimate:.0%} {_ends(self.share, '{:.0%}')} of the gain"
        text += (
            f"; {self.run} - {self.control} is {_points(self.beyond)} at k=1 and {_points(self.beyond_last)} at "
            f"k={self.last_k}"
        )
        if self.discovered:
            text += f"; {self.control} solves {self.also_solved} of the {self.discovered} discovered problems"
        if self.cost is not None:
            text += f"; it draws {self.cost:.1f} times the tokens of {self.base}"
        if self.equal_tokens is not None:
            equal = self.equal_tokens
            text += f", at which a majority of {equal.votes} answers of {self.base} is right in "
            text += _percent(equal.majority)
            if equal.most_probable is not None:
                text += f" and the most probable of {equal.votes} in {_percent(equal.most_probable)}"
        return text

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        equal = self.equal_tokens
        return {
            "run": self.run,
            "base": self.base,
            "control": self.control,
            **{name: _json(getattr(self, name)) for name in ("reached", "gain", "share", "beyond", "beyond_last")},
            "last_k": self.last_k,
            "discovered": self.discovered,
            "also_solved": self.also_solved,
            "cost": None if self.cost is None else round(self.cost, 3),
            "equal_tokens": None
            if equal is None
            else {
                "votes": equal.votes,
                "majority": _json(equal.majority),
                "most_probable": _json(equal.most_probable),
            },
        }


def _points(interval: Interval) -> str:
    return f"{100 * interval.estimate:+.1f} {_ends(Interval(*(100 * x for x in interval)), '{:+.1f}')}"


def _percent(interval: Interval) -> str:
    return f"{interval.estimate:.1%} {_ends(interval, '{:.1%}')}"


def _ends(interval: Interval, form: str) -> str:
    return f"[{form.format(interval.low)}, {form.format(interval.high)}]"


def _json(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else {name: round(x, 6) for name, x in interval._asdict().items()}
