"""The host's side of a worker: something that runs programs and sessions until it fails.

A worker never repeats anything and never recovers: whatever goes wrong makes it `failed`, everything under way
is told so (`InfrastructureError`), and the pool replaces it.
"""

import os
import selectors
import socket
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Protocol, TypeVar

from palestra.envs.sandbox.base import Request, SandboxError, SessionEndedError
from palestra.envs.sandbox.bundle import memory_file
from palestra.envs.sandbox.inside import files
from palestra.envs.sandbox.inside.execution import Child, Done, Group, InfrastructureError, Outcome, RefusedError
from palestra.envs.sandbox.inside.supervisor import TOO_MANY_FILES, Supervisor

START_LIMIT_S = 60.0
"""Seconds that a worker may take to import its packages and say that it is ready."""
_END_S = 5.0
ENDED = "the session was ended by its own code; open a new one"
Cancel = Callable[[], None]
_T = TypeVar("_T")


def nothing() -> None:
    """There is nobody to tell."""


class WorkerSession(Protocol):
    """A session in a worker; its methods may be called from any thread."""

    def cell(self, request: Request, done: Done) -> None:
        """Run a cell; `done` is called in the worker's thread."""

    def write(self, path: str, data: bytes) -> None:
        """As `Session.write_file`."""

    def read(self, path: str, limit: int) -> bytes:
        """As `Session.read_file`."""

    def files(self) -> list[str]:
        """As `Session.list_files`."""

    def close(self, closed: Callable[[], None] = ...) -> None:
        """End it, without waiting.

        Args:
            closed: Called once, from any thread, when nothing of it is left, or nobody can say any more. Where the
                worker has other executions beside it, when it is told to end.
        """


class Worker(ABC):
    """See the module docstring. Methods may be called from any thread; callbacks come in the worker's own."""

    exclusive: bool
    """Whether a session has the worker for itself."""
    failed: str | None = None
    """Why it can do nothing more."""
    ended_by_code = False
    """Whether it failed by the doing of a session's code: then that session has ended, and no sandbox has failed."""

    @abstractmethod
    def run(self, request: Request, done: Done) -> Cancel:
        """Run a program."""

    @abstractmethod
    def open(self, opened: Callable[[WorkerSession | InfrastructureError], None]) -> None:
        """Open a session."""

    @abstractmethod
    def facts(self) -> str:
        """JSON that describes what runs inside."""

    @abstractmethod
    def close(self) -> None:
        """End it and everything in it; twice is fine."""


