"""Control groups for the children of the local sandbox: memory and tasks of all processes of one together.

Used where the host process may make some (as root, mostly); version 1 and 2. They are empty folders between
executions, named after the process that made them; what a killed process left is removed by the next one.
"""

import errno
import itertools
import os
import re
import time
import uuid
from contextlib import suppress
from pathlib import Path

from palestra.envs.sandbox.inside.execution import Group

_ROOT = Path("/sys/fs/cgroup")
_PREFIX = "palestra-"
_BURIAL_S = 2.0
_NAME = re.compile(_PREFIX + r"(?P<pid>[0-9]+)-(?P<started>[0-9]+)-[0-9a-f]{8}-[0-9]+")


class ControlGroups:
    """The groups of one sandbox; `new` may be called from several threads."""

    def __init__(self, memory_bytes: int, tasks: int, root: Path = _ROOT) -> None:
        """See whether groups can be made, by making one.

        Args:
            memory_bytes: What the processes in a group may use together, swap included.
            tasks: Threads and processes in a group.
            root: Where the control groups are mounted.

        Raises:
            OSError: They cannot.
        """
        self._memory_bytes = memory_bytes
        self._tasks = tasks
        self._unified = (root / "cgroup.controllers").is_file()
        self._parents = [root] if self._unified else [root / "memory", root / "pids"]
        self._name = f"{_PREFIX}{os.getpid()}-{_started(os.getpid())}-{uuid.uuid4().hex[:8]}"
        self._numbers = itertools.count()
        self._folders: list[Path] = []
        _remove_abandoned(self._parents)
        if self._unified:
            (root / "cgroup.subtree_control").write_text("+memory +pids", encoding="ascii")
        try:
            self.new()
        except OSError:
            self.close()
            raise
        self.close()

    def new(self) -> Group:
        """Make one more.

        Raises:
            OSError: The kernel refuses.
        """
        number = next(self._numbers)
        folders = []
        for parent in self._parents:
            folder = parent / f"{self._name}-{number}"
            folder.mkdir()
            folders.append(folder)
            self._folders.append(folder)
        memory, pids = folders[0], folders[-1]
        if self._unified:
            limit, swap, kills, swap_bytes = "memory.max", "memory.swap.max", "memory.events", 0
        else:
            limit, swap = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
            kills, swap_bytes = "memory.oom_control", self._memory_bytes
        (memory / limit).write_text(str(self._memory_bytes), encoding="ascii")
        if (memory / swap).exists():  # the kernel may not account for swap
            (memory / swap).write_text(str(swap_bytes), encoding="ascii")
        (pids / "pids.max").write_text(str(self._tasks), encoding="ascii")
        return Group(
            [str(folder / "cgroup.procs") for folder in folders], str(memory / kills), str(pids / "pids.current")
        )

    def close(self) -> None:
        """Remove them; twice is fine. One whose processes the kernel has not buried yet is waited for, a while."""
        ends = time.monotonic() + _BURIAL_S
        for folder in self._folders:
            while _is_busy(folder) and time.monotonic() < ends:
                time.sleep(0.01)
        self._folders.clear()


def _is_busy(folder: Path) -> bool:
    """Remove a group, or say that there are processes in it."""
    try:
        folder.rmdir()
    except OSError as error:
        return error.errno == errno.EBUSY
    return False


def _started(pid: int) -> str:
    """When a process was started, in the kernel's ticks: with the pid it names a process for good."""
    text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    return text.rpartition(")")[2].split()[19]


def _remove_abandoned(parents: list[Path]) -> None:
    for parent in parents:
        for folder in parent.glob(f"{_PREFIX}*"):
            ours = _NAME.fullmatch(folder.name)
            if ours is None:
                continue
            try:
                alive = _started(int(ours["pid"])) == ours["started"]
            except OSError:
                alive = False
            if not alive:
                with suppress(OSError):
                    folder.rmdir()
