"""What a sandbox promises: code in, a result out, and two kinds of failure that are never mixed up.

What the code does (a traceback, an endless loop, a flood of output) is a value, `ExecResult`. What the
sandbox fails to do is an exception, `SandboxError`: nobody may be blamed, rewarded or punished for it.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from types import TracebackType
from typing import ClassVar, Literal, Self, TypeVar

from palestra.envs.errors import MissingPrerequisiteError, PalestraError

Status = Literal["ok", "error", "timeout", "memory", "output", "killed", "sandbox-failure"]
"""How an execution ended, as the host saw it.

`ok`: exit code 0. `error`: any other exit code. `timeout`: stopped after its wall time. `memory`: ended by a
`MemoryError` that nothing caught, or killed by the memory limit. `output`: killed for writing too much.
`killed`: ended by a signal. `sandbox-failure`: the sandbox failed, and nothing is known about the code; only
`run_many` returns it, everything else raises `SandboxError`.
"""

DEFAULT_TIMEOUT_S = 5.0
MAX_TIMEOUT_S = 86_400.0
KEPT_BYTES = 64 * 1024
"""How much of each output stream a result keeps."""
MAX_OUTPUT_BYTES = 4 * 1024 * 1024
"""Output of one stream beyond which the code is killed."""
MAX_SOURCE_BYTES = 8 * 1024 * 1024
"""Longest source, and longest standard input."""
MAX_FILE_BYTES = 16 * 1024 * 1024
"""Largest file that goes in or comes out, and largest sum of the files of one call."""

_Result = TypeVar("_Result")


class SandboxError(PalestraError):
    """The sandbox itself failed; says nothing about the code that it should have run."""


class SessionEndedError(PalestraError):
    """The session's own code ended it (it ran over its time, crashed, ended its process): its state is gone."""


class IsolationUnavailableError(MissingPrerequisiteError):
    """This machine cannot give the isolation that was asked for; nothing weaker is used instead."""

    def __init__(self, backend: str, reason: str, remedy: str) -> None:
        super().__init__(
            f"the sandbox '{backend}' cannot isolate code on this machine: {reason}. {remedy}. "
            "To run code without any isolation, with all your rights, ask for 'unsafe-process' by name"
        )


