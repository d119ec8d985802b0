"""A clock for bounds on time that stands while the whole machine does, as a virtual machine that is paused.

A process of real-time priority wakes every 50 ms. Nothing that a sandbox lets code do keeps it from a processor, so
what it misses everybody has missed: starving others does not stop this clock. Where no such priority is to be had, it
is an ordinary one.
"""

import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

BEAT_S, MISSED_S = 0.05, 0.5
"""Seconds between two beats, and how late one must be to count as missed."""

_WITNESS = f"""\
import os, select, struct, time
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
if os.fork():
    os._exit(0)  # it belongs to nobody: tests count what they have started
missed, last = 0.0, time.monotonic()
os.write(1, struct.pack("di", missed, os.getpid()))
while not select.select([0], [], [], {BEAT_S})[0]:  # the end of whoever started it ends it
    late = time.monotonic() - last - {BEAT_S}
    last += late + {BEAT_S}
    if late > {MISSED_S}:
        missed += late
        os.pwrite(1, struct.pack("d", missed), 0)
"""


class Clock:
    """Seconds that the machine has been awake, counted from anywhere."""

    def __init__(self, missed: int) -> None:
        self._missed = missed

    def __call__(self) -> float:
        """Read it."""
        return time.monotonic() - self._read()[0]

    @property
    def witness(self) -> int:
        """The pid of the process with real-time priority; 0: there is none."""
        return self._read()[1]

    def _read(self) -> tuple[float, int]:
        missed, pid = struct.unpack("di", os.pread(self._missed, 12, 0).ljust(12, b"\0"))
        return missed, pid


@contextmanager
def machine_clock() -> Iterator[Clock]:
    """Start a clock."""
    with tempfile.TemporaryFile() as missed:
        process = subprocess.Popen(
            [sys.executable, "-c", _WITNESS], stdin=subprocess.PIPE, stdout=missed, stderr=subprocess.DEVNULL
        )
        assert process.stdin is not None
        with process.stdin:
            process.wait()
            yield Clock(missed.fileno())
