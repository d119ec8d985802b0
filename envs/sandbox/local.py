"""The sandbox `local`: a zygote in bubblewrap, and Linux namespaces of its own for every execution.

Code runs as the first process of its own pid namespace, in its own mount, ipc and user namespaces, without
capabilities, network, /proc, host files or host environment; it sees a read-only Python with its standard
library and a few packages, and a small private /tmp. Invariants: a result is told only after every process of
the execution is dead, or the only one has been killed; nothing is left on the host; where any of this cannot be
had, opening raises and nothing weaker is used.

What is promised against whom, and which test holds it: docs/security.md.
"""

import json
import os
import shutil
import subprocess
import sys
from typing import Any

from palestra.envs.errors import UsageError
from palestra.envs.sandbox import seccomp
from palestra.envs.sandbox.base import IsolationUnavailableError, Limits, SandboxError
from palestra.envs.sandbox.bundle import boot_arguments, bundle, memory_file
from palestra.envs.sandbox.cgroups import ControlGroups
from palestra.envs.sandbox.inside import scheduling
from palestra.envs.sandbox.inside.execution import Child
from palestra.envs.sandbox.layout import DEVICES, PYTHON, SITE, UNPRIVILEGED_ID, Launcher
from palestra.envs.sandbox.pool import PoolSandbox
from palestra.envs.sandbox.worker import ProcessWorker, Worker

PACKAGES = ("numpy", "sympy", "mpmath")
"""Distributions that code may import, where they are installed."""
PRELOADED = ("numpy", "numpy.random", "sympy")
"""Modules that are imported once, before any code comes."""
_MIB = 1024 * 1024
_PER_WORKER = 8
"""Executions at a time that one zygote keeps up with."""
_SPARES = 8
"""As many calls, one after the other or at once, need not wait for a fork; each holds about 3 MiB of its own."""
_PROBE_LIMIT_S = 20.0
_INSTALL = "Install bubblewrap 0.8 or newer (Debian, Ubuntu: apt install bubblewrap)"
_ENABLE = (
    "Allow unprivileged user namespaces (Ubuntu: sysctl kernel.apparmor_restrict_unprivileged_userns=0; "
    "Debian: sysctl kernel.unprivileged_userns_clone=1; in a container: a seccomp profile that allows "
    "unshare and mount), or use the sandbox 'docker' or 'e2b'"
)
_PROBE = """\
import os, socket
try:
    socket.socket(40, socket.SOCK_STREAM)  # vsock would pass through a network namespace
    vsock = "open"
except PermissionError:
    vsock = "closed"
foreign = set(os.listdir("/")) - {"dev", "etc", "lib", "lib64", "opt", "proc", "tmp", "usr"}
print(os.getpid(), os.getuid(), vsock, sorted(foreign), os.listdir("/proc"), os.listdir("/tmp"))
"""
_ISOLATED = f"1 {UNPRIVILEGED_ID} closed [] [] ['main.py']\n"


