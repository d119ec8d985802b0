"""WordProblems: arithmetic told as a short story, with a calculator.

Problems like those of GSM8K (arXiv 2110.14168), but generated, as GSM-Infinite does (arXiv 2502.05252): nothing is
contaminated, every answer is the last value of the computation that the story tells, and problems are told apart by
the computation and the kind of story, so a held-out one is more than a training one with other names. Grading is
strict on the exact value, whatever its form.
"""

import random
import re
from collections.abc import Sequence
from fractions import Fraction

from palestra.envs.core import Demonstration, ProcessTerm, Reward, Task, TextEnv, Turn
from palestra.envs.expressions import parse_fraction
from palestra.envs.registry import register
from palestra.envs.tasks.word_stories import ITEMS, PARTS, tell
from palestra.envs.toolcalls import format_tool_call
from palestra.envs.tools.base import Tool
from palestra.envs.tools.calculator import Calculator

_WORDS = "|".join((*ITEMS, *PARTS, "boxes", "dollars"))
_UNIT = re.compile(rf"\s*(?:\\text\{{\s*(?:{_WORDS})\s*\}}|\b(?:{_WORDS}))$", re.IGNORECASE)


@register(
    "palestra/WordProblems-v0",
    variants={
        "train": {},
        "test": {},
        "more-steps": {"steps": (5, 7)},
        "bigger-numbers": {"numbers": (100, 999)},
        "wording": {"reworded": True},
        "distractor": {"asides": 1},
        "tool-renamed": {"tools": (Calculator("abacus"),)},
        "no-tool": {"tools": (), "max_turns": 4},
    },
)
class WordProblems(TextEnv):
    """Arithmetic word problems of several steps, with a calculator."""

    tools: tuple[Tool, ...] = (Calculator(),)
    max_turns = 10
    instructions = (
        "Solve the word problem step by step. The answer is a number: an integer, or exactly a fraction or decimal."
    )
    process_terms = {
        "steps": ProcessTerm(
            0.0, 1.0, "having the calculator compute many things: the needed values count whatever they were meant for"
        ),
    }

    steps: tuple[int, int] = (2, 4)
    """Fewest and most computations that lead to the answer."""
    numbers: tuple[int, int] = (2, 60)
    """Smallest and largest number of most sentences (factors and divisors are small)."""
    asides: int = 0
    """Sentences that have nothing to do with the question."""
    reworded: bool = False
    """Whether the story is told in phrases that training does not use."""

    def sample(self, rng: random.Random) -> Task:
        """Draw a story whose answer does not stand in it."""
        while True:
            story = tell(rng, rng.randint(*self.steps), self.numbers, self.reworded, self.asides)
            if story.value not in story.numbers:
                break
        return Task(
            prompt=" ".join(story.sentences),
            answer=str(story.value),
            key="; ".join(story.key),
            data={"steps": story.steps, "numbers": story.numbers},
        )

    def grade(self, task: Task, answer: str) -> Reward:
        """Compare values; a currency sign and a unit in words do not count."""
        return Reward(float(parse_amount(answer) == Fraction(task.answer)))

    def process(self, task: Task, turns: Sequence[Turn]) -> dict[str, float]:
        """Pay each intermediate value that the calculator gave, in order."""
        before, now = _computed(task, turns[:-1]), _computed(task, turns)
        return {"steps": (now - before) / len(task.data["steps"])} if now > before else {}

    def solve(self, task: Task) -> Demonstration:
        """Compute one step per turn with the calculator; without it, one per line."""
        final = f"<answer>{task.answer}</answer>"
        if not self.tools:
            lines = [f"{step.expression} = {step.value}" for step in task.data["steps"]]
            return Demonstration(("\n".join([*lines, final]),))
        calls = [format_tool_call(self.tools[0].name, {"expression": s.expression}) for s in task.data["steps"]]
        return Demonstration((*calls, final))

    def guess(self, task: Task, rng: random.Random) -> str:
        """The numbers of the text combined in their order by random operations."""
        first, *others = task.data["numbers"]
        value = Fraction(first)
        for number in others:
            value = rng.choice((value + number, abs(value - number), value * number, value / number))
        return str(value)


def parse_amount(text: str) -> Fraction | None:
    """Read a number that may have a dollar sign before it or the unit behind it; None for anything else."""
    text = _UNIT.sub("", text.strip().rstrip("."))
    return parse_fraction(text.removeprefix("\\").removeprefix("$") if text.count("$") == 1 else text)


def _computed(task: Task, turns: Sequence[Turn]) -> int:
    """Count how many of the steps' values the calculator has given so far, in order."""
    steps, done = task.data["steps"], 0
    for result in (result for turn in turns for result in turn.results):
        if done < len(steps) and parse_fraction(result) == steps[done].value:
            done += 1
    return done
