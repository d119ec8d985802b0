"""The sandbox `unsafe-process`: no sandbox at all, ordinary processes with the same interface.

The code has every right of the user who runs it: files, network, other processes. For trying things out where
isolation cannot be had, and only with code that you would run yourself. It is never chosen for anyone.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from palestra.envs.errors import MissingPrerequisiteError
from palestra.envs.sandbox.base import Limits
from palestra.envs.sandbox.bundle import boot_arguments, bundle, memory_file
from palestra.envs.sandbox.inside.execution import Child
from palestra.envs.sandbox.layout import ENVIRONMENT
from palestra.envs.sandbox.local import PRELOADED
from palestra.envs.sandbox.pool import PoolSandbox
from palestra.envs.sandbox.worker import ProcessWorker, Worker


class UnsafeProcess(PoolSandbox):
    """Runs each piece of code in a process of its own, with a time and an output limit and nothing else."""

    name = "unsafe-process"

    def __init__(self, limits: Limits | None = None) -> None:
        """Start it.

        Args:
            limits: Taken for the sake of the interface; nothing is limited.

        Raises:
            MissingPrerequisiteError: The machine does not run Linux.
            SandboxError: The process did not start.
        """
        if sys.platform != "linux":
            raise MissingPrerequisiteError("the sandbox 'unsafe-process' needs Linux")
        self._folder = tempfile.TemporaryDirectory(prefix="palestra-")
        slots = os.cpu_count() or 1
        super().__init__(self._new_worker, workers=1, slots=slots, at_once=slots)

    def describe(self) -> dict[str, str]:
        """Say that nothing is enforced."""
        return {"isolation": "none: the code has all your rights"}

    def close(self) -> None:
        """End everything; see `Sandbox.close`."""
        super().close()
        if self.is_own():
            self._folder.cleanup()

    def _new_worker(self) -> Worker:
        config = {
            "isolation": "none",
            "preload": PRELOADED,
            "memory_mib": 0,
            "rlimits": {},
            "tmpfs": "",
            "devices": [],
            "filter": "",
            "yielding": False,
        }
        return ProcessWorker(
            lambda control: self._launch(control, config), spares=1, new_group=None, settle=_end_what_is_left
        )

    def _launch(self, control: int, config: dict[str, Any]) -> "subprocess.Popen[bytes]":
        source = memory_file(bundle("zygote", config | {"control": control}, []))
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        try:
            return subprocess.Popen(
                [sys.executable, *boot_arguments(source)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(control, source),
                env=inherited | ENVIRONMENT | {"HOME": self._folder.name},
                cwd=self._folder.name,
                start_new_session=True,
            )
        finally:
            os.close(source)


def _end_what_is_left(child: Child) -> None:
    """Kill the processes of the child's group, and remove its folder."""
    if child.pid > 0:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    if child.folder >= 0:
        shutil.rmtree(Path(f"/proc/self/fd/{child.folder}").readlink(), ignore_errors=True)
