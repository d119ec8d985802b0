"""PythonCoding: write a function from its description; hidden tests decide, and failed examples may be repaired.

Tasks are drawn from a grammar of operations on lists, strings, moves and numbers (`code_functions`), so that there
is no published solution to remember, and every task's hidden tests are known to fail its near misses. Expected
values are computed here by trusted operations and never enter the sandbox (`palestra.envs.grading.UnitTests`); the
agent learns which of the examples that it can see fail and how, and of the hidden tests only how many.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from palestra.envs.core import Demonstration, ProcessTerm, Reward, Task, TextEnv, Turn
from palestra.envs.grading import CaseResult, FunctionCase, UnitTests, Verdict
from palestra.envs.registry import register
from palestra.envs.syntax.fenced import last_block
from palestra.envs.tasks.code_functions import (
    HELD_OUT_OPERATIONS,
    TRAIN_OPERATIONS,
    TYPES,
    Function,
    Pool,
    draw_function,
)
from palestra.envs.toolcalls import format_tool_call
from palestra.envs.tools.base import Tool
from palestra.envs.tools.python import PythonTool

TIMEOUT_S = 2.0
"""Wall time of a test; a right function takes less than a millisecond."""
_DRAWN = 1
"""Hidden inputs that are drawn for a task, beside those of all functions of its type."""
_NAMES = ("solve", "transform", "compute", "process")
_OTHER_ARGUMENTS = {"numbers": "values", "text": "line", "words": "items", "moves": "path", "n": "start"}
_ENDED = {
    "timeout": f"was stopped after {TIMEOUT_S:g} s",
    "memory": "ran out of memory",
    "output": "was stopped because it printed too much",
    "killed": "was killed",
}
_WITH_TOOL = {"tools": (PythonTool(stateful=True),), "max_turns": 8, "answers_in_fences": False}


@dataclass(slots=True)
class _Report:
    """What the tests of an answer gave; None where they were not run."""

    task: str
    answer: str
    defined: bool
    visible: Verdict | None = None
    hidden: Verdict | None = None

    @property
    def passed(self) -> bool:
        return self.hidden is not None and self.hidden.passed and (self.visible is None or self.visible.passed)


@register(
    "palestra/PythonCoding-v0",
    variants={
        "train": {},
        "test": {},
        "longer": {"steps": (5, 6)},
        "other-operations": {"pools": (TRAIN_OPERATIONS, HELD_OUT_OPERATIONS)},
        "wording": {"wording": 1},
        "no-examples": {"examples": 0},
        "train-tool": _WITH_TOOL,
        "test-tool": _WITH_TOOL,
    },
)
class PythonCoding(TextEnv):
    """Write a Python function from a description, tested in the sandbox, with three attempts."""

    tools: tuple[Tool, ...] = ()
    max_turns = 4
    attempts = 3
    blocking = True
    answers_in_fences = True
    instructions = (
        "Write the Python function that is described; it may use the standard library. Give its whole code as your "
        "answer. If tests fail you are told so and may answer again, three times in all."
    )
    process_terms = {
        "tests": ProcessTerm(
            0.0, 1.0, "the share of the visible examples that the last answer passes: hard-coding them pays 1"
        ),
    }

    steps: tuple[int, int] = (3, 4)
    """Fewest and most operations."""
    pools: tuple[Pool, ...] = (TRAIN_OPERATIONS,)
    """Where operations come from; with two, every other one comes from the second."""
    wording: int = 0
    """Which of the two wordings describes the function."""
    examples: int = 3
    """How many tests the agent can see."""

    _report: _Report | None = None

    def sample(self, rng: random.Random) -> Task:
        """Draw a function that its hidden tests tell from its near misses, and examples of it."""
        function = draw_function(rng, self.pools, self.steps, self.owns)
        visible, hidden = function.cases(rng, self.examples, _DRAWN)
        name = rng.choice(_NAMES)
        argument = _OTHER_ARGUMENTS[function.source] if self.wording else function.source
        return Task(
            prompt=_prompt(function, name, argument, visible, self.wording),
            answer=function.render(name, argument),
            key=function.key,
            data={"function": function, "name": name, "visible": visible, "hidden": hidden},
        )

    def grade(self, task: Task, answer: str) -> Reward:
        """Run the tests in the sandbox: the examples, and if they pass, the hidden ones.

        Raises:
            SandboxError: The sandbox failed, not the answer.
            MissingPrerequisiteError: This machine has no such sandbox.
        """
        report = self._report = self._tested(task, answer)
        if not self.examples:
            return Reward(float(report.passed))
        return Reward(float(report.passed), {"tests": report.visible.fraction if report.visible else 0.0})

    def feedback(self, task: Task, turn: Turn) -> str:
        """Tell how the examples failed, and how many hidden tests did."""
        assert turn.answer is not None
        report = self._report
        if report is None or (report.task, report.answer) != (task.key, turn.answer):
            report = self._tested(task, turn.answer)
        if not report.defined:
            return f"The answer does not define the function {task.data['name']}. Give its whole code."
        lines = []
        if report.visible is not None:
            cases = zip(task.data["visible"], report.visible.cases, strict=True)
            failed = [(value, case) for value, case in cases if case.status != "passed"]
            lines.append(f"{len(failed)} of {self.examples} examples fail.")
            lines += [_failure(task.data["name"], value, task.data["function"](value), case) for value, case in failed]
        lines.append(self._hidden_count(task, report))
        return "\n".join([*lines, "Correct the function and give its whole code again."])

    def solve(self, task: Task) -> Demonstration:
        """Give the reference implementation; with a tool, try it on the first example before."""
        answer = f"<answer>\n{task.answer}\n</answer>"
        if not self.tools:
            return Demonstration((answer,))
        code = f"{task.answer}\n\nprint({task.data['name']}({task.data['visible'][0]!r}))"
        return Demonstration((format_tool_call("python", {"code": code}), answer))

    def random_action(self, rng: random.Random) -> str:
        """Say something that is no code: a function drawn at random is right for one task in thousands."""
        return rng.choice(("<answer>1</answer>", "I do not know.", ""))

    def _tested(self, task: Task, answer: str) -> _Report:
        source = code_in(answer)
        if task.data["name"] not in source:
            return _Report(task.key, answer, defined=False)
        report = _Report(task.key, answer, defined=True)
        if self.examples:
            report.visible = _run(task, "visible", source)
        if report.visible is None or report.visible.passed:
            report.hidden = _run(task, "hidden", source)
        return report

    def _hidden_count(self, task: Task, report: _Report) -> str:
        if report.hidden is None and report.visible is not None:
            if any(case.status == "timeout" for case in report.visible.cases):
                return "The hidden tests were not run."
            report.hidden = _run(task, "hidden", code_in(report.answer))
        assert report.hidden is not None
        failed = sum(case.status != "passed" for case in report.hidden.cases)
        return f"{failed} of {len(report.hidden.cases)} hidden tests fail."


def code_in(answer: str) -> str:
    """Return the code of an answer: its last fenced block, or all of it if there is none."""
    block = last_block(answer)
    if block is None and answer.startswith("```"):  # never closed
        return answer.partition("\n")[2]
    return answer if block is None else block


def _run(task: Task, which: str, source: str) -> Verdict:
    function: Function = task.data["function"]
    cases = [FunctionCase(task.data["name"], [value], function(value)) for value in task.data[which]]
    return UnitTests(cases, timeout=TIMEOUT_S).grade(source)


def _failure(name: str, value: Any, expected: Any, case: CaseResult) -> str:
    what = case.detail if case.status == "wrong" else _ENDED.get(case.status, f"failed: {case.detail}")
    return f"{name}({value!r}) should be {expected!r}, but {what}."


def _prompt(function: Function, name: str, argument: str, visible: Sequence[Any], wording: int) -> str:
    takes, gives = TYPES[function.source], TYPES[function.gives]
    described = [step.describe(wording) for step in function.steps]
    if wording:
        head = f"Please implement `{name}({argument})` in Python. Its argument is {takes}, its result {gives}."
        links = ["Begin like this:", *["Then"] * (len(described) - 2), "Finally,"]
        body = " ".join(f"{link} {words}." for link, words in zip(links, described, strict=True))
        examples = [f"`{name}({value!r})` has to give `{function(value)!r}`." for value in visible]
        return " ".join([head, body, *examples])
    head = f"Write a Python function {name}({argument}) that takes {takes} and returns {gives}, in these steps:"
    steps = [f"{i}. {words[0].upper()}{words[1:]}." for i, words in enumerate(described, 1)]
    examples = ["Examples:", *(f"{name}({value!r}) == {function(value)!r}" for value in visible)] if visible else []
    return "\n".join([head, *steps, "The result of the last step is returned.", *examples])
