"""The verdict on one run against another: what was found in words, as JSON, and as a gate for CI."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from palestra.envs.errors import PalestraError, UsageError, unknown_name
from palestra.eval.stats.discovery import Discoveries
from palestra.eval.stats.verdict import Curves, Label, Verdict

MEANINGS = {
    Label.DISCOVER: "it solves problems that the base cannot solve within the budget",
    Label.LOSE: "it can no longer solve, within the budget, problems that the base solves",
    Label.SHARPEN: "it solves more in one try, and hardly anything in many tries that the base does not",
    Label.SHRINK: "it solves less in many tries",
    Label.NO_EFFECT: "it differs by less than the margin at any number of tries",
    Label.NOT_DECIDED: "these samples do not tell",
}
"""What each label says about the trained run."""


@dataclass(frozen=True)
class RunVerdict:
    """What training did on one variant, from one run to another."""

    variant: str
    """Name of the variant."""
    run: str
    """Label of the trained run."""
    base: str
    """Label of the run it is judged against."""
    problems: tuple[int, ...]
    """Indices of the problems, in the order of the verdict's arrays."""
    verdict: Verdict

    @property
    def title(self) -> str:
        """The labels, e.g. "DISCOVER + LOSE"."""
        return " + ".join(self.verdict.labels)

    @property
    def meaning(self) -> str:
        """The labels in words."""
        return "; ".join(MEANINGS[label] for label in self.verdict.labels)

    @property
    def why(self) -> tuple[str, ...]:
        """What each of the labels rests on."""
        reasons = self.verdict.reasons
        if Label.NOT_DECIDED in reasons:
            return (reasons[Label.NOT_DECIDED],)
        return tuple(f"{label}: {reasons[label]}" for label in self.verdict.labels)

    @property
    def unconfirmed(self) -> tuple[str, ...]:
        """What became of candidates for a discovery or a loss none of which was confirmed."""
        outcomes = ((Label.DISCOVER, self.verdict.discovered), (Label.LOSE, self.verdict.lost))
        return tuple(
            f"not {label}: {self.verdict.reasons[label]}"
            for label, found in outcomes
            if found.candidates.any() and not found.confirmed.any()
        )

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as JSON values."""
        found = self.verdict
        return {
            "run": self.run,
            "base": self.base,
            "labels": list(found.labels),
            "reasons": {str(label): reason for label, reason in found.reasons.items()},
            "budget": found.budget,
            "needs": list(found.needs),
            "discovered": self._discoveries_json(found.discovered),
            "lost": self._discoveries_json(found.lost),
            "problems": dict(sorted(Counter(found.problems.tolist()).items())),
            "curves": _curves_json(found.curves) if found.curves else None,
        }

    def _discoveries_json(self, found: Discoveries) -> dict[str, Any]:
        return {
            "candidates": [self.problems[row] for row in np.flatnonzero(found.candidates)],
            "confirmed": [self.problems[row] for row in np.flatnonzero(found.confirmed)],
            "at_least": found.at_least,
        }


def _curves_json(curves: Curves) -> dict[str, Any]:
    end = len(curves.ks) - 1
    return {
        "k_max": int(curves.ks[end]),
        "delta_1": curves.delta.band(0).to_json(),
        "delta_k_max": curves.delta.band(end).to_json(),
        "excess": curves.excess.to_json(),
        "crossover": curves.crossover.to_json(),
    }


@dataclass(frozen=True)
class Requirement:
    """A label that verdicts must hold, as in "test:SHARPEN" or "rl:test:SHARPEN"."""

    text: str
    """As the user wrote it."""
    label: Label
    variant: str | None
    """None for every variant."""
    run: str | None
    """None for every run."""

    @classmethod
    def parse(cls, text: str) -> "Requirement":
        """Read LABEL, VARIANT:LABEL or RUN:VARIANT:LABEL; case does not count, and "no-effect" is NO EFFECT.

        Raises:
            UsageError: There is no such label.
        """
        scope, _, name = text.rpartition(":")
        run, _, variant = scope.rpartition(":")
        label = name.strip().upper().replace("-", " ").replace("_", " ")
        if label not in {known.value for known in Label}:
            raise unknown_name("label", name, [known.value for known in Label])
        return cls(text, Label(label), variant or None, run or None)

    def check(self, verdicts: Sequence[RunVerdict]) -> None:
        """Make sure that every verdict meant has the label.

        Raises:
            UsageError: No verdict is meant.
            PalestraError: A verdict lacks the label; the message says which, and what it is instead.
        """
        for found in self.meant(verdicts):
            if self.label not in found.verdict.labels:
                raise PalestraError(
                    f"--require {self.text} is not met: on {found.variant}, {found.run} against {found.base} is "
                    f"{found.title}."
                )

    def meant(self, verdicts: Sequence[RunVerdict]) -> Iterable[RunVerdict]:
        """Return the verdicts that it asks of.

        Raises:
            UsageError: There are none.
        """
        if not verdicts:
            raise UsageError("--require needs a verdict: two runs or more, with at least 2 samples of every problem.")
        for kind, name, known in (
            ("variant", self.variant, {v.variant for v in verdicts}),
            ("run", self.run, {v.run for v in verdicts}),
        ):
            if name is not None and name not in known:
                raise unknown_name(f"{kind} in --require {self.text}:", name, known)
        return [v for v in verdicts if self.variant in (None, v.variant) and self.run in (None, v.run)]
