"""A session in a worker of a pool: its cells wait for each other, and for their turn in the pool."""

import threading
import weakref
from collections import deque
from concurrent.futures import Future, InvalidStateError
from typing import TYPE_CHECKING, Any

from palestra.envs.errors import PalestraError
from palestra.envs.sandbox.base import (
    DEFAULT_TIMEOUT_S,
    MAX_FILE_BYTES,
    ExecResult,
    Request,
    Session,
    SessionEndedError,
    check_bytes,
    check_path,
    make_request,
)
from palestra.envs.sandbox.worker import ENDED, WorkerSession

if TYPE_CHECKING:
    from palestra.envs.sandbox.pool import Place, PoolSandbox

CLOSED = "the session is closed"


class PoolSession(Session):
    """See the module docstring; a session that is forgotten is ended like one that is closed."""

    def __init__(self, pool: "PoolSandbox", place: "Place", session: WorkerSession) -> None:
        self._pool = pool
        self._place = place
        self._session = session
        self._alive = True
        self._failure: BaseException | None = None
        """Why it is not alive, if that is the sandbox's fault."""
        self._lock = threading.Lock()
        self._cells: deque[tuple[Request, Future[ExecResult]]] = deque()
        """Those that wait, behind the one that runs."""
        self._running = False
        self._release = weakref.finalize(self, pool.release, place, session)

    @property
    def alive(self) -> bool:
        """Whether another cell can run."""
        return self._alive and not self._pool.closed

    def submit(self, code: str, *, stdin: str = "", timeout: float = DEFAULT_TIMEOUT_S) -> "Future[ExecResult]":
        """Start a cell; see `Session.submit`."""
        future: Future[ExecResult] = Future()
        request = make_request(code, stdin, timeout, {})
        if isinstance(request, ExecResult):
            future.set_result(request)
            return future
        self._check_alive()
        with self._lock:
            self._cells.append((request, future))
        self._run_next()
        return future

    def write_file(self, path: str, data: bytes) -> None:
        """Write a file; see `Session.write_file`."""
        check_bytes(path, data)
        if len(data) > MAX_FILE_BYTES:
            raise ValueError(f"a file may have {MAX_FILE_BYTES >> 20} MiB, not {len(data)} bytes")
        self._check_alive()
        self._session.write(check_path(path), data)

    def read_file(self, path: str, max_bytes: int = MAX_FILE_BYTES) -> bytes:
        """Read a file; see `Session.read_file`."""
        self._check_alive()
        return self._session.read(check_path(path), min(max_bytes, MAX_FILE_BYTES))

    def list_files(self) -> list[str]:
        """List the files; see `Session.list_files`."""
        self._check_alive()
        return self._session.files()

    def close(self) -> None:
        """End the session."""
        self._alive = False
        self._release()

    def _check_alive(self) -> None:
        self._pool.check_open()
        if self._failure is not None:
            raise self._failure
        if not self._alive:
            raise SessionEndedError(ENDED if self._release.alive else CLOSED)

    def _run_next(self) -> None:
        """Start the cell that has waited longest, unless one is running; those that cannot start are told why."""
        while True:
            with self._lock:
                if self._running or not self._cells:
                    return
                self._running = True
                request, future = self._cells.popleft()
            try:
                self._check_alive()
                if not future.cancelled():
                    inner = self._pool.cell(self._place, self._session, request)
                    break
            except PalestraError as error:
                self._over(error)
                settle(future, error)
            with self._lock:
                self._running = False
        running = [inner]  # emptied at its end: a future that somebody keeps must not keep the session

        def cancel(future: "Future[ExecResult]") -> None:
            if future.cancelled():
                for inner in running:
                    inner.cancel()

        def told(inner: "Future[tuple[ExecResult, bool]]") -> None:
            running.clear()
            self._told(inner, future)

        inner.add_done_callback(told)
        future.add_done_callback(cancel)

    def _told(self, inner: "Future[tuple[ExecResult, bool]]", future: "Future[ExecResult]") -> None:
        if inner.cancelled():
            self._alive = False
            self._ended(future, SessionEndedError(ENDED))
        elif (error := inner.exception()) is not None:
            self._over(error)
            self._ended(future, error)
        else:
            result, self._alive = inner.result()
            self._ended(future, result)

    def _over(self, error: BaseException) -> None:
        self._alive = False
        self._failure = None if isinstance(error, SessionEndedError) else error

    def _ended(self, future: "Future[ExecResult]", value: object) -> None:
        with self._lock:
            self._running = False
        settle(future, value)
        self._run_next()


def settle(future: "Future[Any]", value: object) -> bool:
    """Set a future's result or exception; False if the caller has taken it back."""
    try:
        if isinstance(value, BaseException):
            future.set_exception(value)
        else:
            future.set_result(value)
    except InvalidStateError:
        return False
    return True
