"""A sandbox made of workers: takes turns, replaces what fails, and runs again what a failure has hit.

Invariants: no worker has more executions at once than its places; a worker that fails is replaced as soon as
there is work for another; a program is tried on at most two workers, and what then fails is a `SandboxError`,
never a result.
"""

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, cast

from palestra.envs.errors import PalestraError
from palestra.envs.sandbox.base import (
    ExecResult,
    Request,
    Sandbox,
    SandboxError,
    SandboxStats,
    Session,
    SessionEndedError,
    Status,
    wait,
)
from palestra.envs.sandbox.inside.execution import InfrastructureError, Outcome, RefusedError
from palestra.envs.sandbox.pool_session import CLOSED, PoolSession, settle
from palestra.envs.sandbox.worker import ENDED, Cancel, Worker, WorkerSession

_CLOSED = "the sandbox is closed"


@dataclass(eq=False)
class Place:
    """A worker and what it is doing."""

    worker: Worker
    busy: int = 0
    used: int = 0
    """The number of the last job that it got."""
    taken: bool = False
    """Whether a session has it for itself."""
    clearing: bool = False
    """Whether what such a session has left is being removed: the next one must not be there if that fails."""
    waiting: "deque[_Job]" = field(default_factory=deque)
    """Cells of its sessions."""


@dataclass(eq=False)
class _Job:
    """Something to run: a program, the opening of a session (no request), or a cell (with its place)."""

    number: int
    future: "Future[Any]"
    request: Request | None = None
    session: WorkerSession | None = None
    tries: int = 0
    cancel: Cancel | None = None


