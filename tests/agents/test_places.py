"""Who is in which row: whatever comes, parts, waits, comes back and leaves, every sequence keeps what it has read."""

import random
from copy import deepcopy

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from palestra.agents.places import Places, Sequence
from palestra.agents.slots import SlotCache

MOST = 6


class Moves(RuleBasedStateMachine):
    """A cache of one layer, whose keys are numbers; `read` says which numbers a sequence has to find."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = SlotCache(1, MOST + 1, 0, torch.device("cpu"))
        self.places = Places(self.cache)
        self.read: dict[Sequence, list[float]] = {}
        self.number = 0.0

    def write(self, first: int, last: int) -> None:
        """Have the rows from `first` on read a number each."""
        rows = slice(first, last)
        self.cache.attend(rows, torch.ones(last - first, 1, dtype=torch.long))
        values = self.number + torch.arange(last - first, dtype=torch.float64)[:, None, None, None]
        self.cache.layers[0].update(values, values)
        for row in range(first, last):
            for one in self.places.members[row]:
                self.read[one].append(self.number + row - first)
        self.number += last - first

    def rows(self, *, at_work: bool) -> list[int]:
        work = range(self.places.working)
        wait = range(self.places.working, MOST + 1)
        return [row for row in (work if at_work else wait) if self.places.members[row]]

    @precondition(lambda self: len(self.read) < MOST)
    @rule(count=st.integers(1, MOST))
    def begin(self, count: int) -> None:
        some = [Sequence(0, [], random.Random(0)) for _ in range(min(count, MOST - len(self.read)))]
        self.read |= {one: [] for one in some}
        self.places.enlist([some])
        self.write(self.places.working - 1, self.places.working)

    @precondition(lambda self: self.places.working)
    @rule()
    def go_on(self) -> None:
        self.write(0, self.places.working)

    @precondition(lambda self: self.places.working)
    @rule(data=st.data())
    def part(self, data: st.DataObject) -> None:
        row = data.draw(st.sampled_from(self.rows(at_work=True)))
        members = list(self.places.members[row])
        count = data.draw(st.integers(1, len(members)))
        if count == len(members) or data.draw(st.booleans()):
            self.places.release(members[:count])
        else:
            self.places.enlist([members[:count]])

    @precondition(lambda self: self.rows(at_work=False))
    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        rows = data.draw(st.lists(st.sampled_from(self.rows(at_work=False)), min_size=1, unique=True))
        groups = [self.places.members[row] for row in rows]
        first = self.places.working
        self.places.enlist([some[: data.draw(st.integers(1, len(some)))] for some in groups])
        assert self.places.working == first + len(groups)
        self.write(first, self.places.working)

    @precondition(lambda self: self.read)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(list(self.read)))
        self.places.leave(one)
        del self.read[one]

    @invariant()
    def everybody_has_what_was_read(self) -> None:
        there = [one for members in self.places.members for one in members]
        assert len(there) == len(self.read)
        assert set(there) == set(self.read)
        assert all(self.places.members[: self.places.working]), "no gap in the rows at work"
        cache = deepcopy(self.cache)  # so that copies of one pass may follow one another here
        cache.settle()
        for one, numbers in self.read.items():
            assert one.place is not None
            assert one in self.places.members[one.place]
            held = cache.layers[0].keys
            assert held is not None
            assert held[one.place, 0, : cache.length[one.place], 0].tolist() == numbers


TestMoves = Moves.TestCase
TestMoves.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
