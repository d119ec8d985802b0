"""The machines of the fake E2B: each is a folder of this machine, and the processes started for it."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_KERNEL = Path(__file__).with_name("e2b_kernel.py")


def _interpreter() -> str:
    """An interpreter that also the account which a root supervisor drops to can reach."""
    path = Path(os.path.realpath(sys.executable))
    if os.geteuid() == 0 and not all(folder.stat().st_mode & 0o005 == 0o005 for folder in path.parents):
        other = shutil.which("python3", path="/usr/local/bin:/usr/bin")
        assert other, "this interpreter is closed to other users, and there is no python3 of the system"
        return other
    return sys.executable


@dataclass
class Kernel:
    """One code context."""

    cwd: str
    process: "subprocess.Popen[bytes]"
    turn: threading.Lock = field(default_factory=threading.Lock)


class Machine:
    """One sandbox of the service."""

    def __init__(self, top: Path, request: dict[str, Any]) -> None:
        self.id = uuid.uuid4().hex[:16]
        self.token = uuid.uuid4().hex
        self.request = request
        self.metadata: dict[str, str] = request["metadata"]
        self.ends = time.monotonic() + request["timeout"]
        self.folder = top / self.id
        self.home = self.folder / "home"
        self.processes: list[subprocess.Popen[bytes]] = []
        self.kernels: dict[str, Kernel] = {}
        self.commands = 0
        for folder in (self.folder, self.home, self.folder / "tmp", self.folder / "bin"):
            folder.mkdir()
        (self.folder / "tmp").chmod(0o1777)
        python = self.folder / "bin" / "python3"
        python.write_text(f'#!/bin/sh\nexec {_interpreter()} "$@"\n', encoding="utf-8")
        python.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
            "TMPDIR": str(self.folder / "tmp"),
            "HOME": str(self.home),
            "MACHINE": self.id,
        }

    def path(self, path: str) -> Path:
        """Where a path of this machine lies; relative ones start at the home folder."""
        return self.home / path

    def start(self, command: list[str], cwd: str, **streams: Any) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(command, cwd=cwd, env=self.environment, start_new_session=True, **streams)
        self.processes.append(process)
        return process

    def end(self) -> None:
        """Kill its processes, and what they started in turn, and remove its folder."""
        for process in self.processes:
            for pid in [*_descendants(process.pid), process.pid]:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                with contextlib.suppress(OSError):  # what was not written yet goes nowhere
                    if pipe is not None:
                        pipe.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _descendants(pid: int) -> list[int]:
    found = []
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
        children = [c for t in tasks for c in Path(f"/proc/{pid}/task/{t}/children").read_text("ascii").split()]
    except OSError:
        return []
    for child in map(int, children):
        found += [*_descendants(child), child]
    return found


def start_kernel(machine: Machine, cwd: str) -> Kernel:
    """Start an interpreter in a machine."""
    command = [_interpreter(), "-I", str(_KERNEL)]
    return Kernel(cwd, machine.start(command, cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
