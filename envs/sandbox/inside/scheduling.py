"""Whether an execution's processes share what the scheduler gives to one process.

Where they do, they run as `SCHED_IDLE`, which within such a group costs them nothing, while nothing that they do, as
waking each other all the time, keeps others from a processor: Linux 6.18 could let normal processes wait for many
seconds then. Elsewhere that policy would starve honest code beside a busy trainer.
"""

import os
from pathlib import Path

_CONTROL_GROUPS = Path("/sys/fs/cgroup")
_PROC = Path("/proc")


def in_words(yielding: bool) -> str:
    """Describe how executions are scheduled."""
    return "the share of one process, and never before others" if yielding else "as any other process"


def is_contained(groups: Path = _CONTROL_GROUPS) -> bool:
    """Whether we are in a control group with processor shares of its own, as in a container.

    Args:
        groups: Where the control groups are mounted, as seen from inside the container.
    """
    old = groups / "cpu"
    return (groups / "cpu.weight").exists() or ((old / "cpu.shares").exists() and not _is_top(old))


def has_autogroups(groups: Path = _CONTROL_GROUPS, proc: Path = _PROC) -> bool:
    """Whether the kernel gives every session (`setsid`) a share of its own: sched(7), "The autogroup feature".

    It does so only for processes in the topmost control group of processors.

    Args:
        groups: Where the control groups are mounted.
        proc: Where /proc is.
    """
    try:
        if (proc / "sys/kernel/sched_autogroup_enabled").read_text(encoding="ascii").strip() != "1":
            return False
        lines = (proc / "self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return False
    paths = {name: path for _, names, path in (line.split(":", 2) for line in lines) for name in names.split(",")}
    if "cpu" in paths:
        return paths["cpu"] == "/" and _is_top(groups / "cpu")
    place = groups / paths.get("", "/").lstrip("/")
    above = [place, *place.parents][: len(place.parts) - len(groups.parts) + 1]
    return not (groups / "cgroup.type").exists() and not any((folder / "cpu.weight").exists() for folder in above)


def give_way() -> None:
    """Let the calling process run only where no other wants the processor; for good, without CAP_SYS_NICE.

    Raises:
        OSError: The kernel does not do that; not every one in a container is Linux, and filters may refuse it.
    """
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def can_give_way() -> bool:
    """Whether `give_way` works here: tried in a process of its own."""
    pid = os.fork()
    if pid == 0:
        try:
            give_way()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _is_top(folder: Path) -> bool:
    """Whether a control group of version 1 is the topmost: only that has the file."""
    return (folder / "release_agent").exists()
