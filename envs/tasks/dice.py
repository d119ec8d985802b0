"""Dice: an exact probability, solved with a calculator.

The task is `dice` of reasoning-gym (arXiv 2505.24760), repaired: several dice may have the same size, the
target lies anywhere between certain and impossible, grading is strict but on the value (the original
compares strings, so ` 5/12` and `10/24` fail), and splits are disjoint by problem.
"""

import random
import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from math import prod

from palestra.envs.core import Demonstration, ProcessTerm, Reward, Task, TextEnv
from palestra.envs.registry import register
from palestra.envs.toolcalls import format_tool_call
from palestra.envs.tools.calculator import Calculator

_FRACTION = re.compile(r"([+-]?[0-9]{1,40})\s*[/⁄]\s*([0-9]{1,40})")
_LATEX = re.compile(r"([+-]?)\\[dt]?frac\s*\{\s*([0-9]{1,40})\s*\}\s*\{\s*([0-9]{1,40})\s*\}")
_DECIMAL = re.compile(r"[+-]?[0-9]{1,40}(?:\.[0-9]{1,40})?")
_BEFORE_EQUALS = re.compile(r"[^=]{0,40}=")


@register(
    "palestra/Dice-v0",
    variants={
        "train": {},
        "test": {},
        "more-dice": {"dice": (4, 5)},
        "bigger-dice": {"sides": (13, 20)},
        "train-small": {"dice": (2, 2), "sides": (2, 8)},
    },
)
class Dice(TextEnv):
    """Probability that the sum of some dice reaches a target, as a reduced fraction."""

    tools = (Calculator(),)
    max_turns = 4
    instructions = "Find the exact probability asked for and give it as a reduced fraction, for example 5/12."
    process_terms = {
        "reduced": ProcessTerm(0.0, 1.0, "nothing: paid only for a right value in lowest terms"),
        "possible": ProcessTerm(0.0, 1.0, "any count over the number of outcomes, e.g. 1/216 for 3d6"),
    }

    dice: tuple[int, int] = (2, 3)
    """Fewest and most dice."""
    sides: tuple[int, int] = (2, 12)
    """Fewest and most sides of a die."""

    def sample(self, rng: random.Random) -> Task:
        """Draw dice and a target that is neither certain nor impossible."""
        sizes = sorted(rng.randint(*self.sides) for _ in range(rng.randint(*self.dice)))
        target = rng.randint(len(sizes) + 1, sum(sizes))
        roll = " + ".join(f"{n}d{size}" for size, n in sorted(Counter(sizes).items()))
        return Task(
            prompt=f"Roll {roll}. What is the probability that the sum is at least {target}?",
            answer=str(probability(sizes, target)),
            key=f"{roll} >= {target}",
            data={"sizes": sizes, "target": target},
        )

    def grade(self, task: Task, answer: str) -> Reward:
        """Compare values: 5/12, 10/24 and the LaTeX fraction are all right; only `reduced` tells them apart."""
        value = parse_fraction(answer)
        if value is None:
            return Reward(0.0)
        right = value == Fraction(task.answer)
        outcomes = prod(task.data["sizes"])
        possible = 0 <= value <= 1 and outcomes % value.denominator == 0
        reduced = right and _bare(answer).replace(" ", "") in {task.answer, _latex(task.answer)}
        return Reward(float(right), {"reduced": float(reduced), "possible": float(possible)})

    def solve(self, task: Task) -> Demonstration:
        """Sum, over what all dice but the largest show, the ways times the favourable faces of the largest."""
        *others, largest = task.data["sizes"]
        terms = []
        for total, ways in enumerate(ways_to_roll(others)):
            faces = min(largest, max(0, largest - (task.data["target"] - total) + 1))
            if ways and faces:
                terms.append(f"{ways}*{faces}" if ways > 1 else f"{faces}")
        expression = f"({'+'.join(terms)})/{prod(task.data['sizes'])}"
        call = format_tool_call("calculator", {"expression": expression})
        return Demonstration((call, f"<answer>{task.answer}</answer>"))

    def guess(self, task: Task, rng: random.Random) -> str:
        """A uniform count over the number of outcomes."""
        outcomes = prod(task.data["sizes"])
        return f"{rng.randint(1, outcomes - 1)}/{outcomes}"


def ways_to_roll(sizes: Sequence[int]) -> list[int]:
    """Count the outcomes by sum: entry `s` is the number of ways the dice show `s` in total (dynamic programming)."""
    ways = [1]
    for size in sizes:
        longer = [0] * (len(ways) + size)
        for total, count in enumerate(ways):
            for face in range(1, size + 1):
                longer[total + face] += count
        ways = longer
    return ways


def probability(sizes: Sequence[int], target: int) -> Fraction:
    """Return P(sum of the dice >= target), exactly."""
    return Fraction(sum(ways_to_roll(sizes)[max(0, target) :]), prod(sizes))


def parse_fraction(text: str) -> Fraction | None:
    """Read `a/b`, a decimal, or a LaTeX fraction as an exact value; None for anything else.

    Dollar signs, LaTeX and bold marks, a final full stop and a leading `P =` do not count.
    """
    text = _bare(text)
    if match := _FRACTION.fullmatch(text):
        top, bottom = int(match[1]), int(match[2])
    elif match := _LATEX.fullmatch(text):
        top, bottom = int(match[1] + match[2]), int(match[3])
    else:
        return Fraction(text) if _DECIMAL.fullmatch(text) else None
    return Fraction(top, bottom) if bottom else None


def _bare(text: str) -> str:
    """Strip what people wrap around a number."""
    text = text.strip().rstrip(".").strip()
    for opening, closing in (("$", "$"), (r"\(", r"\)"), ("**", "**")):
        if text.startswith(opening) and text.endswith(closing):
            text = text[len(opening) : -len(closing)].strip()
    return _BEFORE_EQUALS.sub("", text, count=1).strip() if text.count("=") == 1 else text


def _latex(fraction: str) -> str:
    top, _, bottom = fraction.partition("/")
    return rf"\frac{{{top}}}{{{bottom}}}"
