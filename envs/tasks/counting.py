"""Counting: how many integers of a range satisfy some conditions at once; a task for a Python interpreter.

The task separates writing a program from computing in one's head: the ranges are too long to list, and every
condition is one line of code. Each condition of a task binds (it excludes something that the ones before it
let through), and every answer is at least `MIN_ANSWER`, so that guessing seldom hits.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from palestra.envs.core import Demonstration, ProcessTerm, Reward, Task, TextEnv
from palestra.envs.expressions import bare_value
from palestra.envs.registry import register
from palestra.envs.toolcalls import format_tool_call
from palestra.envs.tools.base import Tool
from palestra.envs.tools.python import PythonTool

MIN_ANSWER = 30
CLOSE = 0.05
"""Relative error up to which a wrong count earns the process term `close`."""
_DRAWS = 10_000
_NUMBER = re.compile(r"[+]?([0-9]{1,15}|[0-9]{1,3}(?:[, _][0-9]{3}){1,4})(?:\.0+)?")
_UNIT = re.compile(r"\s+(?:such\s+)?(?:numbers?|integers?|values?)$", re.IGNORECASE)
_PROMPTS = (
    "How many integers n with {a} <= n <= {b} satisfy all of these conditions: {conditions}?",
    "Count the integers from {a} to {b} (both included) for which all of this holds: {conditions}.",
    "Consider every integer n between {a} and {b}, the ends included. For how many of them is it true that "
    "{conditions}?",
)


@dataclass(frozen=True, slots=True)
class Numbers:
    """Consecutive integers and what the conditions ask of them, one array entry per integer."""

    n: NDArray[np.int32]
    digit_sum: NDArray[np.int32]
    digits: NDArray[np.int32]
    """Bit k is set if the decimal digit k occurs."""
    palindrome: NDArray[np.bool_]
    distinct: NDArray[np.bool_]
    """Whether no decimal digit occurs twice."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on an integer: as code, in words, and roughly how many integers fulfil it."""

    code: str
    """A Python expression in `n`; also the condition's canonical name."""
    wordings: tuple[str, ...]
    holds: Callable[[Numbers], NDArray[np.bool_]] = field(compare=False)
    density: float


def _stride(rng: random.Random) -> Condition:
    d = rng.randint(3, 13)
    r = rng.choice((0, 0, rng.randrange(d)))
    words = (f"n leaves remainder {r} when divided by {d}", f"n is congruent to {r} modulo {d}")
    if r == 0:
        words = (f"n is divisible by {d}", f"n is a multiple of {d}")
    return Condition(f"n % {d} == {r}", words, lambda numbers: numbers.n % d == r, 1 / d)


def _indivisible(rng: random.Random) -> Condition:
    d = rng.randint(2, 11)
    words = (f"n is not divisible by {d}", f"{d} does not divide n")
    return Condition(f"n % {d} != 0", words, lambda numbers: numbers.n % d != 0, 1 - 1 / d)


def _digit_sum(rng: random.Random) -> Condition:
    s = rng.randint(9, 24)
    words = (f"the digits of n add up to {s}", f"the sum of the decimal digits of n is {s}")
    return Condition(f"sum(map(int, str(n))) == {s}", words, lambda numbers: numbers.digit_sum == s, 1 / 18)


def _digit_sum_stride(rng: random.Random) -> Condition:
    d = rng.randint(4, 8)
    words = (f"the sum of the decimal digits of n is divisible by {d}", f"{d} divides the digit sum of n")
    code = f"sum(map(int, str(n))) % {d} == 0"
    return Condition(code, words, lambda numbers: numbers.digit_sum % d == 0, 1 / d)


def _palindrome(rng: random.Random) -> Condition:
    words = ("n is a palindrome in base ten", "n reads the same backwards (in decimal)")
    return Condition("str(n) == str(n)[::-1]", words, lambda numbers: numbers.palindrome, 1 / 100)


def _has_digit(rng: random.Random) -> Condition:
    k = rng.randint(0, 9)
    words = (f"the digit {k} occurs in the decimal form of n", f"n contains the digit {k}")
    return Condition(f"'{k}' in str(n)", words, lambda numbers: numbers.digits >> k & 1 == 1, 0.4)


def _lacks_digit(rng: random.Random) -> Condition:
    k = rng.randint(0, 9)
    words = (f"the digit {k} does not occur in the decimal form of n", f"n has no digit {k}")
    return Condition(f"'{k}' not in str(n)", words, lambda numbers: numbers.digits >> k & 1 == 0, 0.6)


def _distinct_digits(rng: random.Random) -> Condition:
    words = ("no two decimal digits of n are equal", "all digits of n are different from each other")
    return Condition("len(set(str(n))) == len(str(n))", words, lambda numbers: numbers.distinct, 0.3)


def _binary_ones(rng: random.Random) -> Condition:
    odd = rng.randint(0, 1)
    word = ("an even", "an odd")[odd]
    words = (f"the binary form of n has {word} number of ones", f"n has {word} number of 1 bits in base two")
    code = f"bin(n).count('1') % 2 == {odd}"
    return Condition(code, words, lambda numbers: np.bitwise_count(numbers.n) % 2 == odd, 0.5)


_KINDS = (
    _indivisible,
    _digit_sum,
    _digit_sum_stride,
    _palindrome,
    _has_digit,
    _lacks_digit,
    _distinct_digits,
    _binary_ones,
)


