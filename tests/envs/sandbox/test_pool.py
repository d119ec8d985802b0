"""The pool with workers that do what the test says: who gets what, who is told what, and what is counted."""

import gc
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from palestra.envs.sandbox import ExecResult, Sandbox, SandboxError, SessionEndedError
from palestra.envs.sandbox.base import Request
from palestra.envs.sandbox.inside.execution import Done, InfrastructureError, Outcome
from palestra.envs.sandbox.pool import PoolSandbox
from palestra.envs.sandbox.worker import Cancel, Worker, WorkerSession, nothing


class Scripted(Worker):
    """A worker whose programs are words: `hold` waits for the test, `break` breaks it, others come back."""

    exclusive = False

    def __init__(self) -> None:
        self.held: list[tuple[Request, Done]] = []
        self.cancelled: list[bytes] = []
        self.closed = threading.Event()
        self.most = 0

    def run(self, request: Request, done: Done) -> Cancel:
        if request.code == b"hold":
            self.held.append((request, done))
            self.most = max(self.most, len(self.held))
        elif request.code == b"break":
            done(InfrastructureError("broken"))
        else:
            done(outcome(request.code))
        return lambda: self.cancel(request, done)

    def cancel(self, request: Request, done: Done) -> None:
        self.cancelled.append(request.code)
        if (request, done) in self.held:
            self.held.remove((request, done))
            done(outcome(b"", "killed"))

    def release(self) -> None:
        held, self.held = self.held, []
        for request, done in held:
            done(outcome(request.code))

    def open(self, opened: Callable[[WorkerSession | InfrastructureError], None]) -> None:
        opened(InfrastructureError("no sessions here"))

    def facts(self) -> str:
        return "{}"

    def close(self) -> None:
        self.failed = self.failed or "closed"
        self.closed.set()
        held, self.held = self.held, []
        for _, done in held:
            done(InfrastructureError("closed"))


def outcome(text: bytes, status: str = "ok") -> Outcome:
    return Outcome(status, 0, 0.0, 0.0, text, b"")


class Hosting(Scripted):
    """A worker that a session has for itself, and whose sessions take their time to be cleared away."""

    exclusive = True

    def __init__(self) -> None:
        super().__init__()
        self.closings: list[Callable[[], None]] = []

    def open(self, opened: Callable[[WorkerSession | InfrastructureError], None]) -> None:
        opened(HostedSession(self))

    def clear(self) -> None:
        closings, self.closings = self.closings, []
        for closed in closings:
            closed()


class HostedSession:
    """One of its sessions."""

    def __init__(self, worker: Hosting) -> None:
        self._worker = worker

    def cell(self, request: Request, done: Done) -> None:
        self._worker.run(request, done)

    def write(self, path: str, data: bytes) -> None:
        raise NotImplementedError

    def read(self, path: str, limit: int) -> bytes:
        raise NotImplementedError

    def files(self) -> list[str]:
        raise NotImplementedError

    def close(self, closed: Callable[[], None] = nothing) -> None:
        self._worker.closings.append(closed)


class Pool(PoolSandbox):
    """A pool of such workers; from the `broken_from`th on they do not start."""

    name = "scripted"

    def __init__(
        self,
        *,
        workers: int = 1,
        at_once: int = 2,
        slots: int | None = None,
        broken_from: int = 1000,
        kind: type[Scripted] = Scripted,
    ) -> None:
        self.made: list[Scripted] = []
        self.kind = kind
        self.broken_from = broken_from
        super().__init__(self.make, workers=workers, slots=slots or workers * at_once, at_once=at_once)

    def make(self) -> Worker:
        if len(self.made) >= self.broken_from:
            raise SandboxError("no more workers")
        self.made.append(self.kind())
        return self.made[-1]

    def describe(self) -> dict[str, str]:
        return {}


def test_the_first_worker_must_start() -> None:
    with pytest.raises(SandboxError, match="no more workers"):
        Pool(broken_from=0)


def test_no_worker_has_more_than_its_places(wait_until: Callable[..., None]) -> None:
    with Pool(workers=2, at_once=2) as pool:
        futures = [pool.submit("hold") for _ in range(10)]
        wait_until(lambda: len(pool.made) == 2)
        for _ in range(200):
            for worker in list(pool.made):
                worker.release()
            if all(future.done() for future in futures):
                break
            time.sleep(0.005)
        assert [future.result(1).stdout for future in futures] == ["hold"] * 10
        assert max(worker.most for worker in pool.made) <= 2


