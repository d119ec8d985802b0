"""Dice: an exact probability, solved with a calculator.

The task is `dice` of reasoning-gym (arXiv 2505.24760), repaired: several dice may have the same size, the
target lies anywhere between certain and impossible, grading is strict but on the value (the original
compares strings, so ` 5/12` and `10/24` fail), and splits are disjoint by problem, a problem and its complement being
one. `at-most` turns the rule around; the other held-out variants change size, wording or the tool.
"""

import random
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from math import prod

from palestra.envs.core import Demonstration, ProcessTerm, Reward, Task, TextEnv
from palestra.envs.expressions import bare_value, parse_fraction
from palestra.envs.registry import register
from palestra.envs.toolcalls import format_tool_call
from palestra.envs.tools.base import Tool
from palestra.envs.tools.calculator import Calculator


@register(
    "palestra/Dice-v0",
    variants={
        "train": {},
        "test": {},
        "more-dice": {"dice": (4, 5)},
        "bigger-dice": {"sides": (13, 20)},
        "at-most": {"at_most": True},
        "wording": {"reworded": True},
        "tool-renamed": {"tools": (Calculator("abacus"),)},
        "no-tool": {"tools": ()},
        "train-small": {"dice": (2, 2), "sides": (2, 12)},
    },
)
class Dice(TextEnv):
    """Probability that the sum of some dice reaches a target, as a reduced fraction."""

    tools: tuple[Tool, ...] = (Calculator(),)
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
    at_most: bool = False
    """Whether the sum must stay at or below the target instead of reaching it."""
    reworded: bool = False
    """Whether the question is asked in words that training does not use."""

    def sample(self, rng: random.Random) -> Task:
        """Draw dice and a target that is neither certain nor impossible."""
        sizes = sorted(rng.randint(*self.sides) for _ in range(rng.randint(*self.dice)))
        target = rng.randint(len(sizes) + 1, sum(sizes)) - self.at_most
        roll = " + ".join(f"{n}d{size}" for size, n in sorted(Counter(sizes).items()))
        bound = f"at {'most' if self.at_most else 'least'} {target}"
        prompt = f"Roll {roll}. What is the probability that the sum is {bound}?"
        if self.reworded:
            prompt = f"Somebody throws {roll} and adds up the points. How likely is a total of {bound}?"
        threshold = target + self.at_most
        reached = probability(sizes, threshold)
        # P(sum >= t) is 1 - P(sum >= mirrored): whoever knows the one knows the other, and `at-most` asks for it.
        mirrored = len(sizes) + sum(sizes) + 1 - threshold
        return Task(
            prompt=prompt,
            answer=str(1 - reached if self.at_most else reached),
            key=f"{roll}: {min(threshold, mirrored)}",
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
        reduced = right and bare_value(answer).replace(" ", "") in {task.answer, _latex(task.answer)}
        return Reward(float(right), {"reduced": float(reduced), "possible": float(possible)})

    def solve(self, task: Task) -> Demonstration:
        """Sum, over what all dice but the largest show, the ways times the favourable faces of the largest."""
        *others, largest = task.data["sizes"]
        terms = []
        for total, ways in enumerate(ways_to_roll(others)):
            short = min(largest, max(0, task.data["target"] - total - (not self.at_most)))
            faces = short if self.at_most else largest - short
            if ways and faces:
                terms.append(f"{ways}*{faces}" if ways > 1 else f"{faces}")
        expression = f"({'+'.join(terms)})/{prod(task.data['sizes'])}"
        final = f"<answer>{task.answer}</answer>"
        if not self.tools:
            return Demonstration((f"{expression} = {task.answer}\n{final}",))
        return Demonstration((format_tool_call(self.tools[0].name, {"expression": expression}), final))

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


def _latex(fraction: str) -> str:
    top, _, bottom = fraction.partition("/")
    return rf"\frac{{{top}}}{{{bottom}}}"
