"""Hidden tests of submitted code, with a verdict that the code can neither read nor forge.

What is expected never enters the sandbox: an execution gets the submission and the input of one case, and what
it writes is compared on the host. The submission shares its process with the few lines that call it, so it may
write whatever it likes in their place; that is no loss, because exactly one answer per case is read, and the only
one that passes is the right one. No execution sees the input of another case or anything that one left behind.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from palestra.envs.grading.values import check_tolerance, equal_tokens, equal_values, from_json, to_json
from palestra.envs.sandbox.base import DEFAULT_TIMEOUT_S, KEPT_BYTES, ExecResult, SandboxError
from palestra.envs.sandbox.shared import shared_sandbox

CaseStatus = Literal["passed", "wrong", "error", "timeout", "memory", "output", "killed", "skipped"]
"""`wrong`: another answer than expected. `error`: the code failed, or gave nothing that could be read. `skipped`:
not looked at, after an earlier failure. The others are those of the sandbox (`palestra.envs.sandbox.base.Status`).
"""

MAX_EXPECTED_BYTES = 48 * 1024
"""Longest expected value (as JSON) or output: a sandbox keeps 64 KiB of what a program writes."""
MAX_INPUT_BYTES = 4 * 1024 * 1024
"""Longest arguments (as JSON) or standard input of a case."""
_MAX_DETAIL = 300

# Calls the function. The result goes to what was standard output; what the submission prints goes nowhere, so that
# an honest one cannot spoil its own result. Ends at once: threads and exit handlers have no say any more.
_DRIVER = """\
def main():
    import json, os, sys, types

    def plain(value):
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        if isinstance(value, dict):
            if not all(isinstance(key, str) for key in value):
                raise TypeError("the keys of a result must be strings")
            return {key: plain(item) for key, item in value.items()}
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise TypeError(f"a result must not hold a {type(value).__name__}")

    task = json.loads(sys.stdin.read())
    result = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    module = sys.modules["submission"] = types.ModuleType("submission")
    exec(compile(task["source"], "submission.py", "exec", dont_inherit=True), module.__dict__)
    text = json.dumps(plain(getattr(module, task["function"])(*task["arguments"]))).encode()
    while text:
        text = text[os.write(result, text):]
    os._exit(0)

main()
"""


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What became of one case."""

    status: CaseStatus
    detail: str = ""
    """Why it did not pass, without the expected value. Not for the agent if the case is hidden: the submission can
    put the input it was given there."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a submission."""

    cases: tuple[CaseResult, ...]
    """One for each case, in their order."""

    @property
    def passed(self) -> bool:
        """Whether all cases passed."""
        return all(case.status == "passed" for case in self.cases)

    @property
    def fraction(self) -> float:
        """The share of cases that passed; where grading stopped early, the skipped ones count as not passed."""
        return sum(case.status == "passed" for case in self.cases) / len(self.cases)


class Case(Protocol):
    """One input with what is expected for it."""

    def program(self, source: str) -> tuple[str, str]:
        """Return the code that tries the submission `source`, and its standard input."""
        ...

    def judge(self, written: str) -> CaseResult:
        """Compare what that code wrote, which may be anything, with what is expected."""
        ...


@dataclass(frozen=True, slots=True)
class FunctionCase:
    """A call of a function that the submission defines at its top level.

    Arguments and results are JSON; tuples count as lists. Results are compared by `equal_values`: of the same
    type, so that neither `True` nor `1.0` is 1.

    Raises:
        ValueError: A value is no JSON or too large, or the tolerance or the name makes no sense.
    """

    function: str
    """Its name."""
    arguments: list[Any] | tuple[Any, ...]
    """Positional arguments."""
    expected: Any
    """What it should return."""
    tolerance: float | None = None
    """How far a number may be off where a float is expected, relative or absolute; None: not at all."""

    def __post_init__(self) -> None:
        check_tolerance(self.tolerance)
        if not self.function.isidentifier():
            raise ValueError(f"not the name of a function: {self.function!r}")
        if not isinstance(self.arguments, list | tuple):
            raise ValueError(f"the arguments of a case are a list, not {self.arguments!r}")
        _check_size("arguments", to_json(self.arguments), MAX_INPUT_BYTES)
        _check_size("expected value", to_json(self.expected), MAX_EXPECTED_BYTES)

    def program(self, source: str) -> tuple[str, str]:
        """Return the code that calls the function; the arguments are in its standard input."""
        task = {"source": source, "function": self.function, "arguments": self.arguments}
        return _DRIVER, json.dumps(task)

    def judge(self, written: str) -> CaseResult:
        """Compare the returned value."""
        if not written:
            return CaseResult("error", "the code ended before the function returned")
        try:
            got = from_json(written)
        except ValueError as error:
            return CaseResult("error", f"no result could be read: {error}"[:_MAX_DETAIL])
        if equal_values(from_json(to_json(self.expected)), got, self.tolerance):
            return CaseResult("passed")
        return CaseResult("wrong", f"returned {written}"[:_MAX_DETAIL])