def test_a_broken_worker_is_replaced_and_its_program_tried_once_more(wait_until: Callable[..., None]) -> None:
    with Pool() as pool:
        future = pool.submit("hold")
        pool.made[0].held.pop()[1](InfrastructureError("broken"))
        wait_until(lambda: len(pool.made) == 2 and pool.made[1].held)
        pool.made[1].release()
        assert future.result(1).stdout == "hold"
        stats = pool.stats()
        assert (stats.executions, stats.retried, stats.failed, stats.workers_replaced) == (1, 1, 0, 1)
        assert stats.last_failure == "broken"
        assert pool.made[0].closed.wait(1)


def test_a_program_is_tried_on_two_workers_at_most() -> None:
    with Pool() as pool:
        with pytest.raises(SandboxError, match="broken"):
            pool.run("break")
        assert pool.run("fine").stdout == "fine"
        stats = pool.stats()
        assert (stats.executions, stats.retried, stats.failed, stats.workers_replaced) == (1, 1, 1, 2)


def test_every_program_under_a_broken_worker_is_tried_again(wait_until: Callable[..., None]) -> None:
    with Pool() as pool:
        futures = [pool.submit("hold") for _ in range(2)]
        held, pool.made[0].held = pool.made[0].held, []
        for _, done in held:
            done(InfrastructureError("broken"))
        wait_until(lambda: len(pool.made) == 2 and len(pool.made[1].held) == 2)
        pool.made[1].release()
        assert [future.result(1).status for future in futures] == ["ok"] * 2
        assert pool.stats().workers_replaced == 1


def test_where_no_worker_starts_what_waits_fails() -> None:
    with Pool(broken_from=1) as pool, pytest.raises(SandboxError, match="no more workers"):
        pool.run("break")


def test_run_many_tells_failures_apart(wait_until: Callable[..., None]) -> None:
    with Pool() as pool:
        results = pool.run_many(["a", "break", "b"])
        assert [(r.status, r.stdout) for r in results] == [("ok", "a"), ("sandbox-failure", ""), ("ok", "b")]
        assert results[1].exit_code is None
        assert "broken" in results[1].stderr


def test_a_cancelled_program_that_waits_never_starts(wait_until: Callable[..., None]) -> None:
    with Pool(at_once=1) as pool:
        first, second, third = (pool.submit("hold") for _ in range(3))
        assert second.cancel()
        pool.made[0].release()
        assert first.result(1).status == "ok"
        wait_until(lambda: pool.made[0].held)
        pool.made[0].release()
        assert third.result(1).status == "ok"
        assert pool.made[0].cancelled == []


def test_a_cancelled_program_is_ended_and_gives_its_place_back(wait_until: Callable[..., None]) -> None:
    with Pool(at_once=1) as pool:
        first = pool.submit("hold")
        second = pool.submit("next")
        assert first.cancel()
        assert second.result(1).stdout == "next"
        assert pool.made[0].cancelled == [b"hold"]


def test_a_cancelled_program_is_not_tried_again() -> None:
    with Pool() as pool:
        future = pool.submit("hold")
        _, done = pool.made[0].held.pop()
        future.cancel()
        done(InfrastructureError("broken"))
        assert pool.run("fine").stdout == "fine"
        assert pool.stats().retried == 0


def test_closing_fails_what_runs_and_what_waits() -> None:
    pool = Pool(at_once=1)
    futures = [pool.submit("hold") for _ in range(3)]
    pool.close()
    for future in futures:
        with pytest.raises(SandboxError, match="closed"):
            future.result(1)
    assert pool.made[0].closed.is_set()
    assert len(pool.made) == 1


def test_a_session_that_cannot_be_opened_is_tried_on_two_workers() -> None:
    with Pool() as pool:
        with pytest.raises(SandboxError, match="no sessions here"):
            pool.session()
        stats = pool.stats()
        assert (stats.retried, stats.failed, stats.workers_replaced) == (0, 1, 2)


def test_a_worker_gets_nothing_until_what_its_session_left_is_cleared_away() -> None:
    with Pool(at_once=1, kind=Hosting) as pool:
        (worker,) = pool.made
        assert isinstance(worker, Hosting)
        session = pool.session()
        assert session.run("1").stdout == "1"
        session.close()
        future = pool.submit("2")
        time.sleep(0.05)
        assert not future.done()
        worker.clear()
        assert future.result(5).stdout == "2"
        with pool.session() as other:
            assert other.run("3").stdout == "3"