_BOUNDS = {
    "memory_mib": (16, 1 << 20),
    "tmp_mib": (1, 1 << 20),
    "files": (16, 1 << 24),
    "tasks": (2, 1 << 15),
    "open_files": (16, 1 << 20),
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one execution, or one session, may use. A value that makes no sense raises ValueError."""

    memory_mib: int = 1024
    """Memory beyond what the interpreter itself takes."""
    tmp_mib: int = 64
    """Size of /tmp, and of a file."""
    files: int = 4096
    """Files and folders in /tmp."""
    tasks: int = 64
    """Threads and processes together."""
    open_files: int = 256
    """Open descriptors of a process."""
    processes: bool | None = None
    """Whether new processes are allowed; None: where the memory of all of them together can be limited."""

    def __post_init__(self) -> None:
        for name, (least, most) in _BOUNDS.items():
            value = getattr(self, name)
            if not isinstance(value, int) or not least <= value <= most:
                raise ValueError(f"Limits.{name} must be a whole number from {least} to {most}, not {value!r}")


@dataclass(frozen=True, slots=True)
class Request:
    """What a backend gets to run."""

    code: bytes
    stdin: bytes
    timeout: float
    """Wall time in seconds from the moment the code can run."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Relative path -> content, to be there before the code starts."""


@dataclass(frozen=True, slots=True)
class ExecResult:
    """One finished execution."""

    stdout: str
    """The first 64 KiB, decoded as UTF-8 with replacement characters."""
    stderr: str
    """The same of the error stream."""
    status: Status
    """How it ended; derived from exit information and clocks outside, never from what the code printed."""
    exit_code: int | None
    """The exit code, 128 + n after signal n; None where the host ended the execution. 0 or 1 for a cell
    that did not end its interpreter."""
    wall_s: float
    """Seconds from the moment the code could run to the end of its last process."""
    cpu_s: float = 0.0
    """Seconds of processor time, user and system, of the code and of the processes it waited for."""


@dataclass(slots=True)
class SandboxStats:
    """What a sandbox did since it was opened. Its own failures are counted apart from those of the code."""

    executions: int = 0
    """One-shot executions and cells that came to a result."""
    retried: int = 0
    """One-shot executions that were run again because the sandbox failed the first time."""
    failed: int = 0
    """Calls that ended with `SandboxError`."""
    workers_replaced: int = 0
    """Workers (processes, containers, cloud sandboxes) that died or were given up, and were replaced."""
    last_failure: str = ""
    """What went wrong when the sandbox itself failed most recently, whoever noticed; empty: nothing yet."""


def wait(future: "Future[_Result]") -> _Result:
    """Wait for a result; a caller that stops waiting (Ctrl-C) takes the execution back."""
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


class Session(ABC):
    """An interpreter whose variables and files stay from cell to cell, until it is closed.

    Its cells are answered by an interpreter that their own code controls: whatever a cell reports about itself
    (`status` ok or error, output) may be made up by an earlier cell. The confinement does not depend on it.
    """

    @property
    @abstractmethod
    def alive(self) -> bool:
        """Whether another cell can run."""

    @abstractmethod
    def submit(self, code: str, *, stdin: str = "", timeout: float = DEFAULT_TIMEOUT_S) -> "Future[ExecResult]":
        """Start a cell; cancelling the future ends the session."""

    def run(self, code: str, *, stdin: str = "", timeout: float = DEFAULT_TIMEOUT_S) -> ExecResult:
        """Run a cell and wait for its end; cells of a session run one after the other.

        A last statement that is an expression has its value shown, unless that is None. `exit()` ends the cell,
        not the session.
        A cell that runs over its time is interrupted (`KeyboardInterrupt`) and keeps its state if it heeds
        that at once; otherwise the session is ended, and `alive` turns False.

        Raises:
            SessionEndedError: An earlier cell ended the session.
            SandboxError: The sandbox failed, or is closed.
        """
        return wait(self.submit(code, stdin=stdin, timeout=timeout))

    async def arun(self, code: str, *, stdin: str = "", timeout: float = DEFAULT_TIMEOUT_S) -> ExecResult:
        """`run` for asyncio."""
        return await asyncio.wrap_future(self.submit(code, stdin=stdin, timeout=timeout))

    @abstractmethod
    def write_file(self, path: str, data: bytes) -> None:
        """Write a file; parent folders are made.

        Args:
            path: Relative to the working folder, without `..`.
            data: At most `MAX_FILE_BYTES`.

        Raises:
            ValueError: The path is not such a path, or the file is too large.
            FileNotFoundError: Something on the path is not a folder, or there is no room.
            SessionEndedError: An earlier cell ended the session.
        """

    @abstractmethod
    def read_file(self, path: str, max_bytes: int = MAX_FILE_BYTES) -> bytes:
        """Return the first `max_bytes` of a regular file; links are not followed.

        Raises:
            ValueError: The path is not a relative path without `..`.
            FileNotFoundError: There is no such regular file.
            SessionEndedError: An earlier cell ended the session.
        """

    @abstractmethod
    def list_files(self) -> list[str]:
        """Return the relative paths of all regular files, sorted; at most the first 10,000 found."""

    @abstractmethod
    def close(self) -> None:
        """End the session and everything in it. Closing twice is fine."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)


class Sandbox(ABC):
    """Runs Python code, each time from nothing: no call sees what another one left.

    Calls may come from several threads and event loops at once.
    """

    name: ClassVar[str]
    """What `open_sandbox` and `--sandbox` call it."""

    def submit(
        self,
        code: str,
        *,
        stdin: str = "",
        files: Mapping[str, bytes] | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> "Future[ExecResult]":
        """Start an execution as `run` does; cancelling the future ends it.

        Raises:
            ValueError: The time limit is no time, or a path in `files` is not relative and without `..`.
        """
        request = make_request(code, stdin, timeout, files or {})
        if isinstance(request, ExecResult):
            future: Future[ExecResult] = Future()
            future.set_result(request)
            return future
        return self._start(request)

    @abstractmethod
    def _start(self, request: Request) -> "Future[ExecResult]":
        """Start an execution. The future fails with `SandboxError`; it may be cancelled at any time."""

    def run(
        self,
        code: str,
        *,
        stdin: str = "",
        files: Mapping[str, bytes] | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> ExecResult:
        """Run `code` as the main module of a fresh interpreter and wait for its end.

        Args:
            code: Any text, whether or not it is Python.
            stdin: What the code can read from its standard input.
            files: Relative path -> content of files in the code's working folder; modules among them can be
                imported, unless a package that is loaded already has their name. `main.py` is the code itself.
            timeout: Wall time in seconds, counted from when the code can run.

        Raises:
            SandboxError: The sandbox failed (also when tried again), has no room for `files`, or is closed.
            ValueError: The time limit is no time, or a path in `files` is not relative and without `..`.
        """
        return wait(self.submit(code, stdin=stdin, files=files, timeout=timeout))

    async def arun(
        self,
        code: str,
        *,
        stdin: str = "",
        files: Mapping[str, bytes] | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> ExecResult:
        """`run` for asyncio: cancelling the task ends the execution."""
        return await asyncio.wrap_future(self.submit(code, stdin=stdin, files=files, timeout=timeout))

    def run_many(self, codes: Sequence[str], *, timeout: float = DEFAULT_TIMEOUT_S) -> list[ExecResult]:
        """Run several programs at once, as many as the sandbox runs side by side.

        Returns:
            A result for each, in order. Where the sandbox failed it has the status `sandbox-failure` and the
            reason as `stderr`, so that one failure does not lose the others.
        """
        futures = [self.submit(code, timeout=timeout) for code in codes]
        results = []
        try:
            for future in futures:
                try:
                    results.append(future.result())
                except SandboxError as error:
                    results.append(ExecResult("", str(error), "sandbox-failure", None, 0.0))
        except BaseException:
            for future in futures:
                future.cancel()
            raise
        return results

    @abstractmethod
    def session(self) -> Session:
        """Open an interpreter with state.

        Raises:
            SandboxError: The sandbox failed, or is closed.
        """

    async def asession(self) -> Session:
        """`session` for asyncio."""
        return await asyncio.to_thread(self.session)

    @abstractmethod
    def stats(self) -> SandboxStats:
        """Return what was done since the sandbox was opened."""

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """Return what is really enforced here, for logs: name of the measure -> state."""

    @abstractmethod
    def close(self) -> None:
        """Release what the sandbox holds; later calls fail. Closing twice is fine."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)


def make_request(code: str, stdin: str, timeout: float, files: Mapping[str, bytes]) -> Request | ExecResult:
    """Check what a caller asks for; a source or input longer than any honest one is the code's own failure.

    Raises:
        ValueError: The time limit is not a positive number, or a file's path or size is out of bounds.
        TypeError: The content of a file is not bytes.
    """
    if not 0 < timeout <= MAX_TIMEOUT_S:
        raise ValueError(f"timeout must be a positive number of seconds, at most a day, not {timeout}")
    if "main.py" in files:
        raise ValueError("'main.py' is the code itself; give the file another name")
    for path, data in files.items():
        check_path(path)
        check_bytes(path, data)
        if (above := next((str(p) for p in PurePosixPath(path).parents if str(p) in files), None)) is not None:
            raise ValueError(f"'{above}' cannot be a file and the folder of '{path}'")
    if sum(map(len, files.values())) > MAX_FILE_BYTES:
        raise ValueError(f"the files of a call may have {MAX_FILE_BYTES >> 20} MiB together")
    # Any text, lone surrogates included: a bad source is the interpreter's to refuse, not ours.
    source, given = code.encode("utf-8", "surrogatepass"), stdin.encode("utf-8", "surrogatepass")
    if max(len(source), len(given)) > MAX_SOURCE_BYTES:
        what = "source" if len(source) > MAX_SOURCE_BYTES else "standard input"
        return ExecResult("", f"SyntaxError: the {what} is longer than {MAX_SOURCE_BYTES >> 20} MiB\n", "error", 1, 0)
    return Request(source, given, timeout, files)


def check_bytes(path: str, data: object) -> None:
    """Raise TypeError unless `data`, the content of the file `path`, is bytes."""
    if not isinstance(data, bytes | bytearray):
        raise TypeError(f"the content of '{path}' must be bytes, not {type(data).__name__}")


def check_path(path: str) -> str:
    """Return `path` if it is a relative path without `..` that stays in the working folder.

    Raises:
        ValueError: It is not.
    """
    parts = path.split("/")
    try:
        long = any(len(part.encode("utf-8")) > 255 for part in parts)
    except UnicodeEncodeError:
        raise ValueError(f"not a path in Unicode: {path[:200]!r}") from None
    if "\0" in path or long or len(parts) > 16 or not all(parts) or {".", ".."} & set(parts):
        raise ValueError(f"not a relative path without '..': {PurePosixPath(path[:200])!s}")
    return path
