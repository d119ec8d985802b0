"""Runs one program inside a cloud machine, watches it, and reports how it ended; sent there as a file.

Started by root of the machine, it gives the program an account without rights and no network, so that the
program can neither reach this process nor the services of the machine: the report is none of its making.
Standard library only, for Python 3.9 and newer. Usage: `python3 -I e2b_guest.py run JOB`, where JOB starts with
a line of JSON (see `Job`), followed by the source, the standard input and the files. The report goes to the
standard output as JSON. `list FOLDER` lists the regular files of a folder, which the service itself cannot where
a name is not UTF-8.
"""

import base64
import ctypes
import fcntl
import json
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from typing import Any, TypedDict

NOBODY = 65534
MEMORY_EXIT = 113
_NEW_NETWORK, _NEW_IPC = 0x40000000, 0x08000000
_NO_NEW_PRIVILEGES, _CHILD_SUBREAPER = 38, 36
_SET_FLAGS, _UP = 0x8914, 1
_GRACE_S = 5.0
_MAX_LISTED, _MAX_SEEN, _MAX_DEPTH = 10_000, 100_000, 32
# Equal programs print sets in equal order; and each arena would take 64 MiB of the address space that is limited.
_ENVIRONMENT = {"LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "MALLOC_ARENA_MAX": "2"}

_BOOT = """\
import sys
sys.path.pop(0)
import json, os, resource, types
path, ready, memory, limits, memory_exit = json.loads(sys.argv[1])
with open("/proc/self/statm") as file:
    limits["AS"] = memory + int(file.read().split()[0]) * resource.getpagesize()
for name, value in limits.items():
    resource.setrlimit(getattr(resource, "RLIMIT_" + name), (value, value))
sys.argv[:] = [path]
sys.path.insert(0, os.path.dirname(path))
for stream in (sys.stdout, sys.stderr):
    stream.reconfigure(errors="backslashreplace")
main = sys.modules["__main__"] = types.ModuleType("__main__")
main.__file__ = path
with open(path, "rb") as file:
    source = file.read()
os.write(ready, b"1")
os.close(ready)
try:
    exec(compile(source, path, "exec"), main.__dict__)
except SystemExit:
    raise
except BaseException as error:
    trace = error.__traceback__.tb_next
    sys.excepthook(type(error), error.with_traceback(trace), trace)
    sys.exit(memory_exit if isinstance(error, MemoryError) else 1)
"""


class Job(TypedDict):
    """The first line of a job file."""

    paths: list[str]
    sizes: list[int]
    timeout: float
    start_limit: float
    kept_bytes: int
    max_output: int
    memory: int
    tasks: int
    rlimits: dict[str, int]


class _Stream:
    """The reading end of a pipe: keeps the beginning and counts the rest."""

    def __init__(self, descriptor: int, keep: int) -> None:
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor
        self.kept = bytearray()
        self.total = 0
        self.ended = False
        self._keep = keep

    def read(self) -> bool:
        """Read what is there, at most 64 KiB; False if that was nothing."""
        try:
            data = os.read(self.descriptor, 65536)
        except BlockingIOError:
            return False
        self.ended = not data
        self.total += len(data)
        self.kept += data[: self._keep - len(self.kept)]
        return bool(data)


class _Watch:
    """Follows a process until it has ended, and ends it where it must be."""

    def __init__(self, job: Job, pid: int, pipes: dict[str, int]) -> None:
        self._job = job
        self._pid = pid
        self.streams = {name: _Stream(end, job["kept_bytes"]) for name, end in pipes.items()}
        self.ended_by = "itself"
        self.started = False
        self.began = time.monotonic()
        self._deadline = self.began + job["start_limit"]

    def run(self) -> float:
        """Watch to the end of the process; returns its wall time."""
        pidfd = os.pidfd_open(self._pid)
        with selectors.DefaultSelector() as selector:
            selector.register(pidfd, selectors.EVENT_READ)
            for stream in self.streams.values():
                selector.register(stream.descriptor, selectors.EVENT_READ, stream)
            while self._step(selector, pidfd):
                self._enforce()
        wall = time.monotonic() - self.began
        for stream in self.streams.values():
            while stream.total <= self._job["max_output"] and stream.read():
                pass
        return wall

    def _step(self, selector: selectors.BaseSelector, pidfd: int) -> bool:
        events = selector.select(max(0.0, self._deadline - time.monotonic()))
        for key, _ in events:
            if key.data is not None and not key.data.read() and key.data.ended:
                selector.unregister(key.fd)
        if not self.started and self.streams["ready"].total:
            self.started = True
            self.began = time.monotonic()
            self._deadline = self.began + self._job["timeout"]
        return all(key.fd != pidfd for key, _ in events)

    def _enforce(self) -> None:
        late = time.monotonic() >= self._deadline
        if self.ended_by != "itself":
            if late:
                raise RuntimeError("the process did not end after being killed")
            return
        flood = max(self.streams[name].total for name in ("stdout", "stderr")) > self._job["max_output"]
        if flood or late:
            self.ended_by = "start" if not self.started else "output" if flood else "timeout"
            os.killpg(self._pid, signal.SIGKILL)
            self._deadline = time.monotonic() + _GRACE_S


def _confine() -> None:
    """Leave the machine's network: its services would run code with other rights for whoever asks."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_NETWORK | _NEW_IPC) != 0:
        raise OSError(ctypes.get_errno(), "the network could not be taken away")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh14x", b"lo", _UP))


def _tasks_of(user: int) -> int:
    """Threads that the account has already; NPROC counts them too."""
    total = 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{name}").st_uid == user:
                total += len(os.listdir(f"/proc/{name}/task"))
        except OSError:
            pass  # it ended in the meantime
    return total


def _lay_out(job: Job, source: bytes, files: list[bytes]) -> str:
    """Write the source and the files into a new working folder; returns its path."""
    work = tempfile.mkdtemp(prefix="run-")
    for name, data in [*zip(job["paths"], files), ("main.py", source)]:  # noqa: B905 - Python 3.10
        path = os.path.join(work, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
    if os.geteuid() == 0:
        for folder, _, names in os.walk(work):
            for path in (folder, *(os.path.join(folder, name) for name in names)):
                os.chown(path, NOBODY, NOBODY)
    return work


def _start(job: Job, work: str, stdin: int, writes: dict[str, int]) -> "subprocess.Popen[bytes]":
    user = NOBODY if os.geteuid() == 0 else os.geteuid()
    rights: dict[str, Any] = {"user": user, "group": user, "extra_groups": []} if os.geteuid() == 0 else {}
    limits = {**job["rlimits"], "NPROC": job["tasks"] + _tasks_of(user)}
    arguments = json.dumps([os.path.join(work, "main.py"), writes["ready"], job["memory"], limits, MEMORY_EXIT])
    libc = ctypes.CDLL(None)
    return subprocess.Popen(
        [sys.executable, "-s", "-u", "-X", "utf8", "-c", _BOOT, arguments],
        stdin=stdin,
        stdout=writes["stdout"],
        stderr=writes["stderr"],
        pass_fds=(writes["ready"],),
        cwd=work,
        env={"PATH": os.environ["PATH"], "HOME": work, **_ENVIRONMENT},
        start_new_session=True,
        preexec_fn=lambda: libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0),
        **rights,
    )


def _memory_kills() -> int:
    """How often the kernel has killed something because memory had run out."""
    with open("/proc/vmstat", encoding="ascii") as file:
        return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0)


def _nobody_left() -> bool:
    """Whether everything that the program started has ended."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                return False
        except ChildProcessError:
            return True


def run(job: Job, source: bytes, given: bytes, files: list[bytes]) -> dict[str, Any]:
    """Run a program to its end and return the report."""
    ctypes.CDLL(None).prctl(_CHILD_SUBREAPER, 1, 0, 0, 0)
    if os.geteuid() == 0:
        _confine()
    work = _lay_out(job, source, files)
    reads, writes = {}, {}
    for name in ("stdout", "stderr", "ready"):
        reads[name], writes[name] = os.pipe()
    kills = _memory_kills()
    with tempfile.TemporaryFile() as stdin:
        stdin.write(given)
        stdin.seek(0)
        process = _start(job, work, stdin.fileno(), writes)
    for end in writes.values():
        os.close(end)
    if os.geteuid() == 0:
        with open(f"/proc/{process.pid}/oom_score_adj", "w", encoding="ascii") as file:
            file.write("1000")
    watch = _Watch(job, process.pid, reads)
    wall = watch.run()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = code = os.waitstatus_to_exitcode(status)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    return {
        "ended_by": watch.ended_by if watch.started else "start",
        "exit_code": code if code >= 0 else 128 - code,
        "out_of_memory": code == -signal.SIGKILL and _memory_kills() > kills,
        "wall_s": wall,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "nobody_left": _nobody_left(),
        **{name: base64.b64encode(watch.streams[name].kept).decode("ascii") for name in ("stdout", "stderr")},
    }


def listing(folder: str) -> list[str]:
    """Return the relative paths of the regular files in a folder; links are not followed.

    Hostile code may have filled it: at most `_MAX_LISTED` files, `_MAX_SEEN` entries and some levels are looked at.
    """
    found: list[str] = []
    left = [("", 0)]
    seen = 0
    while left:
        prefix, depth = left.pop()
        try:
            entries = os.scandir(os.path.join(folder, prefix))
        except OSError:
            continue  # it was removed in the meantime
        for entry in entries:
            seen += 1
            if seen > _MAX_SEEN or len(found) >= _MAX_LISTED:
                return sorted(found)
            name = prefix + entry.name
            if entry.is_file(follow_symlinks=False):
                found.append(os.fsencode(name).decode("utf-8", "replace"))
            elif entry.is_dir(follow_symlinks=False) and depth < _MAX_DEPTH:
                left.append((name + "/", depth + 1))
    return sorted(found)


def main() -> None:
    """Do what the command line says; a job file is removed."""
    action, path = sys.argv[1:]
    if action == "list":
        sys.stdout.write(json.dumps(listing(path)))
        return
    with open(path, "rb") as file:
        job: Job = json.loads(file.readline())
        source, given, *files = [file.read(size) for size in job["sizes"]]
    os.remove(path)
    sys.stdout.write(json.dumps(run(job, source, given, files)))


if __name__ == "__main__":
    main()
