"""What an episode is made of: a task with its identity, turns, and what is paid for them."""

import _random
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from palestra.envs.splits import hash64_after
from palestra.envs.syntax.calls import ToolCall


@dataclass(frozen=True, slots=True)
class TaskId:
    """Names one problem: the members of a GRPO group are resets of one identity."""

    env: str
    variant: str
    index: int

    def __str__(self) -> str:
        return f"{self.env}/{self.variant}/{self.index}"

    def seed(self, purpose: str = "task") -> int:
        """A 64-bit seed that depends on every part of the identity, never on neighbouring indices."""
        return seed_of(self.env, self.variant, self.index, purpose)


def seed_of(env: str, variant: str, index: int, purpose: str = "task") -> int:
    """Return what `TaskId.seed` does, without making one."""
    return hash64_after(f"{purpose}|{env}|{variant}", str(index))


def generator(seed: int) -> random.Random:
    """Return `random.Random(seed)`, without the three functions in Python that it goes through."""
    made = random.Random.__new__(random.Random)
    _random.Random.seed(made, seed)
    made.gauss_next = None  # type: ignore[attr-defined]
    return made


# Not frozen dataclasses, because a step makes some of them and those take three times as long. A task, which episodes
# share, is a tuple; what belongs to one turn has slots, which is faster still.


class Task(NamedTuple):
    """A problem with its answer."""

    prompt: str
    """The first observation."""
    answer: str
    """The canonical right answer."""
    key: str
    """Canonical content: two tasks are the same problem exactly if their keys are equal."""
    data: Mapping[str, Any] = MappingProxyType({})
    """Whatever `grade`, `process` and `solve` need; never changed, since episodes share it."""


@dataclass(slots=True)
class Reward:
    """A strict outcome and named process terms."""

    outcome: float
    """1.0 if the task is solved, else 0.0; pass@k counts nothing else."""
    process: Mapping[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Turn:
    """One assistant turn as the environment read it."""

    action: str
    calls: tuple[ToolCall, ...] = ()
    results: tuple[str, ...] = ()
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class ProcessTerm:
    """Declares a process term: its bounds per episode, and how it could be collected without solving."""

    low: float
    high: float
    gamed_by: str


@dataclass(frozen=True, slots=True)
class Demonstration:
    """An oracle episode: the assistant turns that solve the task, as a model would write them."""

    turns: tuple[str, ...]
