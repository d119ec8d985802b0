"""The supervisor against a zygote and children that send anything at any moment.

The other ends of its sockets are held by the test: no process is forked, and time passes when the test says so.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from palestra.envs.sandbox import base
from palestra.envs.sandbox.inside import execution, packets, supervisor
from palestra.envs.sandbox.inside.execution import Child, InfrastructureError, Outcome
from palestra.envs.sandbox.inside.supervisor import Supervisor

COUNTED = {"packets": 0}


@pytest.fixture(scope="module")
def dead() -> Iterator[int]:
    """The descriptor of a process that has ended: signals to it reach nobody."""
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    pidfd = os.pidfd_open(process.pid)
    process.wait()
    yield pidfd
    os.close(pidfd)


class Clock:
    """Replaces `time` in the modules under test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        fake = SimpleNamespace(monotonic=lambda: self.now, clock_gettime_ns=time.clock_gettime_ns)
        monkeypatch.setattr(supervisor, "time", fake)
        monkeypatch.setattr(execution, "time", fake)


class Play:
    """A supervisor, and the test in the roles of its zygote, its children and its caller."""

    def __init__(self, dead: int, clock: Clock, dice: random.Random) -> None:
        self.dead, self.clock, self.dice = dead, clock, dice
        ours, self.zygote = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control = ours
        self.zygote.setblocking(False)
        alone = dice.choice((None, lambda child: True, lambda child: dice.random() < 0.5))
        self.supervisor = Supervisor(ours, spares=dice.randrange(3), new_group=None, settle=self.settle, alone=alone)
        self.folder = tempfile.TemporaryDirectory()
        self.forks: list[tuple[int, list[int]]] = []
        self.told: dict[int, list[object]] = {}
        self.sessions: list[Child] = []
        self.cancels: list[Any] = []

    def settle(self, child: Child) -> None:
        if self.dice.random() < 0.05:
            raise OSError("something is left")

    def step(self) -> None:
        if self.supervisor.failure is None:
            self.supervisor.step(0)

    def done(self) -> Any:
        number = len(self.told)
        self.told[number] = []
        return self.told[number].append

    # The caller.

    def run(self) -> None:
        given = self.dice.choice(({}, {"a/b": b"x"}, {"a": b"", "a/b": b""}))
        code, stdin = os.open(os.devnull, os.O_RDONLY), os.open(os.devnull, os.O_RDONLY)
        self.cancels.append(self.supervisor.run(code, stdin, given, self.dice.choice((0.1, 5.0)), self.done()))

    def open(self) -> None:
        told = self.done()

        def opened(child: Child | InfrastructureError) -> None:
            told(child)
            if isinstance(child, Child):
                self.sessions.append(child)

        self.supervisor.open(opened)

    def cell(self) -> None:
        if self.sessions and self.supervisor.failure is None:
            code, stdin = os.open(os.devnull, os.O_RDONLY), os.open(os.devnull, os.O_RDONLY)
            self.supervisor.cell(self.dice.choice(self.sessions), code, stdin, 0.5, self.done())

    def close(self) -> None:
        if self.sessions:
            self.supervisor.close(self.dice.choice(self.sessions))

    def cancel(self) -> None:
        if self.cancels:
            self.dice.choice(self.cancels)()

    def wait(self) -> None:
        self.clock.now += self.dice.choice((0.05, 0.2, 1.0, 8.0, 30.0))

    # The zygote.

    def take_fork(self) -> None:
        try:
            packet, descriptors, _, _ = socket.recv_fds(self.zygote, 4096, 8)
        except OSError:
            return
        if packet:
            self.forks.append((packets.read_fork(packet), descriptors))

    def tell(self, packet: bytes, *descriptors: int) -> None:
        COUNTED["packets"] += 1
        try:
            socket.send_fds(self.zygote, [packet], descriptors)
        except OSError:
            pass  # the supervisor has given up

    def ready(self) -> None:
        self.tell(packets.ready("{}"))

    def a_number(self) -> int:
        return self.dice.choice([number for number, _ in self.forks] or [0])

    def forked(self) -> None:
        self.take_fork()
        if self.forks:
            self.tell(packets.forked(self.forks[-1][0]), self.dead)

    def hardened(self) -> None:
        self.forked()
        self.child_says(packets.FOLDER, os.open(self.folder.name, os.O_RDONLY), last=True)
        self.child_says(packets.HARDENED, last=True)

    def exited(self) -> None:
        status = self.dice.choice((0, 256, 9, 11, 113 << 8, 0xFFFF))
        self.tell(packets.exited(self.a_number(), status, self.dice.randrange(2**40)))

    def lie(self) -> None:
        packet = self.dice.choice(
            (
                packets.forked(self.dice.randrange(5)),
                packets.exited(self.dice.randrange(5), 0, 0),
                packets.failed(1, "no"),
                packets.ready("{}"),
                self.dice.randbytes(self.dice.randrange(1, 30)),
                b"X" * 5000,
            )
        )
        self.tell(packet, *[self.dead] * self.dice.randrange(3))

    def hang_up(self) -> None:
        self.zygote.close()

    # The children.

    def child_says(self, packet: bytes, *descriptors: int, last: bool = False) -> None:
        COUNTED["packets"] += 1
        if self.forks:
            _, (sock, *_) = self.forks[-1] if last else self.dice.choice(self.forks)
            try:
                with socket.socket(fileno=os.dup(sock)) as end:
                    end.setblocking(False)
                    socket.send_fds(end, [packet], descriptors)
            except OSError:
                pass  # it is closed
        for descriptor in descriptors:
            os.close(descriptor)

    def cell_done(self) -> None:
        number = self.dice.choice((1, 1, 1, 2, 3, 0))
        self.child_says(packets.cell_done(number, self.dice.choice(("ok", "error", "memory"))))

    def child_lies(self) -> None:
        packet = self.dice.choice(
            (
                packets.HARDENED,
                packets.FOLDER,
                packets.unprepared("no"),
                packets.cell_done(1, "ok") + b"x",
                self.dice.randbytes(self.dice.randrange(1, 12)),
                b"D" * 6000,
                b"\0",
            )
        )
        self.child_says(packet, *(os.dup(self.dead) for _ in range(self.dice.choice((0, 0, 1, 2, 5)))))

    def child_writes(self) -> None:
        if self.forks:
            _, (_, *streams) = self.dice.choice(self.forks)
            descriptor = self.dice.choice(streams)
            os.set_blocking(descriptor, False)
            try:
                os.write(descriptor, b"x" * self.dice.choice((1, 1000, 60_000)))
            except OSError:
                pass  # full, or nobody reads

    def child_notes(self) -> None:
        note = Path(self.folder.name, packets.NOTE)
        note.unlink(missing_ok=True)
        note.symlink_to(self.dice.choice(("0", "0", "7", "255", "256", "-1", "x" * 4000)))

    def child_falls_silent(self, *, last: bool = False) -> None:
        if self.forks:
            _, (_, *streams) = self.forks[-1] if last else self.dice.choice(self.forks)
            null = os.open(os.devnull, os.O_WRONLY)
            for descriptor in streams:
                os.dup2(null, descriptor)
            os.close(null)

    def run_to_a_told_end(self) -> None:
        self.run()
        self.step()
        self.hardened()
        for _ in range(3):
            self.step()
        self.child_notes()
        self.child_falls_silent(last=True)

    def child_closes(self) -> None:
        if self.forks:
            _, (sock, *_) = self.dice.choice(self.forks)
            with socket.socket(fileno=os.dup(sock)) as end:
                end.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """Check that everybody was told once, and release everything."""
        self.supervisor.fail("the end")
        for told in self.told.values():
            assert len(told) == 1
            assert isinstance(told[0], Outcome | InfrastructureError | Child)
        self.supervisor.selector.close()
        self.control.close()
        self.zygote.close()
        self.take_fork()
        for _, descriptors in self.forks:
            for descriptor in descriptors:
                os.close(descriptor)
        self.folder.cleanup()


