"""The first process of a container: a supervisor with a zygote beside it, and frames on standard input and output.

The container is the isolation, and all in it belongs to one user. So one execution runs at a time and nothing
waits beside it; what it left, processes and files, is removed before its outcome is told. Code can end the
zygote, but neither this process (the kernel lets nobody signal the first one) nor what it is told; a container
that cannot be put in order again says so, and the host throws it away. It ends when standard input does.
"""

import json
import os
import select
import selectors
import signal
import socket
from typing import Any

from palestra.envs.sandbox.inside import files, jail, scheduling, zygote
from palestra.envs.sandbox.inside.execution import (
    NEVER_RAN,
    Child,
    Group,
    InfrastructureError,
    Outcome,
    RefusedError,
)
from palestra.envs.sandbox.inside.supervisor import GRACE_S, Supervisor
from palestra.envs.sandbox.inside.sweep import OutrunError, sweep
from palestra.envs.sandbox.inside.wire import KEY_BYTES, TO_HOST, TO_RUNNER, Decoder, Encoder, Message, WireError

_KILL_COUNTS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
_TASK_COUNTS = ("/sys/fs/cgroup/pids.current", "/sys/fs/cgroup/pids/pids.current")
_ENDED = "the code ended what forks in the container"
_DEATH_S = 1.0
_FOLDERS = ("/tmp", "/dev/shm")
_NODES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", *_FOLDERS)
"""What everybody may touch: its times would tell something to the next execution."""


