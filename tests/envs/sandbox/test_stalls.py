"""The clock of the other tests: it stands with the machine, and with nothing else."""

import os
import signal
import time
from collections.abc import Iterator

import pytest
from stalls import MISSED_S, Clock, machine_clock


@pytest.fixture
def clock() -> Iterator[Clock]:
    with machine_clock() as clock:
        yield clock


@pytest.fixture
def witness(clock: Clock) -> int:
    deadline = time.monotonic() + 5
    while not clock.witness and time.monotonic() < deadline:
        time.sleep(0.01)
    if not clock.witness:
        pytest.skip("no real-time priority is to be had")
    return clock.witness


def test_it_stands_while_nobody_runs(clock: Clock, witness: int) -> None:
    began, at = time.monotonic(), clock()
    os.kill(witness, signal.SIGSTOP)  # as if the machine had been paused
    time.sleep(1.5)
    os.kill(witness, signal.SIGCONT)
    time.sleep(0.3)
    missed = (time.monotonic() - began) - (clock() - at)
    assert MISSED_S < missed <= time.monotonic() - began - 0.25


@pytest.mark.sandbox
def test_it_goes_on_while_others_starve(clock: Clock, witness: int) -> None:
    pids = []
    for _ in range(4 * (os.cpu_count() or 1)):
        if (pid := os.fork()) == 0:
            while True:
                pass
        pids.append(pid)
    try:
        began, at = time.monotonic(), clock()
        time.sleep(1.5)
        assert clock() - at == pytest.approx(time.monotonic() - began, abs=0.05)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_the_witness_ends_with_its_clock() -> None:
    with machine_clock() as clock:
        time.sleep(0.3)
        pid = clock.witness
    if not pid:
        pytest.skip("no real-time priority is to be had")
    deadline = time.monotonic() + 5
    while os.path.exists(f"/proc/{pid}"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
