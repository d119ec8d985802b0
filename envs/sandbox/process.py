"""What the process backends share: the start of the interpreter inside, and the watch from outside.

The host owns every pipe and every clock. It learns from one byte, written before the code is compiled, that
the code could start, and from the kernel that it ended; nothing the code writes is ever parsed.
"""

import json
import os
import selectors
import time
from collections.abc import Callable, Mapping
from typing import Literal

from palestra.envs.sandbox.base import KEPT_BYTES, ExecResult, SandboxError, Status

MEMORY_EXIT = 113
"""The exit code by which the start-up code reports an uncaught `MemoryError`; `exit(113)` claims the same."""
START_LIMIT_S = 20.0
"""Seconds that setting up may take; a loaded machine must not turn into a failure of the code."""
MAX_OUTPUT_BYTES = 4 * 1024 * 1024
"""Output of one stream beyond which the code is killed."""
MAX_SOURCE_BYTES = 8 * 1024 * 1024
_GRACE_S = 5.0

_BOOT = """\
import json, os, resource, sys, types
path, ready, limits, memory_exit = json.loads(sys.argv[1])
for name, value in limits.items():
    resource.setrlimit(getattr(resource, "RLIMIT_" + name), (value, value))
sys.argv[:] = [path]
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


def interpreter_arguments(path: str, ready: int, limits: Mapping[str, int]) -> list[str]:
    """Return the arguments that make an interpreter limit itself, then run the file at `path`.

    Args:
        path: The source, as the interpreter will see it.
        ready: Descriptor on which one byte announces that the code is about to run.
        limits: Resource name without `RLIMIT_` -> hard and soft limit.
    """
    arguments = json.dumps([path, ready, limits, MEMORY_EXIT])
    # -P, -s: nothing is imported from the current folder or the user's. -u: what was printed survives a kill.
    return ["-P", "-s", "-u", "-X", "utf8", "-c", _BOOT, arguments]


ENVIRONMENT = {"PYTHONHASHSEED": "0"}
"""Besides the arguments: the order of sets shows in what programs print, and episodes must repeat exactly."""


def encode_source(code: str) -> bytes:
    """Encode any text, lone surrogates included: a bad source is the interpreter's to refuse, not ours."""
    return code.encode("utf-8", "surrogatepass")


def too_long() -> ExecResult:
    """The result for a source that is longer than any honest one."""
    reason = f"SyntaxError: the source is longer than {MAX_SOURCE_BYTES >> 20} MiB\n"
    return ExecResult("", reason, "error", 1, 0.0)