def test_a_worker_that_fails_while_it_is_cleared_costs_nobody_a_try() -> None:
    with Pool(workers=2, at_once=1, slots=1, kind=Hosting) as pool:
        worker = pool.made[0]
        assert isinstance(worker, Hosting)
        pool.session().close()
        future = pool.submit("1")
        worker.failed = "its code ended it"
        worker.clear()
        assert future.result(5).stdout == "1"
        assert (pool.stats().retried, pool.stats().failed) == (0, 0)


def test_a_cell_that_waits_ends_with_its_session(wait_until: Callable[..., None]) -> None:
    with Pool(workers=2, at_once=1, slots=1, kind=Hosting) as pool:
        first, second = pool.session(), pool.session()
        running = first.submit("hold")
        wait_until(lambda: any(worker.held for worker in pool.made))
        waiting = second.submit("never")
        second.close()
        with pytest.raises(SessionEndedError, match="closed"):
            waiting.result(5)
        for worker in pool.made:
            worker.release()
        assert running.result(5).stdout == "hold"
        assert pool.stats().executions == 1


def test_a_finished_future_does_not_keep_its_session() -> None:
    with Pool(at_once=1, kind=Hosting) as pool:
        (worker,) = pool.made
        assert isinstance(worker, Hosting)
        session = pool.session()
        kept = session.submit("hold")
        worker.release()
        assert kept.result(5).stdout == "hold"
        del session
        gc.collect()
        assert worker.closings


@pytest.mark.parametrize("what", ["place", "sandbox"])
def test_nobody_waits_for_what_is_gone_when_a_job_comes(what: str) -> None:
    with Pool(at_once=1, kind=Hosting) as pool:
        session = pool.session()
        (place,) = pool._places
        if what == "place":
            pool._places.clear()  # it failed just after it was seen to be there
            place.worker.failed = "gone"
            with pytest.raises(SandboxError, match="gone"):
                session.run("1")
        else:
            pool.check_open = lambda: None  # type: ignore[method-assign]  # it was still open just before
            pool.close()
            with pytest.raises(SandboxError, match="closed"):
                pool.submit("1").result(5)


def test_who_is_told_of_a_lost_worker_may_use_the_pool_from_other_threads(in_thread: Callable[..., Any]) -> None:
    with Pool(at_once=1, slots=1, workers=2, kind=Hosting) as pool:
        first, second = pool.session(), pool.session()
        running, waiting = first.submit("hold"), second.submit("never")
        others: list[object] = []
        waiting.add_done_callback(lambda _: others.append(in_thread(pool.stats).get(5)))
        second_worker = next(worker for worker in pool.made if not worker.held)
        second_worker.failed = "gone"
        next(worker for worker in pool.made if worker.held).release()
        assert running.result(5).stdout == "hold"
        with pytest.raises(SandboxError, match="gone"):
            waiting.result(5)
        assert len(others) == 1


def test_many_threads_get_their_own_results(in_thread: Callable[..., Any]) -> None:
    with Pool(workers=2) as pool:
        outcomes = [in_thread(lambda n=n: [pool.run(f"{n}-{m}").stdout for m in range(50)]) for n in range(8)]
        assert [o.get() for o in outcomes] == [[f"{n}-{m}" for m in range(50)] for n in range(8)]


# What needs no worker at all.


class Nothing(Sandbox):
    """A sandbox that can start nothing."""

    name = "nothing"

    def _start(self, request: Request) -> Any:
        raise SandboxError("nothing works")

    def session(self) -> Any:
        raise SandboxError("nothing works")

    def stats(self) -> Any:
        raise NotImplementedError

    def describe(self) -> dict[str, str]:
        return {}

    def close(self) -> None:
        """Nothing is held."""


def test_run_many_raises_where_nothing_can_be_started() -> None:
    with Nothing() as sandbox, pytest.raises(SandboxError, match="nothing works"):
        sandbox.run_many(["a"])


def test_an_absurd_source_is_judged_before_anything_is_started() -> None:
    with Nothing() as sandbox:
        assert isinstance(sandbox.run("#" * (9 << 20)), ExecResult)
