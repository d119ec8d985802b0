"""Running the command line as users do, and killing it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

PALESTRA = (sys.executable, "-m", "palestra")


def start(*arguments: str | Path, launcher: tuple[str, ...] = PALESTRA) -> subprocess.Popen[str]:
    """Start a command."""
    command = [*launcher, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


def finish(*arguments: str | Path, launcher: tuple[str, ...] = PALESTRA) -> str:
    """Run a command to its end and return what it printed."""
    process = start(*arguments, launcher=launcher)
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    return out


def kill_when(process: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
    """SIGKILL a command and its processes once something is so."""
    deadline = time.monotonic() + 200
    while not reached():
        assert process.poll() is None, f"it ended before it could be killed: {process.communicate()[1]}"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    kill(process)


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL a command and all that it started: a launcher's workers have sessions of their own."""
    for one in [*psutil.Process(process.pid).children(recursive=True), process]:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.communicate()
