import threading
from collections.abc import Iterator

import pytest

from palestra.envs.errors import MissingPrerequisiteError
from palestra.envs.sandbox import ExecResult, SandboxError
from palestra.envs.sandbox.base import Status
from palestra.envs.tools import python
from palestra.envs.tools.base import ToolError
from palestra.envs.tools.python import MAX_SHOWN, PythonTool, describe


def result(status: Status, stdout: str = "", stderr: str = "", exit_code: int | None = 0) -> ExecResult:
    return ExecResult(stdout, stderr, status, exit_code, 0.1)


class Scripted:
    """A sandbox that does what it is told."""

    opened = 0

    def __init__(self, answer: ExecResult | Exception) -> None:
        self.answer = answer

    def run(self, code: str, *, stdin: str = "", timeout: float = 5.0) -> ExecResult:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture(autouse=True)
def fresh_sandboxes() -> Iterator[None]:
    python._shared_sandbox.cache_clear()
    yield
    python._shared_sandbox.cache_clear()


@pytest.mark.parametrize(
    ("outcome", "shown"),
    [
        (result("ok", "42\n"), "42"),
        (result("ok", "a\n\nb\n\n"), "a\n\nb"),
        (result("ok"), "(no output)"),
        (
            result("error", "1\n", "Traceback ...\n  1 / 0\nZeroDivisionError: x\n", 1),
            "1\nZeroDivisionError: x",
        ),
        (result("error", "", "", 3), "exited with code 3"),
        (result("timeout", "part", exit_code=None), "part\ntimed out after 5 s"),
        (result("memory", exit_code=113), "ran out of memory (MemoryError)"),
        (result("output", exit_code=None), "stopped: it printed too much"),
        (result("killed", exit_code=139), "killed by signal 11"),
    ],
)
def test_result_in_words(outcome: ExecResult, shown: str) -> None:
    assert describe(outcome, 5.0) == shown


def test_timeout_is_named_in_seconds() -> None:
    assert describe(result("timeout", exit_code=None), 0.5) == "timed out after 0.5 s"


def test_long_output_is_cut_with_a_notice() -> None:
    assert describe(result("ok", "x" * MAX_SHOWN), 5.0) == "x" * MAX_SHOWN
    shown = describe(result("ok", "x" * 50_000), 5.0)
    assert shown == "x" * MAX_SHOWN + f"\n[output cut after {MAX_SHOWN} characters]"


def test_long_error_is_cut() -> None:
    assert len(describe(result("error", "", "E" * 50_000, 1), 5.0)) == 300


def test_failure_of_the_sandbox_is_not_shown_to_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python, "open_sandbox", lambda name: Scripted(SandboxError("lost")))
    with pytest.raises(SandboxError, match="lost"):
        PythonTool().call({"code": "print(1)"})


def test_missing_isolation_is_raised_and_not_worked_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(MissingPrerequisiteError):
        PythonTool().call({"code": "print(1)"})


def test_wrong_call_is_the_agents_error() -> None:
    with pytest.raises(ToolError, match="needs the argument 'code'"):
        PythonTool().call({"source": "print(1)"})
    with pytest.raises(ToolError, match="type string"):
        PythonTool().call({"code": 1})


def test_sandbox_is_opened_once_and_not_before_the_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def open_sandbox(name: str) -> Scripted:
        opened.append(name)
        return Scripted(result("ok", "42\n"))

    monkeypatch.setattr(python, "open_sandbox", open_sandbox)
    tools = [PythonTool(), PythonTool(timeout=1), PythonTool(sandbox="other")]
    assert opened == []
    threads = [threading.Thread(target=tool.call, args=({"code": ""},)) for tool in tools * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(opened) == ["local", "other"]


def test_tool_says_that_it_blocks() -> None:
    assert PythonTool.blocking


def test_unsafe_process_is_used_where_it_is_asked_for() -> None:
    assert PythonTool(sandbox="unsafe-process").call({"code": "print(6 * 7)"}) == "42"


@pytest.mark.sandbox
def test_program_runs_in_the_sandbox() -> None:
    tool = PythonTool(timeout=1)
    assert tool.call({"code": "import os; print(6 * 7, os.getpid())"}) == "42 1"
    assert tool.call({"code": "while True: pass"}) == "timed out after 1 s"
    assert tool.call({"code": "print(1); x"}) == "1\nNameError: name 'x' is not defined"
