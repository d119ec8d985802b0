"""Which sequences are in which row of a slot cache: those that have read the same tokens are in one.

The rows at work are the first ones, so that a forward pass takes them as they are; sequences that wait for their
environment may be in any row behind them. Members of a group begin alike, and a model that is sure of itself lets many
of them go on alike for long: what they share is computed once, and copied only when they part.
"""

import random
from collections.abc import Sequence as Several
from dataclasses import dataclass, field

from palestra.agents.engine import Completion
from palestra.agents.slots import SlotCache


@dataclass(slots=True, eq=False)
class Sequence:
    """A sequence that a stream holds."""

    key: int
    new: list[int]
    """Tokens that were not read yet."""
    random: random.Random
    place: int | None = None
    """Its row; None while nothing of it was read."""
    done: Completion = field(default_factory=lambda: Completion([], [], "length"))
    """The turn that is being sampled, or was last."""


class Places:
    """The rows of a cache.

    Args:
        cache: It has one row more than there are ever sequences, so that one is always free.
    """

    def __init__(self, cache: SlotCache) -> None:
        self._cache = cache
        self.members: list[list[Sequence]] = [[] for _ in cache.length]
        """The sequences in each row."""
        self.working = 0
        """How many rows are at work, the first ones."""

    def enlist(self, groups: Several[Several[Sequence]]) -> None:
        """Put groups of sequences, each of one row or that has read nothing, into rows of their own at work, the last.

        The groups are in any order there: one that is in the right rows already is left where it is.
        """
        targets = range(self.working, self.working + len(groups))
        there = {some[0].place for some in groups if self._alone(some) and some[0].place in targets}
        free = [target for target in targets if target not in there]
        for some in groups:
            if some[0].place not in there:
                target = free.pop()
                self._clear(target)
                self._move(some, target)
        self.working = targets.stop

    def release(self, some: Several[Sequence]) -> None:
        """Take sequences that share a row at work out of it: their turn is over."""
        place = some[0].place
        assert place is not None
        if place != self.working - 1 or not self._alone(some):
            self._move(some, self._free())
            self._close(place)
        else:
            self.working -= 1

    def leave(self, one: Sequence) -> None:
        """Forget a sequence, wherever it is."""
        if one.place is not None:
            self._remove(one)
            if one.place < self.working:
                self._close(one.place)

    def _alone(self, some: Several[Sequence]) -> bool:
        """Whether nobody else is in a group's row."""
        return some[0].place is not None and len(self.members[some[0].place]) == len(some)

    def _clear(self, place: int) -> None:
        if self.members[place]:
            self._move(list(self.members[place]), self._free())

    def _close(self, place: int) -> None:
        """Fill a gap in the rows at work with the last of them."""
        if not self.members[place]:
            self.working -= 1
            if place != self.working:
                self._move(list(self.members[self.working]), place)

    def _move(self, some: Several[Sequence], target: int) -> None:
        """Put sequences into a free row, with what they have read."""
        if some[0].place is not None:
            self._cache.copy(some[0].place, target)
        for one in some:
            self._remove(one)
            one.place = target
        self.members[target] = list(some)

    def _remove(self, one: Sequence) -> None:
        if one.place is not None:
            self.members[one.place].remove(one)
            if not self.members[one.place]:
                self._cache.clear(one.place)

    def _free(self) -> int:
        return next(place for place in range(self.working, len(self.members)) if not self.members[place])
