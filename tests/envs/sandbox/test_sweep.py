import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from palestra.envs.sandbox.inside import sweep as module
from palestra.envs.sandbox.inside.execution import Child, Stream
from palestra.envs.sandbox.inside.sweep import SWEEPS, OutrunError, Process, living, sweep


class Processes:
    """Processes that die some looks after they were killed, and may fork at every look until then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, dying: int, forks: int = 0) -> None:
        self.alive: dict[Process, int | None] = {(pid, 100 * pid): None for pid in (1, 7, 50, 51)}
        self.kills: list[int] = []
        self.now = 0.0
        self._dying = dying
        self._forks = forks
        monkeypatch.setattr(module, "living", self._look)
        monkeypatch.setattr(os, "kill", self._kill)
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(module.time, "sleep", self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    def _look(self) -> set[Process]:
        if self._forks and any(left is None and pid >= 50 for (pid, _), left in self.alive.items()):
            self._forks -= 1
            self.alive[max(self.alive)[0] + 1, 0] = None
        self.alive = {p: None if left is None else left - 1 for p, left in self.alive.items() if left != 0}
        return set(self.alive)

    def _kill(self, pid: int, number: int) -> None:
        assert number == signal.SIGKILL
        self.kills.append(pid)
        (process,) = (process for process in self.alive if process[0] == pid)
        self.alive[process] = self._dying


def test_all_but_the_spared_are_killed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    processes = Processes(monkeypatch, dying=1)
    sweep({1, 7}, lambda: None, 10, lambda: True)
    assert sorted(processes.kills) == [50, 51]
    assert {pid for pid, _ in processes.alive} == {1, 7}


def test_slow_deaths_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    processes = Processes(monkeypatch, dying=40 * SWEEPS)
    sweep({1, 7}, lambda: None, 10, lambda: True)
    assert sorted(processes.kills) == [50, 51]


def test_what_does_not_die_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    Processes(monkeypatch, dying=10**9)
    with pytest.raises(OutrunError, match="alive 10 s after"):
        sweep({1, 7}, lambda: None, 10, lambda: True)


def test_some_forks_are_caught_up_with(monkeypatch: pytest.MonkeyPatch) -> None:
    processes = Processes(monkeypatch, dying=3, forks=SWEEPS // 2)
    sweep({1, 7}, lambda: None, 10, lambda: True)
    assert {pid for pid, _ in processes.alive} == {1, 7}


def test_endless_forks_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    processes = Processes(monkeypatch, dying=3, forks=10**9)
    original = processes._kill

    def kill(pid: int, number: int) -> None:
        original(pid, number)
        processes.alive[max(processes.alive)[0] + 1, 0] = None  # it had forked just before

    monkeypatch.setattr(os, "kill", kill)
    with pytest.raises(OutrunError, match="faster"):
        sweep({1, 7}, lambda: None, 10, lambda: True)


def test_a_pid_that_is_used_again_is_killed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    processes = Processes(monkeypatch, dying=1)

    def collect() -> None:
        if processes.alive.pop((50, 5000), None) is not None:
            processes.alive[50, 9999] = None

    sweep({1, 7}, collect, 10, lambda: True)
    assert sorted(processes.kills) == [50, 50, 51]
    assert {pid for pid, _ in processes.alive} == {1, 7}


def test_what_is_counted_but_not_seen_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    processes = Processes(monkeypatch, dying=1)
    sweep({1, 7}, lambda: None, 10, lambda: processes.now > 5)
    assert 5 < processes.now < 6
    with pytest.raises(OutrunError, match="alive 10 s after"):
        sweep({1, 7}, lambda: None, 10, lambda: False)


LEADERLESS = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(600,)).start()
print(flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""


def test_a_process_whose_first_thread_has_ended_lives() -> None:
    with subprocess.Popen([sys.executable, "-c", LEADERLESS], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        stat = Path(f"/proc/{process.pid}/stat")
        deadline = time.monotonic() + 10
        while stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert process.pid in {pid for pid, _ in living()}
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert process.pid not in {pid for pid, _ in living()}


def test_the_dead_are_not_living() -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert process.pid not in {pid for pid, _ in living()}
        assert os.getpid() in {pid for pid, _ in living()}


def test_a_dead_child_is_there_until_somebody_has_waited_for_it() -> None:
    ours, theirs = socket.socketpair()
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process, ours, theirs:
        child = Child(1, ours, Stream(os.eventfd(0)), Stream(os.eventfd(0)), None, pidfd=os.pidfd_open(process.pid))
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert child.uncollected()
        process.wait()
        assert not child.uncollected()
        child.close()
        assert not child.uncollected()