class PoolSandbox(Sandbox):
    """See the module docstring; subclasses say what a worker is."""

    def __init__(self, start: Callable[[], Worker], *, workers: int, slots: int, at_once: int) -> None:
        """Start the first worker.

        Args:
            start: Makes a worker; takes its time.
            workers: Most workers at a time.
            slots: Executions at a time; as many workers as that takes are kept ready for whatever comes.
            at_once: Executions at a time in each worker.

        Raises:
            SandboxError: The first worker did not start.
        """
        self._make = start
        self._most = workers
        self._slots = slots
        self._at_once = at_once
        self._lock = threading.RLock()
        self._queue: deque[_Job] = deque()
        self._places: list[Place] = []
        self._starting = 0
        self._number = 0
        self._stats = SandboxStats()
        self._closed = False
        self._pid = os.getpid()
        first = start()
        self.worker_facts = first.facts()
        """JSON that a worker tells of itself: the version of Python and of the packages that are loaded."""
        self._places.append(Place(first))

    # What users call.

    def _start(self, request: Request) -> "Future[ExecResult]":
        self.check_open()
        future: Future[ExecResult] = Future()
        self._submit(_Job(0, future, request))
        return future

    def session(self) -> Session:
        """Open an interpreter with state; see `Sandbox.session`."""
        self.check_open()
        with self._lock:
            if len(self._places) >= self._most and all(place.taken for place in self._places):
                raise SandboxError(
                    f"all {self._most} workers of the sandbox '{self.name}' hold sessions; have fewer episodes in "
                    "flight, or open the sandbox with more workers"
                )
        future: Future[tuple[Place, WorkerSession]] = Future()
        self._submit(_Job(0, future))
        return PoolSession(self, *wait(future))

    def stats(self) -> SandboxStats:
        """Return what was done since the sandbox was opened."""
        with self._lock:
            return replace(self._stats)

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def is_own(self) -> bool:
        """Whether this process opened the sandbox, and not one that it was forked from."""
        return os.getpid() == self._pid

    def close(self) -> None:
        """End all workers and what runs in them; see `Sandbox.close`."""
        with self._lock:
            self._closed = True
            places, self._places = self._places, []
            jobs = [*self._queue, *(job for place in places for job in place.waiting)]
            self._queue.clear()
        for job in jobs:
            settle(job.future, SandboxError(_CLOSED))
        if self.is_own():
            for place in places:
                place.worker.close()

    # Jobs.

    def check_open(self) -> None:
        """Raise SandboxError if the sandbox is closed or another process's."""
        if not self.is_own():
            raise SandboxError("the sandbox belongs to the process that opened it; open another one in this process")
        if self._closed:
            raise SandboxError(_CLOSED)

    def _submit(self, job: _Job, place: Place | None = None) -> None:
        with self._lock:
            over: PalestraError | None = None
            if self._closed:
                over = SandboxError(_CLOSED)
            elif place is not None and place not in self._places:
                over = _over(place.worker)
            else:
                self._number += 1
                job.number = self._number
                (self._queue if place is None else place.waiting).append(job)
        if over is not None:
            settle(job.future, over)
            return
        job.future.add_done_callback(lambda future: self._take_back(job) if future.cancelled() else None)
        self._dispatch()

    def _take_back(self, job: _Job) -> None:
        if job.cancel is not None:
            job.cancel()

    def _dispatch(self) -> None:
        """Give out what can be given out now."""
        given = []
        with self._lock:
            over = self._drop_failed()
            # The one that rested longest has had the time to get its next child ready.
            for place in sorted(self._places, key=lambda place: (place.busy, place.used)):
                while (job := self._next_for(place)) is not None:
                    if job.future.cancelled():
                        continue
                    if job.request is not None:
                        place.busy += 1
                    elif place.worker.exclusive:
                        place.taken = True
                    place.used = job.number
                    given.append((job, place))
            while self._more_wanted():
                self._starting += 1
                threading.Thread(target=self._add_worker, name="palestra-sandbox-start", daemon=True).start()
        for future, error in over:
            settle(future, error)
        for job, place in given:
            self._give(job, place)

    def _more_wanted(self) -> bool:
        """Whether another worker is to be started: fewer than the usual number are there for everybody."""
        if self._closed or len(self._places) + self._starting >= self._most:
            return False
        free = sum(not place.taken for place in self._places) + self._starting
        return free * self._at_once < self._slots

    def _next_for(self, place: Place) -> _Job | None:
        """Take the oldest job that a place can do now."""
        if place.busy >= self._at_once or sum(place.busy for place in self._places) >= self._slots:
            return None
        closed = place.taken or place.clearing or (place.worker.exclusive and place.busy)
        common = None if closed else self._queue
        sources = [source for source in (place.waiting, common) if source]
        return min(sources, key=lambda source: source[0].number).popleft() if sources else None

    def _give(self, job: _Job, place: Place) -> None:
        def done(outcome: Outcome | InfrastructureError) -> None:
            self._done(job, place, outcome)

        def opened(session: WorkerSession | InfrastructureError) -> None:
            if isinstance(session, InfrastructureError):
                self._failed(job, place, session)
            elif not settle(job.future, (place, session)):
                self.release(place, session)

        if job.request is None:
            place.worker.open(opened)
        elif job.session is not None:
            job.session.cell(job.request, done)
            job.cancel = job.session.close
        else:
            job.cancel = place.worker.run(job.request, done)
        if job.future.cancelled():
            self._take_back(job)

    def _done(self, job: _Job, place: Place, outcome: Outcome | InfrastructureError) -> None:
        with self._lock:
            place.busy -= 1
        if isinstance(outcome, InfrastructureError):
            self._failed(job, place, outcome)
            return
        if outcome.status == "ended":
            settle(job.future, SessionEndedError(ENDED))
        else:
            with self._lock:
                self._stats.executions += 1
            settle(job.future, (_result(outcome), outcome.alive) if job.session else _result(outcome))
        self._dispatch()

    def _failed(self, job: _Job, place: Place, error: InfrastructureError) -> None:
        """Give the worker up, and try once more what starts from nothing."""
        refused = isinstance(error, RefusedError)
        with self._lock:
            if place.worker.failed is None and not refused:
                place.worker.failed = str(error)
            again = not (refused or job.session or job.tries or self._closed or job.future.cancelled())
            if again:
                job.tries += 1
                self._stats.retried += job.request is not None
                self._queue.appendleft(job)
            else:
                self._stats.failed += 1
        if not again:
            settle(job.future, SandboxError(_CLOSED if self._closed else f"the sandbox failed: {error}"))
        self._dispatch()

    # Workers.

    def _drop_failed(self) -> "list[tuple[Future[Any], PalestraError]]":
        """Let go of the workers that have failed; returns who is to be told that, without the lock."""
        over: list[tuple[Future[Any], PalestraError]] = []
        for place in [place for place in self._places if place.worker.failed is not None]:
            self._places.remove(place)
            self._stats.workers_replaced += 1
            self._stats.last_failure = str(place.worker.failed)
            for job in place.waiting:
                self._stats.failed += not place.worker.ended_by_code
                over.append((job.future, _over(place.worker)))
            place.waiting.clear()
            threading.Thread(target=place.worker.close, name="palestra-sandbox-end", daemon=True).start()
        return over

    def _add_worker(self) -> None:
        try:
            place = Place(self._make())
        except Exception as error:  # also a missing image or descriptor: whoever waits has to be told
            self._not_added(error if isinstance(error, SandboxError) else SandboxError(f"no worker: {error}"))
            return
        with self._lock:
            self._starting -= 1
            closed = self._closed
            if not closed:
                self._places.append(place)
        if closed:
            place.worker.close()
        else:
            self._dispatch()

    def _not_added(self, error: SandboxError) -> None:
        """Where there is no other worker, nobody will do what waits."""
        jobs: list[_Job] = []
        with self._lock:
            self._starting -= 1
            if not self._places and not self._starting:
                jobs = list(self._queue)
                self._queue.clear()
                self._stats.failed += len(jobs)
        for job in jobs:
            settle(job.future, error)

    # Sessions.

    def cell(self, place: Place, session: WorkerSession, request: Request) -> "Future[tuple[ExecResult, bool]]":
        """Run a cell in its session's worker."""
        self.check_open()
        future: Future[tuple[ExecResult, bool]] = Future()
        self._submit(_Job(0, future, request, session), place)
        return future

    def release(self, place: Place, session: WorkerSession) -> None:
        """End a session and let others have its worker."""
        if not self.is_own():
            return  # a forked copy of the session; ours goes on
        with self._lock:
            place.taken, place.clearing = False, place.worker.exclusive
            waiting = [job for job in place.waiting if job.session is session]
            for job in waiting:
                place.waiting.remove(job)
        for job in waiting:
            settle(job.future, SessionEndedError(CLOSED))
        session.close(lambda: self._cleared(place))

    def _cleared(self, place: Place) -> None:
        with self._lock:
            place.clearing = False
        self._dispatch()


def _over(worker: Worker) -> PalestraError:
    """Say to a session why its worker is gone."""
    return SessionEndedError(ENDED) if worker.ended_by_code else SandboxError(f"the sandbox failed: {worker.failed}")


def _result(outcome: Outcome) -> ExecResult:
    stdout, stderr = (data.decode("utf-8", "replace") for data in (outcome.stdout, outcome.stderr))
    status = cast(Status, outcome.status)
    return ExecResult(stdout, stderr, status, outcome.exit_code, outcome.wall_s, outcome.cpu_s)