class ProcessWorker(Worker):
    """A zygote process, under a supervisor in a thread of this process."""

    exclusive = False

    def __init__(
        self,
        start: Callable[[int], "subprocess.Popen[bytes]"],
        *,
        spares: int,
        new_group: Callable[[], Group] | None,
        settle: Callable[[Child], None],
        alone: Callable[[Child], bool] | None = None,
    ) -> None:
        """Start it and wait until it is ready.

        Args:
            start: Starts the zygote, given the descriptor of its end of the control socket, with a pipe as its
                standard error. Called in the worker's thread: the kernel may end a process with the thread
                that started it.
            spares: Children kept ready.
            new_group: As for `Supervisor`.
            settle: As for `Supervisor`.
            alone: As for `Supervisor`.

        Raises:
            SandboxError: The zygote did not start; says what it wrote.
        """
        self._calls: deque[tuple[Callable[[Supervisor], None], Callable[[], None]]] = deque()
        self._gate = threading.RLock()  # the end of a forgotten session may come in the middle
        self._over = False
        self._closing = False
        self._facts: str | None = None
        self._ready = threading.Event()
        self._waker, self._woken = socket.socketpair()
        for end in (self._waker, self._woken):
            end.setblocking(False)

        def live() -> None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            supervisor = Supervisor(ours, spares=spares, new_group=new_group, settle=settle, alone=alone)
            try:
                with theirs:
                    process = start(theirs.fileno())
            except (OSError, SandboxError) as error:
                supervisor.fail(str(error))
                self._end(supervisor, ours, None)
                return
            try:
                self._loop(supervisor)
            except Exception as error:  # nobody may wait for a thread that is gone
                supervisor.fail(f"unexpected {type(error).__name__}: {error}")
            self._end(supervisor, ours, process)

        self._thread = threading.Thread(target=live, name="palestra-sandbox", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._facts is None:
            self._thread.join()
            raise SandboxError(f"the sandbox did not start: {self.failed}")

    def run(self, request: Request, done: Done) -> Cancel:
        """Run a program."""
        done = _once(done)
        cancels: list[Cancel] = []

        def start(supervisor: Supervisor) -> None:
            if (task := _task(request, done)) is not None:
                cancels.append(supervisor.run(*task, dict(request.files), request.timeout, done))

        self.post(start, lambda: done(self._gone()))

        def cancel(supervisor: Supervisor) -> None:
            for started in cancels:
                started()

        return lambda: self.post(cancel, nothing)

    def open(self, opened: Callable[[WorkerSession | InfrastructureError], None]) -> None:
        """Open a session."""

        def take(child: Child | InfrastructureError) -> None:
            opened(child if isinstance(child, InfrastructureError) else _ProcessSession(self, child))

        self.post(lambda supervisor: supervisor.open(take), lambda: opened(self._gone()))

    def facts(self) -> str:
        """JSON that describes what runs inside."""
        assert self._facts is not None
        return self._facts

    def close(self) -> None:
        """End the zygote, which takes all children along."""
        self._closing = True
        self.post(_nothing_with, nothing)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def post(self, call: Callable[[Supervisor], None], refused: Callable[[], None]) -> None:
        """Have the worker's thread make a call; `refused` is called instead if the worker is over."""
        with self._gate:
            over = self._over
            if not over:
                self._calls.append((call, refused))
                with suppress(BlockingIOError):  # it has been woken often enough
                    self._waker.send(b"w")
        if over:
            refused()

    def _gone(self) -> InfrastructureError:
        return InfrastructureError(self.failed or "the sandbox is closed")

    def _loop(self, supervisor: Supervisor) -> None:
        supervisor.selector.register(self._woken, selectors.EVENT_READ, lambda: self._take_calls(supervisor))
        limit = time.monotonic() + START_LIMIT_S
        while supervisor.failure is None and not self._closing:
            supervisor.step(None if self._facts is not None else 1.0)
            if self._facts is None and supervisor.facts is not None:
                self._facts = supervisor.facts
                self._ready.set()
            elif self._facts is None and time.monotonic() > limit:
                supervisor.fail(f"it was not ready after {START_LIMIT_S:g} s")

    def _take_calls(self, supervisor: Supervisor) -> None:
        try:
            self._woken.recv(4096)
        except BlockingIOError:
            return
        while self._calls:
            call, refused = self._calls.popleft()
            try:
                call(supervisor)
            except Exception:  # ends the worker; whoever asked must not wait for ever
                refused()
                raise

    def _end(self, supervisor: Supervisor, control: socket.socket, process: "subprocess.Popen[bytes] | None") -> None:
        """End the zygote and say why; every call that nobody took is refused."""
        self.failed = supervisor.failure or "the sandbox is closed"
        control.close()
        if process is not None and (said := _last_words(process)) and supervisor.failure is not None:
            self.failed += f": {said}"
        supervisor.fail(self.failed)
        with self._gate:
            self._over = True
        supervisor.selector.close()
        self._waker.close()
        self._woken.close()
        while self._calls:
            self._calls.popleft()[1]()
        self._ready.set()


class _ProcessSession:
    """A session of a `ProcessWorker`."""

    def __init__(self, worker: ProcessWorker, child: Child) -> None:
        self._worker = worker
        self._child = child

    def cell(self, request: Request, done: Done) -> None:
        """Run a cell."""
        done = _once(done)

        def start(supervisor: Supervisor) -> None:
            if (task := _task(request, done)) is not None:
                supervisor.cell(self._child, *task, request.timeout, done)

        self._worker.post(start, lambda: done(InfrastructureError(self._worker.failed or "the sandbox is closed")))

    def write(self, path: str, data: bytes) -> None:
        """Write a file."""
        self._in_folder(lambda folder: files.write(folder, path, data))

    def read(self, path: str, limit: int) -> bytes:
        """Read a file."""
        return self._in_folder(lambda folder: files.read(folder, path, limit))

    def files(self) -> list[str]:
        """List the files."""
        return self._in_folder(files.listing)

    def close(self, closed: Callable[[], None] = nothing) -> None:
        """End the session."""

        def end(supervisor: Supervisor) -> None:
            supervisor.close(self._child)
            closed()

        self._worker.post(end, closed)

    def _in_folder(self, use: Callable[[int], _T]) -> _T:
        """Have the worker's thread use the folder: it is the only one that closes it."""
        future: Future[_T] = Future()

        def call(supervisor: Supervisor) -> None:
            if supervisor.failure is not None:
                future.set_exception(SandboxError(f"the sandbox failed: {supervisor.failure}"))
                return
            if self._child.stage == "ending":
                future.set_exception(SessionEndedError(ENDED))
                return
            try:
                future.set_result(use(self._child.folder))
            except OSError as error:
                future.set_exception(FileNotFoundError(str(error)))
            except Exception as error:  # the caller's, not the worker's
                future.set_exception(error)

        refused = SandboxError(self._worker.failed or "the sandbox is closed")
        self._worker.post(call, lambda: future.set_exception(refused))
        return future.result()


def _once(done: Done) -> Done:
    """Let the first answer through only: a call that raises may have been answered before."""
    told = False

    def tell(outcome: Outcome | InfrastructureError) -> None:
        nonlocal told
        if not told:
            told = True
            done(outcome)

    return tell


def _task(request: Request, done: Done) -> tuple[int, int] | None:
    """Put code and standard input into descriptors; where there are none left, `done` is told."""
    code = -1
    try:
        code = memory_file(request.code)
        return code, memory_file(request.stdin)
    except OSError:
        if code >= 0:
            os.close(code)
        done(RefusedError(TOO_MANY_FILES))
        return None


def _last_words(process: "subprocess.Popen[bytes]") -> str:
    """Wait for the process's end, which closing its socket brings about, and return what it wrote last."""
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    assert process.stderr is not None
    with process.stderr:
        os.set_blocking(process.stderr.fileno(), False)
        return (process.stderr.read() or b"")[-2000:].decode("utf-8", "replace").strip()


def _nothing_with(supervisor: Supervisor) -> None:
    """Waking the thread was all."""