@register(
    "palestra/Counting-v0",
    variants={
        "train": {},
        "test": {},
        "more-conditions": {"conditions": (4, 5)},
        "bigger-range": {"starts": (50_000, 200_000), "widths": (30_000, 60_000)},
    },
)
class Counting(TextEnv):
    """Number of integers in a range that satisfy several conditions, with a Python interpreter."""

    tools: tuple[Tool, ...] = (PythonTool(),)
    max_turns = 4
    instructions = "Find the exact count asked for and give it as a plain integer, for example 1234."
    process_terms = {
        "close": ProcessTerm(0.0, 1.0, "an estimate from the densities of the conditions, without counting"),
    }

    conditions: tuple[int, int] = (2, 3)
    """Fewest and most conditions."""
    starts: tuple[int, int] = (1, 20_000)
    """Smallest and largest lower end of the range."""
    widths: tuple[int, int] = (2_000, 20_000)
    """Shortest and longest range, in integers."""

    def sample(self, rng: random.Random) -> Task:
        """Draw a range and conditions that all bind and leave at least `MIN_ANSWER` integers.

        Raises:
            RuntimeError: No draw fits: the variant's parameters ask for the impossible.
        """
        for _ in range(_DRAWS):
            a = rng.randint(*self.starts)
            b = a + rng.randint(*self.widths) - 1
            kinds = rng.sample(_KINDS, rng.randint(*self.conditions) - 1)
            conditions = (_stride(rng), *(kind(rng) for kind in kinds))
            answer = count(a, b, conditions)
            if answer >= MIN_ANSWER:
                return _task(a, b, conditions, answer, rng)
        raise RuntimeError(f"no task found in {_DRAWS} draws; widen the range or ask for fewer conditions")

    def grade(self, task: Task, answer: str) -> Reward:
        """Compare integers; digits may be grouped by commas, spaces or underscores."""
        value = parse_count(answer)
        if value is None:
            return Reward(0.0)
        right = int(task.answer)
        return Reward(float(value == right), {"close": float(abs(value - right) <= CLOSE * right)})

    def solve(self, task: Task) -> Demonstration:
        """Count with a loop over the range."""
        test = " and ".join(c if " in " not in c else f"({c})" for c in task.data["codes"])
        code = (
            f"count = 0\nfor n in range({task.data['a']}, {task.data['b']} + 1):\n"
            f"    if {test}:\n        count += 1\nprint(count)"
        )
        return Demonstration((format_tool_call("python", {"code": code}), f"<answer>{task.answer}</answer>"))

    def guess(self, task: Task, rng: random.Random) -> str:
        """The width times rough densities, off by up to a third: an estimate that counts nothing."""
        return str(max(1, round(task.data["estimate"] * rng.uniform(2 / 3, 4 / 3))))


@lru_cache(maxsize=10_000)  # every reset to the same task would count again
def count(a: int, b: int, conditions: tuple[Condition, ...]) -> int:
    """Count the integers in [a, b], 1 <= a, that fulfil all conditions; 0 if one of them excludes nothing."""
    table = _table((b + 1).bit_length())
    numbers = Numbers(*(getattr(table, column.name)[a : b + 1] for column in fields(Numbers)))
    left, kept = b - a + 1, np.ones(b - a + 1, dtype=np.bool_)
    for condition in conditions:
        kept &= condition.holds(numbers)
        before, left = left, int(np.count_nonzero(kept))
        if left == before:
            return 0
    return left


@cache
def _table(bits: int) -> Numbers:
    """The integers below 2**bits."""
    n = np.arange(2**bits, dtype=np.int32)
    digit_sum, digits, length, reverse = (np.zeros_like(n) for _ in range(4))
    rest = n
    while rest.any():
        rest, digit = np.divmod(rest, 10)
        # Behind the first digit of a number, `rest` and `digit` are both zero and nothing may be added.
        present = (rest > 0) | (digit > 0)
        digit_sum += digit
        digits |= np.where(present, 1 << digit, 0)
        length += present
        reverse = np.where(present, reverse * 10 + digit, reverse)
    return Numbers(n, digit_sum, digits, reverse == n, np.bitwise_count(digits) == length)


def parse_count(text: str) -> int | None:
    """Read a non-negative integer: `1234`, `1,234`, `$1234.0$`, `n = 1234`, `1234 integers`; else None."""
    match = _NUMBER.fullmatch(_UNIT.sub("", bare_value(text)))
    return int(re.sub(r"[, _]", "", match[1])) if match else None


def _task(a: int, b: int, conditions: tuple[Condition, ...], answer: int, rng: random.Random) -> Task:
    estimate = float(b - a + 1)
    for condition in conditions:
        estimate *= condition.density
    shown = rng.sample(conditions, len(conditions))
    phrases = [rng.choice(condition.wordings) for condition in shown]
    codes = [condition.code for condition in conditions]
    return Task(
        prompt=rng.choice(_PROMPTS).format(a=a, b=b, conditions=_enumerate(phrases)),
        answer=str(answer),
        key=f"{a}..{b}: {' and '.join(sorted(codes))}",
        data={"a": a, "b": b, "codes": codes, "estimate": estimate},
    )


def _enumerate(phrases: list[str]) -> str:
    if len(phrases) == 1:
        return phrases[0]
    return f"{', '.join(phrases[:-1])} and {phrases[-1]}"