class LocalSandbox(PoolSandbox):
    """Runs each piece of code in namespaces of its own; see the module docstring."""

    name = "local"

    def __init__(self, limits: Limits | None = None, *, at_once: int | None = None) -> None:
        """Find bubblewrap, start the first zygote, and prove by one execution that it isolates.

        Args:
            limits: What one execution may use.
            at_once: Executions at a time; default: one per processor. Sessions are not counted, their cells are.

        Raises:
            IsolationUnavailableError: Something is missing or switched off; says what.
            UsageError: Processes are asked for where their memory cannot be limited.
        """
        self.limits = limits or Limits()
        self._groups = _control_groups(self.limits)
        if self.limits.processes and self._groups is None:
            raise UsageError(
                "the sandbox 'local' can allow processes only where it can make control groups to limit their "
                "memory together; run as root, or use the sandbox 'docker'"
            )
        self.processes = self._groups is not None and self.limits.processes is not False
        at_once = at_once or os.cpu_count() or 1
        workers = -(-at_once // _PER_WORKER)
        try:
            self._launcher = Launcher(_bubblewrap(), PACKAGES)
            super().__init__(self._new_worker, workers=workers, slots=at_once, at_once=-(-at_once // workers))
            self._probe()
        except (SandboxError, OSError) as error:
            self._release()
            remedy = _INSTALL if "Unknown option" in str(error) else _ENABLE
            raise IsolationUnavailableError("local", str(error), remedy) from error

    def describe(self) -> dict[str, str]:
        """Return what is enforced; see `Sandbox.describe`."""
        facts = json.loads(self.worker_facts)
        limits = self.limits
        return {
            "isolation": "bubblewrap; own pid, mount, ipc and user namespaces per execution; no network",
            "user": f"{UNPRIVILEGED_ID}, without capabilities",
            "seccomp": f"deny-list, {len(seccomp.build(fork=self.processes)) // 8} instructions",
            "processes": f"at most {limits.tasks} with threads" if self.processes else "one, with threads",
            "memory": f"{limits.memory_mib} MiB, "
            + ("of all processes together (control group)" if self._groups else "by address space (no control group)"),
            "processors": scheduling.in_words(facts["yielding"]),
            "/tmp": f"{limits.tmp_mib} MiB, {limits.files} files",
            "python": facts["python"],
            "packages": ", ".join(f"{name} {number}" for name, number in facts["packages"].items() if number),
        }

    def close(self) -> None:
        """End everything; see `Sandbox.close`."""
        super().close()
        if self.is_own():
            self._release()

    def _release(self) -> None:
        if self._groups is not None:
            self._groups.close()
        if "_launcher" in self.__dict__:
            self._launcher.close()

    def _new_worker(self) -> Worker:
        limits = self.limits
        config = {
            "isolation": "namespaces",
            "preload": PRELOADED,
            "memory_mib": limits.memory_mib,
            "rlimits": rlimits(limits) | {"NPROC": limits.tasks},
            "tmpfs": f"size={limits.tmp_mib}m,nr_inodes={limits.files},mode=1777",
            "devices": [f"/dev/{name}" for name in DEVICES],
            "filter": seccomp.build(fork=self.processes).hex(),
            "yielding": scheduling.has_autogroups(),
        }
        return ProcessWorker(
            lambda control: self._launch(control, config),
            spares=_SPARES,
            new_group=self._groups.new if self._groups else None,
            settle=_nothing_left,
            alone=_is_alone,
        )

    def _launch(self, control: int, config: dict[str, Any]) -> "subprocess.Popen[bytes]":
        source = memory_file(bundle("zygote", config | {"control": control}, [SITE]))
        try:
            return subprocess.Popen(
                [*self._launcher.command(), "--", PYTHON, *boot_arguments(source)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(control, source),
                env={},  # bubblewrap's own environment could be read through /proc if a bug ever showed one
                cwd="/",
                start_new_session=True,  # so that no signal of a terminal reaches it
            )
        finally:
            os.close(source)

    def _probe(self) -> None:
        result = self.run(_PROBE, timeout=_PROBE_LIMIT_S)
        if result.stdout != _ISOLATED:
            seen = result.stdout + result.stderr
            raise SandboxError(f"the self-test ended with '{result.status}' and saw {seen!r}")


def rlimits(limits: Limits) -> dict[str, int]:
    """Return the resource limits of a process inside, but for those that depend on where it runs."""
    return {
        "FSIZE": limits.tmp_mib * _MIB,
        "NOFILE": limits.open_files,
        "STACK": 8 * _MIB,
        "CORE": 0,
        "MEMLOCK": 0,
        "MSGQUEUE": 0,
        "SIGPENDING": 256,
        "NICE": 0,
        "RTPRIO": 0,
    }


def _bubblewrap() -> str:
    if sys.platform != "linux":
        raise IsolationUnavailableError("local", "it needs Linux", "Use a Linux machine")
    if not seccomp.supported():
        raise IsolationUnavailableError(
            "local", "its system-call filter knows x86-64 and aarch64 only", "Use such a machine"
        )
    path = shutil.which("bwrap")
    if path is None:
        raise IsolationUnavailableError("local", "bubblewrap (bwrap) was not found", _INSTALL)
    return os.path.realpath(path)


def _control_groups(limits: Limits) -> ControlGroups | None:
    if limits.processes is False:
        return None
    try:
        return ControlGroups((limits.memory_mib + limits.tmp_mib) * _MIB, limits.tasks)
    except OSError:
        return None


def _is_alone(child: Child) -> bool:
    """Whether a killed child is the only task that it has left; without a control group no other can be made."""
    return child.group is None or child.group.tasks() <= 1


def _nothing_left(child: Child) -> None:
    """The pid namespace ended with its first process, and its file system with its last descriptor."""
