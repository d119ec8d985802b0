"""Which processes there are, from /proc: for measurements that must not miss one that got away."""

from pathlib import Path

_STATE, _PARENT, _STARTED = 0, 1, 19


def _stat(pid: int | str) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()  # the name in parentheses may contain anything


def descendants(*roots: int) -> dict[int, str]:
    """Return all processes below `roots` and those themselves: pid -> when it started, in the kernel's ticks."""
    found: dict[int, tuple[int, str]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (fields := _stat(folder.name)) is not None and fields[_STATE] not in "ZX":
            found[int(folder.name)] = int(fields[_PARENT]), fields[_STARTED]
    members = {pid for pid in roots if pid in found}
    grown = True
    while grown:
        more = {pid for pid, (parent, _) in found.items() if parent in members} - members
        members |= more
        grown = bool(more)
    return {pid: found[pid][1] for pid in members}


def still_there(processes: dict[int, str]) -> dict[int, str]:
    """Return those of `processes` that live; one that only waits to be reaped does not."""
    left = {}
    for pid, started in processes.items():
        fields = _stat(pid)
        if fields is not None and fields[_STATE] not in "ZX" and fields[_STARTED] == started:
            left[pid] = started
    return left
