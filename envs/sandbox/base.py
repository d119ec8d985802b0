"""What a sandbox promises: code in, a result out, and two kinds of failure that are never mixed up.

What the code does (a traceback, an endless loop, a flood of output) is a value, `ExecResult`. What the
sandbox fails to do is an exception, `SandboxError`: nobody may be blamed, rewarded or punished for it.
"""

from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol, Self, runtime_checkable

from palestra.envs.errors import MissingPrerequisiteError, PalestraError

Status = Literal["ok", "error", "timeout", "memory", "output", "killed"]
"""How an execution ended, as the host saw it.

`ok`: exit code 0. `error`: any other exit code. `timeout`: killed after its wall time. `memory`: ended by a
`MemoryError` that nothing caught. `output`: killed for writing too much. `killed`: ended by a signal.
"""

DEFAULT_TIMEOUT_S = 5.0
KEPT_BYTES = 64 * 1024
"""How much of each output stream a result keeps."""


class SandboxError(PalestraError):
    """The sandbox itself failed; says nothing about the code that it should have run."""


class IsolationUnavailableError(MissingPrerequisiteError):
    """This machine cannot give the isolation that was asked for; nothing weaker is used instead."""

    def __init__(self, backend: str, reason: str, remedy: str) -> None:
        super().__init__(
            f"the sandbox '{backend}' cannot isolate code on this machine: {reason}. {remedy}. "
            "To run code without any isolation, with all your rights, ask for 'unsafe-process' by name"
        )


@dataclass(frozen=True, slots=True)
class ExecResult:
    """One finished execution."""

    stdout: str
    """The first 64 KiB, decoded as UTF-8 with replacement characters."""
    stderr: str
    """The same of the error stream."""
    status: Status
    """How it ended; derived from exit information and host clocks, never from what the code printed."""
    exit_code: int | None
    """The exit code, 128 + n after signal n; None where the host ended the execution."""
    wall_s: float
    """Seconds from the moment the code could run to the end of its last process."""


@runtime_checkable
class Sandbox(Protocol):
    """Runs Python code, each time from nothing: no call sees what another one left.

    Calls may come from several threads at once.
    """

    def run(self, code: str, *, stdin: str = "", timeout: float = DEFAULT_TIMEOUT_S) -> ExecResult:
        """Run `code` as the main module of a fresh interpreter and wait for its end.

        Args:
            code: Any text, whether or not it is Python.
            stdin: What the code can read from its standard input.
            timeout: Wall time in seconds, counted from when the code can run.

        Raises:
            SandboxError: The sandbox failed, or is closed.
        """
        ...

    def close(self) -> None:
        """Release what the sandbox holds; later calls of `run` fail. Closing twice is fine."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
