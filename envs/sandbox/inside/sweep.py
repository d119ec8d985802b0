"""Ends all processes of a container but a few, where no control group can be killed at once."""

import os
import signal
import time
from collections.abc import Callable, Set
from contextlib import suppress

SWEEPS = 50
"""Looks that may find processes which the looks before did not."""
_PAUSE_S = 0.001
_THREADS, _START = 17, 19
"""Where the number of threads and the time of the start are behind the name in /proc/PID/stat: proc(5)."""

Process = tuple[int, int]
"""A pid, and when it started: together they name a process for good."""


class OutrunError(OSError):
    """Processes are made faster than they can be killed, or do not die."""


def sweep(spared: Set[int], collect: Callable[[], None], patience: float, finished: Callable[[], bool]) -> None:
    """Kill all processes but some, and wait until they are dead.

    A killed process makes no other, but without a processor it takes its time to die: that is waited for, and only
    what has to be killed anew counts as outrunning us.

    Args:
        spared: Pids.
        collect: Called again and again; collects the dead that are the caller's children.
        patience: Seconds after which what still lives does not die.
        finished: Whether none is left by the kernel's own count; asked when none is seen.

    Raises:
        OutrunError: Some may be alive still.
    """
    killed: set[Process] = set()
    ends = time.monotonic() + patience
    sweeps = 0
    while (left := {process for process in living() if process[0] not in spared}) or not finished():
        fresh = left - killed
        sweeps += bool(fresh)
        if sweeps > SWEEPS:
            raise OutrunError(f"processes were made faster than they could be killed, {SWEEPS} times")
        if time.monotonic() > ends:
            raise OutrunError(f"processes were alive {patience:g} s after they were killed")
        for pid, _ in fresh:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed |= fresh
        collect()
        if not fresh:
            time.sleep(_PAUSE_S)


def living() -> set[Process]:
    """Find all processes but the dead that nobody has collected yet."""
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it is gone
            # One whose first thread has ended looks dead, too, while others of its threads go on.
            if fields[0] not in (b"Z", b"X") or int(fields[_THREADS]) > 1:
                found.add((int(name), int(fields[_START])))
    return found