def sealed_memory(data: bytes) -> int:
    """Return a descriptor of an anonymous file that nobody can change: it has no length limit and no path."""
    import fcntl  # exists on Unix only, and importing an environment has to work everywhere

    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    descriptor = os.memfd_create("palestra", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(data)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


class Descriptors:
    """Owns the descriptors of one execution: whatever happens, `close` leaves none open."""

    def __init__(self) -> None:
        self._open: set[int] = set()

    def pipe(self) -> tuple[int, int]:
        """Open a pipe; returns its reading and its writing end."""
        ends = os.pipe()
        self._open.update(ends)
        os.set_blocking(ends[0], False)
        return ends

    def sealed(self, data: bytes) -> int:
        """Open a sealed anonymous file, positioned at its start."""
        return self.own(sealed_memory(data))

    def own(self, descriptor: int) -> int:
        """Take over a descriptor."""
        self._open.add(descriptor)
        return descriptor

    def close(self, *descriptors: int) -> None:
        """Close some descriptors, or all where none is named."""
        for descriptor in descriptors or tuple(self._open):
            self._open.remove(descriptor)
            os.close(descriptor)


class Stream:
    """The reading end of a pipe: keeps the first 64 KiB and counts the rest."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.kept = bytearray()
        self.total = 0
        self.ended = False

    def read(self) -> bool:
        """Read what is there, at most 64 KiB; False if that was nothing."""
        try:
            data = os.read(self.descriptor, 64 * 1024)
        except BlockingIOError:
            return False
        self.ended = not data
        self.total += len(data)
        self.kept += data[: KEPT_BYTES - len(self.kept)]
        return bool(data)

    def text(self) -> str:
        """What was kept, decoded leniently."""
        return self.kept.decode("utf-8", "replace")


class Watch:
    """Follows one execution from outside until its process has ended, and has it killed where it must be."""

    def __init__(self, pidfd: int, streams: Mapping[str, Stream], *, timeout: float, kill: Callable[[], None]) -> None:
        """Prepare to watch.

        Args:
            pidfd: Of the direct child whose end is the end of the execution.
            streams: `stdout`, `stderr`, `ready`, and any that are only to be kept.
            timeout: Seconds of wall time from the ready byte on.
            kill: Ends everything that the execution started.
        """
        self.streams = streams
        self.started = False
        self.ended_by: Literal["itself", "start", "timeout", "output"] = "itself"
        self.wall_s = 0.0
        self._pidfd = pidfd
        self._timeout = timeout
        self._kill = kill
        self._began = time.monotonic()
        self._deadline = self._began + START_LIMIT_S

    def run(self) -> None:
        """Watch to the end.

        Raises:
            SandboxError: Killing did not end it.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self._pidfd, selectors.EVENT_READ)
            for stream in self.streams.values():
                selector.register(stream.descriptor, selectors.EVENT_READ, stream)
            while self._step(selector):
                self._enforce()
        self.wall_s = time.monotonic() - self._began
        for stream in self.streams.values():
            # A process that outlived the execution (possible without isolation) must not hold up the host.
            while stream.total <= MAX_OUTPUT_BYTES and stream.read():
                pass

    def _step(self, selector: selectors.BaseSelector) -> bool:
        """Wait for the next event and read; False once the process has ended."""
        events = selector.select(max(0.0, self._deadline - time.monotonic()))
        for key, _ in events:
            if isinstance(key.data, Stream) and not key.data.read() and key.data.ended:
                selector.unregister(key.fd)
        if not self.started and self.streams["ready"].total:
            self.started = True
            self._began = time.monotonic()
            self._deadline = self._began + self._timeout
        return all(key.fd != self._pidfd for key, _ in events)

    def _enforce(self) -> None:
        late = time.monotonic() >= self._deadline
        if self.ended_by != "itself":
            if late:
                raise SandboxError(f"an execution did not end within {_GRACE_S:g} s of being killed")
            return
        flood = max(self.streams[name].total for name in ("stdout", "stderr")) > MAX_OUTPUT_BYTES
        if flood or late:
            self.ended_by = "start" if not self.started else "output" if flood else "timeout"
            self._kill()
            self._deadline = time.monotonic() + _GRACE_S

    def result(self, exit_code: int | None) -> ExecResult:
        """Turn what was seen into a result.

        Args:
            exit_code: 128 + n after signal n; None if nobody reported one.

        Raises:
            SandboxError: The code never ran, or ended without a report and without having been killed.
        """
        stdout, stderr = self.streams["stdout"].text(), self.streams["stderr"].text()
        if self.ended_by == "start":
            raise SandboxError(f"the sandbox was not ready after {START_LIMIT_S:g} s: {stderr.strip()}")
        if not self.started:
            raise SandboxError(f"the sandbox did not start: {stderr.strip() or f'exit code {exit_code}'}")
        if self.ended_by != "itself":
            return ExecResult(stdout, stderr, self.ended_by, None, self.wall_s)
        if exit_code is None:
            raise SandboxError("the sandbox ended without an exit code; was it killed from outside?")
        return ExecResult(stdout, stderr, classify(exit_code), exit_code, self.wall_s)


def classify(exit_code: int) -> Status:
    """Name the end of an execution that the host did not end itself."""
    if exit_code == 0:
        return "ok"
    if exit_code == MEMORY_EXIT:
        return "memory"
    return "killed" if 128 < exit_code <= 128 + 64 else "error"