def main(config: dict[str, Any]) -> None:
    """Be the container's first process; ends with the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one that code could end us with: it has a handler in Python
    held = jail.hold_program()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        ours.close()
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        yielding = scheduling.is_contained() or scheduling.has_autogroups()
        zygote.main(config | {"control": theirs.detach(), "yielding": yielding})
        os._exit(0)
    theirs.close()
    jail.set_dumpable(False)
    _Container(ours, pid, _read_exactly(KEY_BYTES), held).serve()


def _read_exactly(count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = os.read(0, count - len(data))
        if not part:
            os._exit(0)
        data += part
    return data


class _Container:
    def __init__(self, control: socket.socket, zygote_pid: int, key: bytes, held: bool) -> None:
        self._zygote_pid = zygote_pid
        self._zygote_status: int | None = None  # as `os.waitpid` gives it, once it is collected
        self._held = held
        self._encoder = Encoder(key, TO_HOST)
        self._decoder = Decoder(key, TO_RUNNER)
        kills = next((path for path in _KILL_COUNTS if os.access(path, os.R_OK)), None)
        counts = next((path for path in _TASK_COUNTS if os.access(path, os.R_OK)), None)
        self._tasks = os.open(counts, os.O_RDONLY | os.O_CLOEXEC) if counts else -1
        self._supervisor = Supervisor(
            control, spares=1, new_group=None, settle=self._settle, gone=self._on_gone, ambient=Group([], kills)
        )
        self._session: Child | None = None
        self._session_number = 0
        """Of the request that opened it; those that concern it name it, since they may come late."""
        self._closings: list[int] = []
        self._cancels: dict[int, Any] = {}
        self._greeted = False
        self._supervisor.selector.register(0, selectors.EVENT_READ, self._on_input)
        # Readable when the zygote is dead and its children are ours: its socket ends before that.
        self._zygote = os.pidfd_open(zygote_pid)
        self._supervisor.selector.register(self._zygote, selectors.EVENT_READ, self._on_zygote_gone)

    def serve(self) -> None:
        """Answer requests until nobody sends any, or nothing can be promised any more."""
        while self._supervisor.failure is None:
            self._supervisor.step()
            if self._supervisor.facts is not None and not self._greeted:
                self._greeted = True
                self._send(0, json.loads(self._supervisor.facts) | {"held": self._held})
            self._reap()
            if self._closings and self._supervisor.ready:
                self._closed()
        self._send(0, {"failure": self._supervisor.failure, "by_code": self._ended_by_code()})

    def _send(self, number: int, header: dict[str, Any], body: bytes = b"") -> None:
        view = memoryview(self._encoder.encode(number, header, body))
        try:
            while view:
                view = view[os.write(1, view) :]
        except OSError:
            os._exit(0)

    def _ended_by_code(self) -> bool:
        """Whether what a session left between its cells has killed the zygote, which would not do that itself."""
        if self._session is None:
            return False
        select.select([self._zygote], [], [], _DEATH_S)  # it loses its socket a little before it is dead
        self._reap()
        return self._zygote_status is not None and os.WIFSIGNALED(self._zygote_status)

    def _on_zygote_gone(self) -> None:
        self._supervisor.selector.unregister(self._zygote)  # having woken up was all: `serve` collects the dead

    def _on_input(self) -> None:
        data = os.read(0, 1 << 20)
        if not data:
            os._exit(0)
        try:
            for message in self._decoder.feed(data):
                self._answer(message)
        except WireError:
            os._exit(1)

    def _answer(self, message: Message) -> None:
        if self._supervisor.failure is not None:
            return  # `serve` tells it to all
        number, header, body = message
        match header["op"]:
            case "run":
                parts = _split(body, header["sizes"])
                given = dict(zip(header["files"], parts[2:], strict=True))
                self._cancels[number] = self._supervisor.run(
                    _memory(parts[0]), _memory(parts[1]), given, header["timeout"], lambda o: self._told(number, o)
                )
            case "open":
                self._supervisor.open(lambda child: self._opened(number, child))
            case "cell":
                if (session := self._named(header)) is None:
                    self._told(number, NEVER_RAN)
                    return
                code, stdin = map(_memory, _split(body, header["sizes"]))
                self._supervisor.cell(session, code, stdin, header["timeout"], lambda o: self._told(number, o))
            case "kill":
                if (cancel := self._cancels.get(header["target"])) is not None:
                    cancel()
            case "close":
                if (session := self._named(header)) is None:
                    self._send(number, {})
                    return
                self._closings.append(number)
                self._supervisor.close(session)
            case "write" | "read" | "list":
                self._send(number, *self._file(header, body))

    def _told(self, number: int, outcome: Outcome | InfrastructureError) -> None:
        self._cancels.pop(number, None)
        if isinstance(outcome, InfrastructureError):
            kind = "refused" if isinstance(outcome, RefusedError) else "failure"
            self._send(number, {kind: str(outcome)})
            return
        last = self._supervisor.failure or (_ENDED if select.select([self._zygote], [], [], 0)[0] else "")
        header = {
            "status": outcome.status,
            "exit_code": outcome.exit_code,
            "wall_s": outcome.wall_s,
            "cpu_s": outcome.cpu_s,
            "alive": outcome.alive and not last,
            "stdout": len(outcome.stdout),
            "last": last,
        }
        self._send(number, header, outcome.stdout + outcome.stderr)

    def _opened(self, number: int, child: Child | InfrastructureError) -> None:
        if isinstance(child, InfrastructureError):
            self._send(number, {"failure": str(child)})
            return
        self._session, self._session_number = child, number
        self._send(number, {})

    def _named(self, header: dict[str, Any]) -> Child | None:
        """Return the session that a request concerns, if it is the one that is open."""
        return self._session if header["session"] == self._session_number else None

    def _closed(self) -> None:
        """Tell that nothing is left of the session; the next child is there, so the zygote is as well."""
        self._session = None
        numbers, self._closings = self._closings, []
        for number in numbers:
            self._send(number, {})

    def _file(self, header: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        session = self._named(header)
        if session is None or session.stage == "ending":
            return {"ended": True}, b""
        try:
            match header["op"]:
                case "write":
                    files.write(session.folder, header["path"], body)
                    return {}, b""
                case "read":
                    return {}, files.read(session.folder, header["path"], header["limit"])
                case _:
                    return {"files": files.listing(session.folder)}, b""
        except OSError as error:
            return {"missing": str(error)}, b""

    def _settle(self, child: Child) -> None:
        """Kill and remove what an execution left."""
        if child.stage == "waiting":
            return
        if not self._nothing_left(child):
            self._sweep(child)
        for path in _FOLDERS:
            if os.path.isdir(path):
                folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    files.clear(folder)
                finally:
                    os.close(folder)
        for path in _NODES:
            if os.path.exists(path):
                os.utime(path)
        self._wake_zygote()

    def _on_gone(self, child: Child) -> None:
        """Have the zygote collect a child that is dead; others could hinder it, and it may have been stopped."""
        if not self._nothing_left(child):
            self._sweep(child)
        self._wake_zygote()

    def _wake_zygote(self) -> None:
        """Let the zygote go on: code may have stopped it."""
        if self._zygote_status is None:
            os.kill(self._zygote_pid, signal.SIGCONT)

    def _nothing_left(self, child: Child) -> bool:
        """Whether a dead child has left no task, by the kernel's count; False if nobody knows.

        The dead that nobody has collected count, too. Whether the child is one of them is looked at after counting: if
        it is collected in between, there is a task too many, and never one too few.
        """
        if self._tasks < 0:
            return False
        count = int(os.pread(self._tasks, 32, 0))
        ours = 2 if self._zygote_status is None else 1
        return count <= ours + child.uncollected()

    def _sweep(self, child: Child) -> None:
        """Kill all processes but this one and the zygote; the zygote too, if the others outrun us."""
        spared = {1, self._zygote_pid} if self._zygote_status is None else {1}
        try:
            sweep(spared, self._reap, GRACE_S, lambda: self._tasks < 0 or self._nothing_left(child))
        except OutrunError:
            os.kill(-1, signal.SIGKILL)  # all at once: nothing can outrun that
            raise

    def _reap(self) -> None:
        """Collect dead processes that were left to us; the zygote collects its own children."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._zygote_pid:
                self._zygote_status = status
            self._supervisor.orphaned(pid, status, round((usage.ru_utime + usage.ru_stime) * 1e6))


def _split(body: bytes, sizes: list[int]) -> list[bytes]:
    parts, start = [], 0
    for size in sizes:
        parts.append(body[start : start + size])
        start += size
    return parts


def _memory(data: bytes) -> int:
    """Return a descriptor of an anonymous file with that content, at its start."""
    descriptor = os.memfd_create("task", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
