"""One child as the supervisor sees it: its descriptors, what it wrote, and how far it has come."""

import errno
import fcntl
import os
import resource
import signal
import socket
import termios
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from palestra.envs.sandbox.inside import packets
from palestra.envs.sandbox.inside.child import MEMORY_EXIT

KEPT_BYTES = 64 * 1024
MAX_OUTPUT_BYTES = 4 * 1024 * 1024
_RESERVE = 64
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_CPU_CLOCK = 2  # CPUCLOCK_SCHED: what clock_getcpuclockid(3) makes of a pid

Stage = Literal["starting", "waiting", "running", "idle", "interrupted", "ending"]
"""`starting`: not confined yet. `waiting`: confined, without a task. `idle`: a session between cells.
`interrupted`: a cell that was asked to stop. `ending`: killed, or about to be reaped."""


@dataclass(frozen=True)
class Outcome:
    """How an execution or a cell ended."""

    status: str
    """As in `ExecResult`; or `ended`: there was no session any more, and nothing ran."""
    exit_code: int | None
    wall_s: float
    cpu_s: float
    stdout: bytes
    stderr: bytes
    alive: bool = False
    """Whether the session can run another cell."""


NEVER_RAN = Outcome("ended", None, 0.0, 0.0, b"", b"")


class InfrastructureError(Exception):
    """The sandbox failed; nothing is known about the code."""


class ExhaustedError(InfrastructureError):
    """What runs the code was ended by the kernel, because the code had used up the memory."""


class RefusedError(InfrastructureError):
    """What was asked for cannot be done here (its files have no room); the sandbox is as sound as before."""


Done = Callable[[Outcome | InfrastructureError], None]


class Stream:
    """The reading end of a pipe: keeps the first 64 KiB and counts the rest."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor
        self.ended = False
        self.reset()

    def reset(self) -> None:
        """Forget what was read."""
        self.kept = bytearray()
        self.total = 0

    def read(self) -> bool:
        """Read what is there, at most 64 KiB; False if that was nothing."""
        if self.ended:
            return False
        try:
            data = os.read(self.descriptor, 64 * 1024)
        except BlockingIOError:
            return False
        self.ended = not data
        self.total += len(data)
        self.kept += data[: KEPT_BYTES - len(self.kept)]
        return bool(data)

    def drain(self) -> None:
        """Read what is there now; a writer that never stops is left after `MAX_OUTPUT_BYTES`."""
        while self.total <= MAX_OUTPUT_BYTES and self.read():
            pass


@dataclass
class Child:
    """A forked child and what it is used for."""

    number: int
    sock: socket.socket
    stdout: Stream
    stderr: Stream
    group: "Group | None"
    stage: Stage = "starting"
    pidfd: int = -1
    pid: int = -1
    folder: int = -1
    session: bool = False
    cell: int = 0
    began: float = 0.0
    deadline: float | None = None
    done: Done | None = None
    ended_by: Literal["itself", "timeout", "output", "caller", "protocol", "supervisor"] = "itself"
    kills_before: int = 0
    cpu_before_us: int = 0
    cpu_us: int = 0
    noted: int | None = None
    """The exit code that it told by itself."""

    def adopt(self, pidfd: int) -> None:
        """Take over the process's descriptor."""
        self.pidfd = pidfd
        with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
            self.pid = next(int(line.split()[1]) for line in file if line.startswith("Pid:"))

    def begin(self, timeout: float) -> None:
        """Start the clocks."""
        self.stage = "running"
        self.ended_by = "itself"
        self.began = time.monotonic()
        self.deadline = self.began + timeout
        self.cpu_before_us = self.cpu_now_us()
        self.kills_before = self.group.kills() if self.group else 0

    def cpu_now_us(self) -> int:
        """Processor time of the process so far, in microseconds; 0 if it is gone."""
        try:
            return time.clock_gettime_ns((~self.pid << 3) | _CPU_CLOCK) // 1000
        except OSError:
            return 0

    def cpu_of_children_us(self) -> int:
        """Processor time of the processes that it has waited for, in microseconds (in steps of 10 ms)."""
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            return 0
        return (int(fields[13]) + int(fields[14])) * 1_000_000 // _TICKS_PER_S

    def short_of_memory(self) -> bool:
        """Whether a process of what ran was killed because the memory was used up."""
        return self.group is not None and self.group.kills() > self.kills_before

    def flood(self) -> bool:
        """Whether it wrote more than anything honest does."""
        return max(self.stdout.total, self.stderr.total) > MAX_OUTPUT_BYTES

    def took_task(self) -> bool:
        """Whether it has received all that it was sent: what lies in its socket counts against all who run code."""
        waiting = bytearray(4)
        fcntl.ioctl(self.sock, termios.TIOCOUTQ, waiting)
        return not any(waiting)

    def signal(self, number: int) -> None:
        """Send a signal to the child's first process."""
        if self.pidfd >= 0:
            try:
                signal.pidfd_send_signal(self.pidfd, number)
            except ProcessLookupError:
                pass

    def uncollected(self) -> bool:
        """Whether the process is there, if only as a dead one that nobody has waited for."""
        if self.pidfd < 0:
            return False
        try:
            signal.pidfd_send_signal(self.pidfd, 0)
        except ProcessLookupError:
            return False
        return True

    def finish(self, outcome: Outcome | InfrastructureError) -> None:
        """Tell whoever waits, once."""
        done, self.done = self.done, None
        if done is not None:
            done(outcome)

    def outcome(self, status: str, exit_code: int | None, *, alive: bool) -> Outcome:
        """Describe the end of what ran, with its output, and forget the output."""
        self.stdout.drain()
        self.stderr.drain()
        wall = time.monotonic() - self.began
        result = Outcome(
            status, exit_code, wall, self.cpu_us / 1e6, bytes(self.stdout.kept), bytes(self.stderr.kept), alive
        )
        self.stdout.reset()
        self.stderr.reset()
        return result

    def end(self, status: int) -> Outcome:
        """Describe the end of the process.

        Args:
            status: As `os.waitpid` gives it; without meaning if the child has told its exit code.
        """
        if self.ended_by in ("timeout", "output"):
            return self.outcome(self.ended_by, None, alive=False)
        if self.ended_by in ("caller", "protocol"):
            return self.outcome("killed", None, alive=False)
        code = os.waitstatus_to_exitcode(status) if self.noted is None else self.noted
        code = code if code >= 0 else 128 - code
        named = classify(code)
        if named == "killed" and self.short_of_memory():
            named = "memory"
        if self.session and named == "ok":
            named = "killed"  # a cell that ended its interpreter, whatever it called that
        return self.outcome(named, code, alive=False)

    def close(self) -> None:
        """Close the descriptors."""
        self.sock.close()
        for descriptor in (self.stdout.descriptor, self.stderr.descriptor, self.pidfd, self.folder):
            if descriptor >= 0:
                os.close(descriptor)
        self.pidfd = -1