@dataclass(frozen=True, slots=True)
class ProgramCase:
    """A run of the submission as a program, from standard input to standard output, compared by `equal_tokens`.

    Raises:
        ValueError: A text is too long, or the tolerance makes no sense.
    """

    stdin: str
    """What it can read."""
    expected: str
    """What it should print."""
    tolerance: float | None = None
    """How far a number may be off where one with a point or exponent is expected; None: not at all."""

    def __post_init__(self) -> None:
        check_tolerance(self.tolerance)
        _check_size("standard input", self.stdin, MAX_INPUT_BYTES)
        _check_size("expected output", self.expected, MAX_EXPECTED_BYTES)

    def program(self, source: str) -> tuple[str, str]:
        """Return the submission itself."""
        return source, self.stdin

    def judge(self, written: str) -> CaseResult:
        """Compare the output."""
        if equal_tokens(self.expected, written, self.tolerance):
            return CaseResult("passed")
        return CaseResult("wrong", f"printed {written.rstrip()}"[:_MAX_DETAIL])


class UnitTests:
    """Grades submissions by the same cases; safe to use from several threads.

    Args:
        cases: At least one.
        timeout: Seconds of wall time per case.
        sandbox: Name as for `open_sandbox`; None for the default of the process (`--sandbox`).

    Raises:
        ValueError: There is no case.
    """

    def __init__(
        self, cases: Sequence[Case], *, timeout: float = DEFAULT_TIMEOUT_S, sandbox: str | None = None
    ) -> None:
        if not cases:
            raise ValueError("no cases: every submission would pass")
        self.cases = tuple(cases)
        self.timeout = timeout
        self.sandbox = sandbox

    def grade(self, source: str, *, stop_early: bool = False) -> Verdict:
        """Try a submission on the cases, as many at once as the sandbox runs side by side.

        Args:
            source: Any text, whether or not it is Python.
            stop_early: Whether to skip the cases behind the first one, in their order, that does not pass.

        Raises:
            SandboxError: The sandbox failed; nothing is known about the submission.
            MissingPrerequisiteError: This machine has no such sandbox.
        """
        sandbox = shared_sandbox(self.sandbox)
        futures = []
        results: list[CaseResult] = []
        try:
            for case in self.cases:
                code, stdin = case.program(source)
                futures.append(sandbox.submit(code, stdin=stdin, timeout=self.timeout))
            for case, future in zip(self.cases, futures, strict=True):
                results.append(_judge(case, future.result()))
                if stop_early and results[-1].status != "passed":
                    break
        finally:
            for future in futures[len(results) :]:
                future.cancel()
        skipped = len(self.cases) - len(results)
        return Verdict((*results, *[CaseResult("skipped")] * skipped))


def _judge(case: Case, result: ExecResult) -> CaseResult:
    if result.status == "sandbox-failure":
        raise SandboxError(result.stderr)
    if result.status != "ok":
        last = result.stderr.rstrip().rsplit("\n", 1)[-1]
        return CaseResult(result.status, last[:_MAX_DETAIL])
    if len(result.stdout.encode("utf-8", "surrogatepass")) >= KEPT_BYTES:  # perhaps cut
        return CaseResult("wrong", f"wrote {KEPT_BYTES} bytes or more, longer than any right answer")
    return case.judge(result.stdout)


def _check_size(what: str, text: str, most: int) -> None:
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > most:
        raise ValueError(f"the {what} of a case may have {most} bytes, not {size}")
