"""What GeneralPoints and Countdown share: write a formula from given numbers that makes a target; several attempts.

The feedback on a wrong attempt is a function of the attempt, the numbers and the target only: no solution is looked
at, so none can leak (the verifier of arXiv 2501.17161 compared attempts with prefixes of its solutions). Formulas are
parsed and valued as exact fractions, never evaluated as code.
"""

import random
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from palestra.envs.core import Demonstration, ProcessTerm, Reward, Task, TextEnv, Turn
from palestra.envs.expressions import ExpressionError, parse_formula
from palestra.envs.tasks.formulas import random_tree, write
from palestra.envs.toolcalls import format_tool_call

CLOSE = 2
"""How far from the target a legal formula may be to earn the process term `close`."""


class FormulaGame(TextEnv):
    """Base of the number games; a task's data hold `numbers` and `target`."""

    attempts = 5
    max_turns = 5
    process_terms = {
        "legal": ProcessTerm(0.0, 1.0, "any formula of the given numbers, such as their sum"),
        "close": ProcessTerm(0.0, 1.0, f"trying formulas until one is within {CLOSE} of the target, which many are"),
    }

    every_number: bool = True
    """Whether every number must be used; else each may be left out. None may be used twice."""
    worked: bool = True
    """Whether demonstrations work the formula out before they state it."""

    def grade(self, task: Task, answer: str) -> Reward:
        """Exactly the target, from exactly the numbers allowed."""
        distance = self.distance(task, answer)
        return Reward(float(distance == 0))

    def process(self, task: Task, turns: Sequence[Turn]) -> dict[str, float]:
        """Pay the first legal attempt of an episode, and the first that comes close."""
        *earlier, last = [None if turn.answer is None else self.distance(task, turn.answer) for turn in turns]
        if last is None:
            return {}
        before = [distance for distance in earlier if distance is not None]
        earned = {} if before else {"legal": 1.0}
        if last <= CLOSE and not any(distance <= CLOSE for distance in before):
            earned["close"] = 1.0
        return earned

    def feedback(self, task: Task, turn: Turn) -> str:
        """Say what is wrong with the formula itself: its syntax, its numbers, its value."""
        try:
            formula = parse_formula(turn.answer or "")
        except ExpressionError as error:
            return f"Not a formula of numbers, + - * / and parentheses: {error} Try again."
        missing, extra = self.misused(task, formula.numbers)
        faults = []
        if formula.value != task.data["target"]:
            faults.append(f"it makes {formula.value}, not {task.data['target']}")
        if extra:
            faults.append(f"it uses {_listing(extra)}, which you do not have (or not that often)")
        if missing:
            faults.append(f"it leaves out {_listing(missing)}")
        return f"Wrong: {'; '.join(faults)}. Try again."

    def guess(self, task: Task, rng: random.Random) -> str:
        """A random formula of all the numbers."""
        return write(random_tree(task.data["numbers"], rng))

    def solve(self, task: Task) -> Demonstration:
        """Work out the known formula, with the calculator if there is one, and state it."""
        final = f"<answer>{task.answer}</answer>"
        lines = self.working(task) if self.worked else []
        if self.tools:
            call = format_tool_call(self.tools[0].name, {"expression": task.answer})
            return Demonstration(("\n".join([*lines, call]), final))
        return Demonstration(("\n".join([*lines, final]),))

    @abstractmethod
    def working(self, task: Task) -> list[str]:
        """Return the lines by which a demonstration arrives at the formula."""

    def distance(self, task: Task, answer: str) -> Fraction | None:
        """Return how far from the target the value of a legal formula is; None for anything else."""
        try:
            formula = parse_formula(answer)
        except ExpressionError:
            return None
        if any(self.misused(task, formula.numbers)):
            return None
        target: int = task.data["target"]
        return abs(formula.value - target)

    def misused(self, task: Task, used: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return the numbers that a formula leaves out but must not, and those that it uses but does not have."""
        given, taken = Counter(task.data["numbers"]), Counter(used)
        missing = sorted((given - taken).elements()) if self.every_number else []
        return missing, sorted((taken - given).elements())


def _listing(numbers: Sequence[int]) -> str:
    text = ", ".join(str(number)[:12] for number in numbers[:6])
    return f"{text}, ..." if len(numbers) > 6 else text
