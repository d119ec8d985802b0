"""The sandbox `local`: bubblewrap, one set of Linux namespaces for every execution.

The code runs as pid 1 of its own pid namespace, without capabilities, network, /proc, host files, host
environment or new processes; it sees a read-only Python with its standard library, and a small private /tmp.
Invariants: `run` returns only after every process of the execution is dead; nothing is left on the host;
where any of this cannot be had, the constructor raises and nothing weaker is used.

What is promised against whom, and which test holds it: docs/security.md.
"""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from palestra.envs.sandbox import seccomp
from palestra.envs.sandbox.base import (
    DEFAULT_TIMEOUT_S,
    ExecResult,
    IsolationUnavailableError,
    SandboxError,
)
from palestra.envs.sandbox.layout import PYTHON, SOURCE, UNPRIVILEGED_ID, Launcher
from palestra.envs.sandbox.process import (
    MAX_SOURCE_BYTES,
    Descriptors,
    Stream,
    Watch,
    encode_source,
    interpreter_arguments,
    too_long,
)

_MIB = 1024 * 1024
_GRACE_S = 5.0
_INSTALL = "Install bubblewrap 0.8 or newer (Debian, Ubuntu: apt install bubblewrap)"
_ENABLE = (
    "Allow unprivileged user namespaces (Ubuntu: sysctl kernel.apparmor_restrict_unprivileged_userns=0; "
    "Debian: sysctl kernel.unprivileged_userns_clone=1; in a container: a seccomp profile that allows "
    "unshare and mount)"
)
_PROBE = """\
import os, socket
try:
    socket.socket(40, socket.SOCK_STREAM)  # vsock would pass through a network namespace
    vsock = "open"
except PermissionError:
    vsock = "closed"
foreign = set(os.listdir("/")) - {"dev", "etc", "lib", "lib64", "opt", "tmp", "usr"}
print(os.getpid(), os.getuid(), vsock, sorted(foreign))
"""
_ISOLATED = f"1 {UNPRIVILEGED_ID} closed []\n"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one execution may use."""

    memory_mib: int = 1024
    """Address space of a process."""
    tmp_mib: int = 64
    """Size of /tmp, and of a file."""
    tasks: int = 32
    """Threads and processes together."""
    open_files: int = 128
    fork: bool = False
    """Whether new processes are allowed. Memory is then bounded only by `tasks` times `memory_mib`."""

    def for_run(self, timeout: float) -> dict[str, int]:
        """The resource limits of a run of `timeout` seconds: name without `RLIMIT_` -> value."""
        return {
            "AS": self.memory_mib * _MIB,
            # A backstop only: the wall clock ends a run first, unless several threads compute.
            "CPU": math.ceil(timeout) + 1,
            "FSIZE": self.tmp_mib * _MIB,
            "NPROC": self.tasks,
            "NOFILE": self.open_files,
            "STACK": 8 * _MIB,
            "CORE": 0,
            "MEMLOCK": 0,
            "MSGQUEUE": 0,
            "SIGPENDING": 256,
        }


class LocalSandbox:
    """Runs each piece of code in namespaces of its own; see the module docstring."""

    def __init__(self, limits: Limits | None = None) -> None:
        """Find bubblewrap and prove, by one execution, that it isolates.

        Raises:
            IsolationUnavailableError: Something is missing or switched off; says what.
        """
        self.limits = limits or Limits()
        self._closed = False
        if sys.platform != "linux":
            raise IsolationUnavailableError("local", "it needs Linux", "Use a Linux machine")
        if not seccomp.supported():
            raise IsolationUnavailableError(
                "local", "its system-call filter knows x86-64 and aarch64 only", "Use such a machine"
            )
        bwrap = shutil.which("bwrap")
        if bwrap is None:
            raise IsolationUnavailableError("local", "bubblewrap (bwrap) was not found", _INSTALL)
        self._filter = seccomp.build(fork=self.limits.fork)
        try:
            self._launcher = Launcher(os.path.realpath(bwrap), self.limits.tmp_mib * _MIB)
            self._probe()
        except (SandboxError, OSError) as error:
            remedy = _INSTALL if "Unknown option" in str(error) else _ENABLE
            raise IsolationUnavailableError("local", str(error), remedy) from error

    def run(self, code: str, *, stdin: str = "", timeout: float = DEFAULT_TIMEOUT_S) -> ExecResult:
        """Run `code` in fresh namespaces; see `Sandbox.run`."""
        if self._closed:
            raise SandboxError("the sandbox is closed")
        if not (math.isfinite(timeout) and timeout > 0):
            raise ValueError(f"timeout must be a positive number of seconds, not {timeout}")
        source = encode_source(code)
        if len(source) > MAX_SOURCE_BYTES:
            return too_long()
        descriptors = Descriptors()
        try:
            return self._run(descriptors, source, stdin, timeout)
        except OSError as error:
            raise SandboxError(f"the sandbox could not be started: {error}") from error
        finally:
            descriptors.close()

    def close(self) -> None:
        """Refuse later runs and release the staged interpreter."""
        self._closed = True
        self._launcher.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, descriptors: Descriptors, source: bytes, stdin: str, timeout: float) -> ExecResult:
        reads, writes = zip(*(descriptors.pipe() for _ in range(4)), strict=True)
        stdout, stderr, ready, info = writes
        code = descriptors.sealed(source)
        rules = descriptors.sealed(self._filter)
        process = subprocess.Popen(
            [
                *self._launcher.command(),
                *("--json-status-fd", str(info), "--seccomp", str(rules)),
                *("--file", str(code), SOURCE, "--", PYTHON),
                *interpreter_arguments(SOURCE, ready, self.limits.for_run(timeout)),
            ],
            stdin=descriptors.sealed(encode_source(stdin)) if stdin else subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            pass_fds=(ready, info, code, rules),
            env={},  # bubblewrap's own environment could be read through /proc if a bug ever showed one
            cwd="/",
            start_new_session=True,  # so that the group can be killed, and no terminal signal reaches it
        )
        streams = dict(zip(("stdout", "stderr", "ready", "info"), map(Stream, reads), strict=True))
        execution = _Execution(process, streams["info"])
        try:
            descriptors.close(*writes)
            pidfd = descriptors.own(os.pidfd_open(process.pid))
            watch = Watch(pidfd, streams, timeout=timeout, kill=execution.kill)
            watch.run()
            return watch.result(execution.exit_code())
        finally:
            execution.end()

    def _probe(self) -> None:
        result = self.run(_PROBE)
        if result.stdout != _ISOLATED:
            seen = result.stdout + result.stderr
            raise SandboxError(f"the self-test ended with '{result.status}' and saw {seen!r}")


class _Execution:
    """The processes of one execution, seen from the host."""

    def __init__(self, process: "subprocess.Popen[bytes]", info: Stream) -> None:
        self._process = process
        self._info = info

    def kill(self) -> None:
        """Kill pid 1 of the execution, which takes its namespace along; failing that, all that we started."""
        first = self._reported("child-pid")
        try:
            if first is None:
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                os.kill(first, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def exit_code(self) -> int | None:
        """The exit code that bubblewrap reported; None if it did not live to report one."""
        return self._reported("exit-code")

    def end(self) -> None:
        """Make sure that nothing is left, also where the host gave up or was interrupted while it waited."""
        if self._process.poll() is None:
            self.kill()
            try:
                self._process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def _reported(self, key: str) -> int | None:
        """Read a number from the JSON lines that bubblewrap writes to a pipe which the code never holds."""
        for line in self._info.kept.splitlines():
            report = json.loads(line)
            if key in report:
                return int(report[key])
        return None
