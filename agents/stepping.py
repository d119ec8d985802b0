"""Steps of environments beside the sampling: in threads, with a time limit, and whatever they raise is data.

A step that does not return in time costs its own episode only: its thread is left behind (Python cannot end one)
and another takes its place. Code that never lets go of the interpreter, such as a runaway regular expression,
cannot be stopped this way; sandboxed tools run in processes of their own and are.
"""

import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

_Call = tuple[int, Callable[[], Any]]


class StepTimeoutError(Exception):
    """An environment took longer for a step than it may."""


class Finished(NamedTuple):
    """A step that ended."""

    key: int
    value: Any
    """What it returned."""
    error: Exception | None = None
    """What it raised, or `StepTimeoutError`."""


class _Worker:
    """A thread that makes calls, one after the other."""

    def __init__(self, queue: "SimpleQueue[_Call | None]", results: "SimpleQueue[Finished]") -> None:
        self.busy: tuple[int, float] | None = None
        self.abandoned = False
        self._queue, self._results = queue, results
        threading.Thread(target=self._run, name="palestra-steps", daemon=True).start()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            key, call = item
            self.busy = (key, time.monotonic())
            try:
                done = Finished(key, call())
            except Exception as error:  # an author's environment may raise anything
                done = Finished(key, None, error)
            self.busy = None
            if self.abandoned:
                return
            self._results.put(done)


class StepRunner:
    """Makes calls in threads.

    Args:
        workers: Threads.
        limit_s: Seconds that a call may take.
    """

    def __init__(self, workers: int, limit_s: float) -> None:
        self._limit_s = limit_s
        self._queue: SimpleQueue[_Call | None] = SimpleQueue()
        self._results: SimpleQueue[Finished] = SimpleQueue()
        self._workers = [_Worker(self._queue, self._results) for _ in range(workers)]
        self._pending: set[int] = set()

    @property
    def pending(self) -> int:
        """Calls that have not been collected."""
        return len(self._pending)

    def submit(self, key: int, call: Callable[[], Any]) -> None:
        """Have a call made; `key` names it in what `collect` returns."""
        self._pending.add(key)
        self._queue.put((key, call))

    def collect(self, *, wait: bool) -> list[Finished]:
        """Return the calls that ended since the last time; with `wait`, at least one if any is pending."""
        found: list[Finished] = []
        while self._pending:
            try:
                done = self._results.get(timeout=min(1.0, self._limit_s / 4) if wait and not found else 0)
            except Empty:
                late = self._overdue()
                found += late
                if late or not wait or found:
                    break
                continue
            if done.key in self._pending:
                self._pending.discard(done.key)
                found.append(done)
        return found

    def close(self) -> None:
        """End the threads that are not stuck."""
        for _ in self._workers:
            self._queue.put(None)

    def _overdue(self) -> list[Finished]:
        late = []
        now = time.monotonic()
        for place, worker in enumerate(self._workers):
            busy = worker.busy
            if busy is not None and now - busy[1] > self._limit_s and busy[0] in self._pending:
                worker.abandoned = True
                self._workers[place] = _Worker(self._queue, self._results)
                self._pending.discard(busy[0])
                late.append(Finished(busy[0], None, StepTimeoutError(f"a step took longer than {self._limit_s:g} s")))
        return late
