"""A sandbox that does what it is told, for tests of what stands on top."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future

from palestra.envs.sandbox.base import (
    ExecResult,
    Request,
    Sandbox,
    SandboxStats,
    Session,
    SessionEndedError,
    Status,
)

Answer = ExecResult | Exception


def result(status: Status, stdout: str = "", stderr: str = "", exit_code: int | None = 0) -> ExecResult:
    return ExecResult(stdout, stderr, status, exit_code, 0.1)


def _answered(answer: Answer) -> "Future[ExecResult]":
    future: Future[ExecResult] = Future()
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
    return future


class ScriptedSession(Session):
    """Gives its answers in turn, and has ended after the last one."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        self.answers = list(answers)
        self.cells: list[str] = []
        self.closed = 0

    @property
    def alive(self) -> bool:
        return bool(self.answers)

    def submit(self, code: str, *, stdin: str = "", timeout: float = 5.0) -> "Future[ExecResult]":
        self.cells.append(code)
        if not self.answers:
            return _answered(SessionEndedError("it has ended"))
        return _answered(self.answers.pop(0))

    def write_file(self, path: str, data: bytes) -> None:
        raise NotImplementedError

    def read_file(self, path: str, max_bytes: int = 0) -> bytes:
        raise NotImplementedError

    def list_files(self) -> list[str]:
        raise NotImplementedError

    def close(self) -> None:
        self.closed += 1


class ScriptedSandbox(Sandbox):
    """Gives the same answer to every execution; its sessions are those of the script, one after the other."""

    name = "scripted"

    def __init__(self, answer: Answer | None = None, sessions: Sequence[Sequence[Answer]] = ()) -> None:
        self.answer = answer or result("ok", "42\n")
        self.sessions = [ScriptedSession(answers) for answers in sessions]
        self.opened: list[ScriptedSession] = []
        self.requests: list[Request] = []
        self.closed = 0

    def _start(self, request: Request) -> "Future[ExecResult]":
        self.requests.append(request)
        return _answered(self.answer)

    def session(self) -> Session:
        self.opened.append(self.sessions.pop(0))
        return self.opened[-1]

    def stats(self) -> SandboxStats:
        return SandboxStats()

    def describe(self) -> dict[str, str]:
        return {"network": "none"}

    def close(self) -> None:
        self.closed += 1


class ScriptedByInput(ScriptedSandbox):
    """Answers an execution by its standard input; what is not in the script is never answered."""

    def __init__(self, script: Mapping[str, Answer]) -> None:
        super().__init__()
        self.script = script
        self.unanswered: list[Future[ExecResult]] = []

    def _start(self, request: Request) -> "Future[ExecResult]":
        self.requests.append(request)
        if (given := request.stdin.decode()) in self.script:
            return _answered(self.script[given])
        self.unanswered.append(Future())
        return self.unanswered[-1]
