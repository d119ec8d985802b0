"""The functions that PythonCoding asks for: drawn from a grammar of typed steps, each with hidden tests that bite.

By construction, the inputs in `BATTERY` tell a function from each of its own near misses (a step left out, a number
off by one, the neighbouring operation), and give at least three different results. Two functions that agree on the
whole battery count as the same one, however differently they are written: `Function.key` is what they give there,
so that no twin of a training task is tested on.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

from palestra.envs.tasks.code_held_out import HELD_OUT_NUMBERS
from palestra.envs.tasks.code_held_out_texts import HELD_OUT_TEXTS
from palestra.envs.tasks.code_numbers import NUMBER_OPERATIONS
from palestra.envs.tasks.code_steps import Operation, Step
from palestra.envs.tasks.code_texts import TEXT_OPERATIONS
from palestra.envs.tasks.code_words import SIMULATIONS, WORD_OPERATIONS

Pool = Mapping[str, Sequence[Operation]]
"""Operations by what they take."""


def _by_input(operations: Sequence[Operation]) -> Pool:
    kinds = dict.fromkeys(operation.takes for operation in operations)
    return {kind: tuple(o for o in operations if o.takes == kind) for kind in kinds}


TRAIN_OPERATIONS = _by_input((*NUMBER_OPERATIONS, *TEXT_OPERATIONS, *WORD_OPERATIONS, *SIMULATIONS))
HELD_OUT_OPERATIONS = _by_input((*HELD_OUT_NUMBERS, *HELD_OUT_TEXTS))

SOURCES = ("numbers", "numbers", "text", "words", "moves", "n")
"""What a function takes, numbers twice as often as the others."""
TYPES = {
    "numbers": "a list of integers",
    "number": "an integer",
    "text": "a string",
    "words": "a list of strings",
    "moves": "a string of the letters L, R, U and D",
    "n": "a positive integer",
}
BATTERY_SIZE = 6
_DIFFERENT_RESULTS = 3
_LONGEST_RESULT = 200
"""In characters of its Python form: expected values are shown in prompts."""
_SYLLABLES = ("an", "be", "col", "der", "ee", "fi", "go", "hum", "ill", "jo", "ka", "loo", "ma", "nu", "or", "pass")
_EDGES: dict[str, tuple[Any, ...]] = {
    "numbers": ([], [7]),
    "text": ("", "a"),
    "words": ([], ["apple"]),
    "moves": ("", "U"),
    "n": (1, 2),
}
"""Inputs on which careless code fails."""


def draw_input(source: str, rng: random.Random, long: bool = False) -> Any:
    """Draw an input of a type; `long` ones tell more functions apart."""
    size = rng.randint(9, 13) if long else rng.randint(4, 7)
    if source == "numbers":
        return [rng.randint(-9, 20) for _ in range(size)]
    if source == "moves":
        return "".join(rng.choice("LRUD") for _ in range(2 * size))
    if source == "n":
        return rng.randint(20, 99) if long else rng.randint(3, 40)
    words = [_word(rng) for _ in range(size - 2)]
    return " ".join(words) if source == "text" else words


def _word(rng: random.Random) -> str:
    word = "".join(rng.choice(_SYLLABLES) for _ in range(rng.randint(1, 3)))
    kind = rng.randrange(6)
    return word.capitalize() if kind == 0 else f"{word}{rng.randrange(10)}" if kind == 1 else word


def _battery(source: str) -> tuple[Any, ...]:
    rng = random.Random(f"battery {source}")
    inputs = [draw_input(source, rng, long=True) for _ in range(BATTERY_SIZE)]
    if source == "numbers":
        inputs[0] = [*inputs[0][:6], *inputs[0][2:8]]  # with repetitions, and neighbours that are equal
        inputs[1] = [*inputs[1][:4], *inputs[1][3:8], inputs[1][0]]
    if source == "words":
        inputs[0] = [*inputs[0][:4], *inputs[0][1:5]]
    return tuple(inputs)


BATTERY = {source: _battery(source) for source in dict.fromkeys(SOURCES)}
"""The inputs that every function of a type is tested on; nothing shows them to an agent."""


@dataclass(frozen=True)
class Function:
    """A sequence of steps, each taking what the one before it gives."""

    source: str
    steps: tuple[Step, ...]

    def __call__(self, value: Any) -> Any:
        """Return the right result."""
        for step in self.steps:
            value = step.run(value)
        return value

    @property
    def gives(self) -> str:
        """The type of the result."""
        return self.steps[-1].operation.gives

    @cached_property
    def traces(self) -> list[list[Any]]:
        """For each input of the battery: the input and the value after each step."""
        return [*self._first_traces, *map(self._trace, BATTERY[self.source][2:])]

    @cached_property
    def _first_traces(self) -> list[list[Any]]:
        return [self._trace(value) for value in BATTERY[self.source][:2]]

    def _trace(self, value: Any) -> list[Any]:
        trace = [value]
        for step in self.steps:
            value = step.run(value)
            trace.append(value)
        return trace

    def is_lively(self) -> bool:
        """Whether two inputs suffice to see that every step does something, which most functions fail at once."""
        one, other = self._first_traces
        return one[-1] != other[-1] and all(
            one[i] != one[i + 1] or other[i] != other[i + 1] for i in range(len(self.steps))
        )

    @cached_property
    def key(self) -> str:
        """What it does, as a short text."""
        results = repr([trace[-1] for trace in self.traces])
        return f"{self.source} {blake2b(results.encode(), digest_size=12).hexdigest()}"

    def discriminates(self) -> bool:
        """Whether the battery tells it from its near misses, and a constant from any function like it."""
        results = [repr(trace[-1]) for trace in self.traces]
        if len(set(results)) < _DIFFERENT_RESULTS or max(map(len, results)) > _LONGEST_RESULT:
            return False
        return all(self._told_apart(i, wrong) for i, step in enumerate(self.steps) for wrong in step.mistakes())

    def _told_apart(self, position: int, wrong: Any) -> bool:
        for trace in self.traces:
            value = wrong(trace[position])
            if value == trace[position + 1]:
                continue
            for step in self.steps[position + 1 :]:
                value = step.run(value)
            if value != trace[-1]:
                return True
        return False

    def cases(self, rng: random.Random, shown: int, drawn: int) -> tuple[list[Any], list[Any]]:
        """Return inputs for the visible and the hidden tests, no two of them the same.

        Args:
            rng: Draws those that are not in the battery.
            shown: How many are visible.
            drawn: How many hidden ones there are besides the battery and the edge cases.
        """
        taken = [*BATTERY[self.source], *_EDGES[self.source]]
        fresh: list[Any] = []
        while len(fresh) < shown + drawn:
            value = draw_input(self.source, rng)
            if value not in taken and value not in fresh:
                fresh.append(value)
        return fresh[:shown], [*taken, *fresh[shown:]]

    def render(self, name: str, argument: str) -> str:
        """Return a Python function that does it."""
        lines = "\n".join([f"x = {argument}", *(step.text() for step in self.steps), "return x"]).split("\n")
        return "\n".join([f"def {name}({argument}):", *(f"    {line}" for line in lines)])


def draw_function(
    rng: random.Random,
    pools: Sequence[Pool],
    length: tuple[int, int],
    wanted: Callable[[str], bool] = lambda key: True,
) -> Function:
    """Draw a function whose steps all matter.

    Args:
        rng: The source of randomness.
        pools: What the steps are made of: they take turns, and which of them begins is drawn.
        length: Fewest and most steps.
        wanted: Says by a function's key whether it will do: asked first, because it costs less than the rest.
    """
    while True:
        source = rng.choice(SOURCES)
        steps = _draw_steps(rng, pools, source, rng.randint(*length))
        if not steps:
            continue
        function = Function(source, steps)
        if function.is_lively() and wanted(function.key) and function.discriminates():
            return function


def _draw_steps(rng: random.Random, pools: Sequence[Pool], source: str, count: int) -> tuple[Step, ...] | None:
    steps: list[Step] = []
    kind, first, names = source, rng.randrange(len(pools)), set()
    for left in range(count, 0, -1):
        pool = pools[(first + left) % len(pools)].get(kind, ())
        # A single number ends a function, and at least every second one ends with another type than it had before.
        fitting = [o for o in pool if o.name not in names and (left == 1 or o.gives != "number")]
        if left == 1 and rng.random() < 0.5:
            fitting = [o for o in fitting if o.gives != kind] or fitting
        if not fitting:
            return None
        operation = rng.choice(fitting)
        names.add(operation.name)
        steps.append(Step(operation, operation.draw(rng)))
        kind = operation.gives
    return tuple(steps)
