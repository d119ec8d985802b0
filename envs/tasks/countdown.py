"""Countdown: make a target from some numbers, each used at most once.

The task is `countdown` of reasoning-gym (arXiv 2505.24760), the transfer task of arXiv 2509.25123, repaired: the
prompt says whether numbers may be left out, and grading agrees with it (the original says "at most once" in one of
its phrasings and then wants all of them); formulas are parsed, not executed; values are exact; instances are built
backwards from a formula, so each is solvable and none needs a search.
"""

import random

from palestra.envs.core import Task
from palestra.envs.registry import register
from palestra.envs.tasks.formula_game import FormulaGame
from palestra.envs.tasks.formulas import Tree, explain, write
from palestra.envs.tools.base import Tool
from palestra.envs.tools.calculator import Calculator

LARGEST = 2_000
"""Largest number on the way of the formula that a task is built from."""
_DRAWS = 10_000


@register(
    "palestra/Countdown-v0",
    variants={
        "train": {},
        "test": {},
        "numbers-5": {"count": (5, 5)},
        "numbers-6": {"count": (6, 6)},
        "bigger-targets": {"targets": (200, 999)},
        "wording": {"reworded": True},
        "all-numbers": {"every_number": True},
        "train-tool": {"tools": (Calculator(),), "max_turns": 6},
        "test-tool": {"tools": (Calculator(),), "max_turns": 6},
    },
)
class Countdown(FormulaGame):
    """Make a target from three to six numbers with + - * /, each used at most once; three attempts with feedback."""

    tools: tuple[Tool, ...] = ()
    every_number = False
    attempts = 3
    max_turns = 3
    instructions = "Answer with one formula of the given numbers, + - * / and parentheses, for example (3+5)*7."

    count: tuple[int, int] = (3, 4)
    """Fewest and most numbers."""
    numbers: tuple[int, int] = (1, 99)
    """Smallest and largest number."""
    targets: tuple[int, int] = (10, 199)
    """Smallest and largest target."""
    reworded: bool = False
    """Whether the task is put in words that training does not use."""

    def sample(self, rng: random.Random) -> Task:
        """Draw numbers and combine them, or all but one of more than three, until the target is in range.

        Formulas that only add are passed over, since a guesser finds those, and so are those that come back to a
        number they had before: that number could be left out.

        Raises:
            RuntimeError: No draw fits: the variant's parameters ask for the impossible.
        """
        for _ in range(_DRAWS):
            numbers = [rng.randint(*self.numbers) for _ in range(rng.randint(*self.count))]
            used = len(numbers) - (not self.every_number and len(numbers) > 3 and rng.random() < 0.5)
            values, tree = _build(numbers[:used], rng)
            target, distinct = values[-1], len(set(values + numbers)) == len(values) + len(set(numbers))
            if self.targets[0] <= target <= self.targets[1] and distinct and target != sum(numbers[:used]):
                break
        else:
            raise RuntimeError(f"no task found in {_DRAWS} draws; widen the range of targets")
        rng.shuffle(numbers)
        return Task(
            prompt=self._prompt(numbers, target),
            answer=write(tree),
            key=f"{' '.join(map(str, sorted(numbers)))} -> {target}",
            data={"numbers": numbers, "target": target, "tree": tree},
        )

    def working(self, task: Task) -> list[str]:
        """One line per operation, with the numbers that are left after it."""
        return explain(task.data["tree"], task.data["numbers"])

    def _prompt(self, numbers: list[int], target: int) -> str:
        listing = ", ".join(map(str, numbers))
        rule = "Use each number at most once; some may be left out."
        if self.every_number:
            rule = "Use every number exactly once."
        if self.reworded:
            return (
                f"You are given {listing}. Find an arithmetic expression worth {target} in which none of them occurs "
                "more often than it is given (not all need to occur) and no other number does."
            )
        return f"Make {target} from the numbers {listing} with + - * / and parentheses. {rule}"


def _build(numbers: list[int], rng: random.Random) -> tuple[list[int], Tree]:
    """Combine two parts at a time, at random, through positive integers up to `LARGEST` only.

    Returns the values made on the way, the last being that of the returned formula.
    """
    parts: list[tuple[int, Tree]] = [(number, number) for number in numbers]
    values = []
    while len(parts) > 1:
        joined = _join(parts.pop(rng.randrange(len(parts))), parts.pop(rng.randrange(len(parts))), rng)
        values.append(joined[0])
        parts.append(joined)
    return values, parts[0][1]


def _join(one: tuple[int, Tree], two: tuple[int, Tree], rng: random.Random) -> tuple[int, Tree]:
    (large, before), (small, after) = (one, two) if one[0] >= two[0] else (two, one)
    results = [(large + small, "+")]
    if large > small:
        results.append((large - small, "-"))
    if small > 1 and large * small <= LARGEST:
        results.append((large * small, "*"))
    if small > 1 and large % small == 0:
        results.append((large // small, "/"))
    value, operator = rng.choice(results)
    return value, (before, operator, after)