def ask_for_child(zygote: socket.socket, number: int, group: "Group | None") -> Child:
    """Have a zygote fork; returns the child as it will be.

    Raises:
        OSError: The zygote takes nothing any more, or there are hardly any descriptors left (EMFILE): those are
            kept for what the other children need from moment to moment.
    """
    kept: list[int] = []
    passed: list[int] = []
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        kept.append(ours.detach())
        passed.append(theirs.detach())
        for _ in ("stdout", "stderr"):
            reading, writing = os.pipe()
            kept.append(reading)
            passed.append(writing)
        if max(kept) + _RESERVE > resource.getrlimit(resource.RLIMIT_NOFILE)[0]:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        passed += [os.open(path, os.O_WRONLY | os.O_CLOEXEC) for path in (group.procs if group else ())]
        socket.send_fds(zygote, [packets.fork(number)], passed)
    except OSError:
        for descriptor in kept:
            os.close(descriptor)
        raise
    finally:
        for descriptor in passed:
            os.close(descriptor)
    sock = socket.socket(fileno=kept[0])
    sock.setblocking(False)
    return Child(number, sock, Stream(kept[1]), Stream(kept[2]), group)


def classify(exit_code: int) -> str:
    """Name the end of a program that nobody outside ended."""
    if exit_code == 0:
        return "ok"
    if exit_code == MEMORY_EXIT:
        return "memory"
    return "killed" if 128 < exit_code <= 128 + 64 else "error"


class Group:
    """Control groups that one child at a time is put into."""

    def __init__(self, procs: list[str], kills: str | None, tasks: str | None = None) -> None:
        """Name them.

        Args:
            procs: Their `cgroup.procs`.
            kills: The file that counts the kills for memory.
            tasks: The file that counts the threads and processes.
        """
        self.procs = procs
        self._kills = kills
        self._tasks = tasks

    def tasks(self) -> int:
        """How many threads and processes are in it, the dead that nobody has collected included."""
        assert self._tasks is not None
        return int(_read(self._tasks))

    def kills(self) -> int:
        """How often a process in it was killed because the memory was used up."""
        if self._kills is None:
            return 0
        counts = dict(line.split() for line in _read(self._kills).splitlines())
        return int(counts.get(b"oom_kill", 0))


def _read(path: str) -> bytes:
    """Read a small file of the kernel's."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)