LIKELY = ["run", "open", "cell", "forked", "hardened", "hardened", "exited", "cell_done", "child_writes", "wait"]
LIKELY += ["child_notes", "child_falls_silent", "run_to_a_told_end"]
UNLIKELY = ["close", "cancel", "lie", "child_lies", "child_closes", "hang_up", "ready"]


def check_play(seed: int, dead: int, clock: Clock) -> None:
    dice = random.Random(seed)
    before = len(os.listdir("/proc/self/fd"))
    play = Play(dead, clock, dice)
    play.supervisor._gone = dice.choice((None, lambda child: None))
    play.ready()
    play.step()
    for _ in range(dice.randrange(5, 60)):
        getattr(play, dice.choice(LIKELY if dice.random() < 0.85 else UNLIKELY))()
        if dice.random() < 0.8:
            play.step()
    play.end()
    assert len(os.listdir("/proc/self/fd")) == before


relaxed = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


@settings(max_examples=150, **relaxed)  # type: ignore[arg-type]
@given(seed=st.integers(0, 2**62))
def test_every_caller_is_told_once_whatever_is_sent(seed: int, dead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    check_play(seed, dead, Clock(monkeypatch))


@pytest.mark.slow
def test_50_000_packets_tell_every_caller_once(dead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    COUNTED["packets"] = 0
    clock, seed = Clock(monkeypatch), random.randrange(2**62)
    while COUNTED["packets"] < 50_000:
        seed += 1
        try:
            check_play(seed, dead, clock)
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise


def honest(dead: int, clock: Clock) -> Play:
    """A play in which the zygote has come up, with one child that is confined."""
    play = Play(dead, clock, random.Random(4))
    play.supervisor._spares = 1
    play.ready()
    play.step()
    play.hardened()
    play.step()
    play.step()
    return play


@pytest.mark.parametrize(
    ("status", "named", "code"),
    [(0, "ok", 0), (3 << 8, "error", 3), (113 << 8, "memory", 113), (9, "killed", 137), (11, "killed", 139)],
)
def test_the_end_of_a_program_is_named_by_its_exit_status(
    dead: int, monkeypatch: pytest.MonkeyPatch, status: int, named: str, code: int
) -> None:
    play = honest(dead, Clock(monkeypatch))
    play.settle = lambda child: None  # type: ignore[method-assign]
    play.dice = random.Random(1)
    play.run()
    play.tell(packets.exited(1, status, 1500))
    play.step()
    (outcome,) = play.told[0]
    assert isinstance(outcome, Outcome)
    assert (outcome.status, outcome.exit_code, outcome.cpu_s) == (named, code, 0.0015)
    play.end()


def noting(dead: int, monkeypatch: pytest.MonkeyPatch, *, alone: bool = True) -> tuple[Play, list[object], Clock]:
    """A play in which a program has started that will fall silent; and what happens to it, in order."""
    clock = Clock(monkeypatch)
    play = honest(dead, clock)
    play.settle = lambda child: None  # type: ignore[method-assign]
    events: list[object] = []
    play.supervisor._alone = lambda child: events.append("alone?") or alone  # type: ignore[func-returns-value]
    monkeypatch.setattr(Child, "signal", lambda child, number: events.append(number))
    play.told[0] = events
    start(play, events.append)
    events.clear()
    return play, events, clock


def start(play: Play, done: Any) -> None:
    """Run a program without files for 5 s at most."""
    play.supervisor.run(*(os.open(os.devnull, os.O_RDONLY) for _ in range(2)), {}, 5.0, done)


def end(play: Play, events: list[object]) -> None:
    """End a play in which `events` is more than what a caller was told."""
    told = [event for event in events if isinstance(event, Outcome | InfrastructureError)]
    play.told[0] = told
    play.end()


def test_a_program_that_tells_its_end_is_killed_before_that_is_passed_on(
    dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    play, events, _ = noting(dead, monkeypatch)
    play.child_writes()
    Path(play.folder.name, packets.NOTE).symlink_to("3")
    play.child_falls_silent(last=True)
    for _ in range(3):
        play.step()
    *before, outcome = events
    assert before == [signal.SIGKILL, "alone?"]
    assert isinstance(outcome, Outcome)
    assert (outcome.status, outcome.exit_code, outcome.alive) == ("error", 3, False)
    assert 1 in play.supervisor._children, "its descriptors and its group are kept until it is collected"
    play.tell(packets.exited(1, signal.SIGKILL, 10))
    play.step()
    assert 1 not in play.supervisor._children
    assert events[-1] is outcome
    end(play, events)


def test_the_end_of_a_program_with_other_processes_is_told_when_they_are_dead(
    dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    play, events, _ = noting(dead, monkeypatch, alone=False)
    Path(play.folder.name, packets.NOTE).symlink_to("3")
    play.child_falls_silent(last=True)
    for _ in range(3):
        play.step()
    assert events == [signal.SIGKILL, "alone?"]
    play.tell(packets.exited(1, signal.SIGKILL, 1500))
    play.step()
    outcome = events[-1]
    assert isinstance(outcome, Outcome)
    assert (outcome.status, outcome.exit_code, outcome.cpu_s) == ("error", 3, 0.0015)
    end(play, events)


def test_a_program_that_only_falls_silent_goes_on(dead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    play, events, clock = noting(dead, monkeypatch)
    Path(play.folder.name, packets.NOTE).symlink_to("0 ")
    play.child_falls_silent(last=True)
    for _ in range(3):
        play.step()
    assert events == []
    clock.now += 6
    play.step()
    assert events == [signal.SIGKILL]
    play.tell(packets.exited(1, signal.SIGKILL, 0))
    play.step()
    outcome = events[-1]
    assert isinstance(outcome, Outcome)
    assert outcome.status == "timeout"
    end(play, events)


def test_a_note_changes_nothing_once_time_is_up(dead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    play, events, clock = noting(dead, monkeypatch)
    clock.now += 6
    play.step()
    Path(play.folder.name, packets.NOTE).symlink_to("0")
    play.child_falls_silent(last=True)
    for _ in range(3):
        play.step()
    play.tell(packets.exited(1, signal.SIGKILL, 0))
    play.step()
    outcome = events[-1]
    assert isinstance(outcome, Outcome)
    assert (outcome.status, outcome.exit_code) == ("timeout", None)
    end(play, events)


def test_a_program_that_is_told_and_never_collected_ends_the_worker(
    dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    play, events, clock = noting(dead, monkeypatch)
    Path(play.folder.name, packets.NOTE).symlink_to("0")
    play.child_falls_silent(last=True)
    for _ in range(3):
        play.step()
    assert isinstance(events[-1], Outcome)
    clock.now += supervisor.GRACE_S + 1
    play.step()
    assert play.supervisor.failure == "a child could not be ended in time"
    end(play, events)


def test_only_a_few_of_the_told_are_not_collected(dead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    play = honest(dead, clock)
    play.settle = lambda child: None  # type: ignore[method-assign]
    play.supervisor._alone = lambda child: True
    Path(play.folder.name, packets.NOTE).symlink_to("0")
    for _ in range(supervisor.UNCOLLECTED + 1):
        start(play, play.done())
        play.child_falls_silent(last=True)
        for _ in range(3):
            play.step()
        play.hardened()
        for _ in range(3):
            play.step()
    assert [len(told) for told in play.told.values()] == [1] * supervisor.UNCOLLECTED + [0]
    play.end()


def test_a_program_that_sends_packets_is_ended(dead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    play = honest(dead, Clock(monkeypatch))
    play.run()
    play.child_says(packets.cell_done(1, "ok"))
    play.step()
    play.tell(packets.exited(1, signal.SIGKILL, 0))
    play.step()
    (outcome,) = play.told[0]
    assert isinstance(outcome, Outcome)
    assert (outcome.status, outcome.exit_code) == ("killed", None)
    play.end()


def test_a_zygote_that_does_not_tell_the_end_is_given_up(dead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    play = honest(dead, clock)
    play.run()
    for _ in range(2):
        clock.now += 60
        play.step()
    (outcome,) = play.told[0]
    assert isinstance(outcome, InfrastructureError)
    play.end()


def test_a_program_that_was_collected_but_not_told_by_a_killed_zygote_was_killed(
    dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = honest(dead, Clock(monkeypatch))
    play.settle = lambda child: None  # type: ignore[method-assign]
    play.supervisor._gone = lambda child: None
    play.run()
    play.zygote.close()
    play.step()
    (outcome,) = play.told[0]
    assert isinstance(outcome, Outcome)
    assert (outcome.status, outcome.exit_code, outcome.alive) == ("killed", 137, False)
    assert play.supervisor.failure == "the zygote was ended by the code"
    play.end()


def test_a_cell_for_a_supervisor_that_has_failed_fails(dead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    play = honest(dead, Clock(monkeypatch))
    play.open()
    play.supervisor.fail("the zygote ended")
    told: list[object] = []
    play.supervisor.cell(play.sessions[0], *(os.open(os.devnull, os.O_RDONLY) for _ in range(2)), 0.5, told.append)
    (error,) = told
    assert isinstance(error, InfrastructureError)
    assert str(error) == "the zygote ended"
    play.end()


@pytest.mark.parametrize(("cells", "ended"), [(0, False), (1, True)])
def test_a_session_that_takes_no_cell_any_more_has_ended_if_it_has_run_code(
    cells: int, ended: bool, dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = honest(dead, Clock(monkeypatch))
    play.open()
    (child,) = play.sessions
    told: list[Any] = []
    theirs = socket.socket(fileno=os.dup(play.forks[-1][1][0]))
    for _ in range(cells):
        play.supervisor.cell(child, *(os.open(os.devnull, os.O_RDONLY) for _ in range(2)), 0.5, told.append)
        theirs.recv(64)
        theirs.send(packets.cell_done(1, "ok"))
        play.step()
        assert (told[-1].status, child.stage) == ("ok", "idle")
    theirs.close()
    child.sock.shutdown(socket.SHUT_WR)
    play.supervisor.cell(child, *(os.open(os.devnull, os.O_RDONLY) for _ in range(2)), 0.5, told.append)
    assert (isinstance(told[-1], Outcome) and told[-1].status == "ended") == ended
    assert isinstance(told[-1], InfrastructureError) != ended
    play.end()


def test_a_cell_that_was_never_taken_has_not_ended(dead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    play = honest(dead, Clock(monkeypatch))
    play.open()
    (child,) = play.sessions
    told: list[Any] = []
    play.supervisor.cell(child, *(os.open(os.devnull, os.O_RDONLY) for _ in range(2)), 0.5, told.append)
    theirs = socket.socket(fileno=os.dup(play.forks[-1][1][0]))
    theirs.send(packets.cell_done(1, "ok"))
    play.step()
    assert not told
    assert (child.stage, child.ended_by) == ("ending", "protocol")
    theirs.close()
    play.end()


def test_what_runs_inside_keeps_what_the_protocol_says() -> None:
    assert (execution.KEPT_BYTES, execution.MAX_OUTPUT_BYTES) == (base.KEPT_BYTES, base.MAX_OUTPUT_BYTES)
