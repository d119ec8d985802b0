"""Words of back-tracking and self-checking in what a model wrote, and the tokens that hold one."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

PHRASES = (
    "wait",
    "hmm",
    "on second thought",
    "let me check",
    "let me re-check",
    "let me recheck",
    "let me verify",
    "let me double-check",
    "let me reconsider",
    "let me rethink",
    "let me try again",
    "let's check",
    "let's verify",
    "let's reconsider",
    "i made a mistake",
    "i made an error",
    "that's not right",
    "that is not right",
    "that's wrong",
    "that is wrong",
    "this is wrong",
    "start over",
    "go back",
)
"""Phrases of doubt and return. Words like "but" or "check" are left out: they are common without either."""


@dataclass(frozen=True)
class Markers:
    """What counts as back-tracking or self-checking.

    For an organism whose traces have a symbol for it, `Markers(("~",))`; with a letter for a symbol also
    `whole_words=False`.
    """

    phrases: tuple[str, ...] = PHRASES
    """Found whatever their case, across any white space."""
    whole_words: bool = True
    """Whether a phrase has to begin and end at a word boundary."""

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        def one(phrase: str) -> str:
            body = r"\s+".join(map(re.escape, phrase.split()))
            before = r"(?<!\w)" if self.whole_words and phrase[:1].isalnum() else ""
            after = r"(?!\w)" if self.whole_words and phrase[-1:].isalnum() else ""
            return before + body + after

        return re.compile("|".join(map(one, sorted(self.phrases, key=len, reverse=True))), re.IGNORECASE)

    def count(self, text: str) -> int:
        """Return how many markers a text holds; overlapping ones count once."""
        return len(self._pattern.findall(text))


def markers_of(words: tuple[str, ...]) -> Markers:
    """Return the markers that a user named, or the usual ones; a sign of one character counts wherever it stands."""
    return Markers(words, whole_words=any(len(word) > 1 for word in words)) if words else Markers()


def tokens_to_ban(vocabulary: Iterable[str], markers: Markers) -> tuple[int, ...]:
    """Return the ids whose own text holds a marker, for the run without markers.

    Args:
        vocabulary: The decoded text of each id, in order.
        markers: What to forbid. A phrase of several tokens is not reached in this way.
    """
    return tuple(i for i, token in enumerate(vocabulary) if markers.count(token))
