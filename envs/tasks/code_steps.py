"""The operations that PythonCoding's functions are made of: in words, as Python text, and as trusted code.

The text is what a model should write and is never run here; expected values come from `Operation.run`. What an
operation gives for empty input is part of its words. `wrong` holds likely mistakes: the hidden tests of a task must
tell each of them from the right thing.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Params = tuple[Any, ...]
SEPARATORS = ("-", ",", "+", "/", "_", "; ")


@dataclass(frozen=True, slots=True)
class Operation:
    """A family of steps; `code` and `words` have places for its parameters."""

    name: str
    takes: str
    gives: str
    draw: Callable[[random.Random], Params]
    code: str
    """Statements that turn `x` into the result, in `x`."""
    words: tuple[str, str]
    """In two wordings."""
    run: Callable[..., Any]
    """The same as `code`: a function of the value and the parameters."""
    near: tuple[Params, ...] = ()
    """What is added to the parameters to get them wrong by little."""
    wrong: tuple[Callable[..., Any], ...] = ()
    """Other mistakes, called as `run` is."""


@dataclass(frozen=True, slots=True)
class Step:
    """An operation with its parameters."""

    operation: Operation
    params: Params

    def run(self, value: Any) -> Any:
        """Apply it."""
        return self.operation.run(value, *self.params)

    def mistakes(self) -> list[Callable[[Any], Any]]:
        """Return what someone might do instead: nothing at all, or something similar."""
        operation, params = self.operation, self.params
        found: list[Callable[[Any], Any]] = []
        if operation.takes == operation.gives:
            found.append(lambda value: value)
        for delta in operation.near:
            off = tuple(p + d for p, d in zip(params, delta, strict=True))
            found.append(lambda value, off=off: operation.run(value, *off))  # type: ignore[misc]
        found += [lambda value, wrong=wrong: wrong(value, *params) for wrong in operation.wrong]  # type: ignore[misc]
        return found

    def text(self) -> str:
        """Return it as Python statements."""
        return self.operation.code.format(*self.params)

    def describe(self, wording: int) -> str:
        """Return it in words."""
        return self.operation.words[wording].format(*self.params)


def no_params(rng: random.Random) -> Params:
    """For operations without parameters."""
    return ()


def between(low: int, high: int) -> Callable[[random.Random], Params]:
    """One number from `low` to `high`."""
    return lambda rng: (rng.randint(low, high),)


def separator(rng: random.Random) -> Params:
    """One of the `SEPARATORS`."""
    return (rng.choice(SEPARATORS),)
