"""The sandbox `docker`: hardened containers, kept warm, with the same fork server inside as `local`.

A container runs one program at a time, or holds one session; what a program left is killed and removed before
its result is told, and a container in which that does not succeed is thrown away. A container ends with its
standard input, so with this process, and the daemon removes it.
"""

import json
import os
from typing import Any

from palestra.envs.sandbox import seccomp
from palestra.envs.sandbox.base import IsolationUnavailableError, Limits
from palestra.envs.sandbox.bundle import boot_arguments, bundle
from palestra.envs.sandbox.container_worker import ContainerWorker
from palestra.envs.sandbox.containers import (
    IMAGE,
    ContainerTransport,
    connect,
    container_options,
    reap,
    require_isolation,
)
from palestra.envs.sandbox.inside import scheduling
from palestra.envs.sandbox.local import PRELOADED, rlimits
from palestra.envs.sandbox.pool import PoolSandbox
from palestra.envs.sandbox.worker import Worker

_PROBE_LIMIT_S = 20.0
_PROBE = """\
import os, socket
try:
    socket.socket(40, socket.SOCK_STREAM)
    vsock = "open"
except PermissionError:
    vsock = "closed"
pids = [p for p in map(int, filter(str.isdigit, os.listdir("/proc"))) if p != os.getpid()]
print(os.getuid(), vsock, len(pids) <= 3, 1 in pids, os.access("/", os.W_OK), os.listdir("/tmp"))
"""
_ISOLATED = "65534 closed True True False ['main.py']\n"
_HELD, _NOT_HELD = "does not keep what runs the code from answering", "can keep what runs the code from answering"


class DockerSandbox(PoolSandbox):
    """Runs code in containers; see the module docstring."""

    name = "docker"

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        image: str = IMAGE,
        runtime: str | None = None,
        at_once: int | None = None,
        containers: int = 64,
    ) -> None:
        """Connect, remove what dead processes left, start the first container and prove that it isolates.

        Args:
            limits: What one execution may use; processes are allowed unless they are refused here.
            image: Must have Python 3.11 or later as `python3`; build ours with `palestra doctor --build-image`.
            runtime: Such as `runsc`; default: the environment's `PALESTRA_DOCKER_RUNTIME`, else the daemon's.
            at_once: Executions at a time, and containers kept warm; default: one per processor.
            containers: Most containers at a time; every open session has one for itself.

        Raises:
            MissingPrerequisiteError: The package, the daemon or the image is missing; says what to do.
            IsolationUnavailableError: The daemon cannot confine containers as it should.
            SandboxError: No container could be started.
        """
        self.limits = limits or Limits()
        self._image = image
        self._runtime = runtime or os.environ.get("PALESTRA_DOCKER_RUNTIME") or None
        self._filter = seccomp.build(fork=self.limits.processes is not False)
        self._client = connect()
        at_once = at_once or os.cpu_count() or 1
        try:
            require_isolation(self._client, self._runtime)
            reap(self._client)
            super().__init__(self._new_worker, workers=containers, slots=at_once, at_once=1)
            self._probe()
        except BaseException:
            self._client.close()
            raise

    def describe(self) -> dict[str, str]:
        """Return what is enforced; see `Sandbox.describe`."""
        facts = json.loads(self.worker_facts)
        limits = self.limits
        return {
            "isolation": f"a container (runtime: {self._runtime or 'default'}); no network; read-only root",
            "user": "65534, without capabilities",
            "seccomp": f"docker's profile, and a deny-list of {len(self._filter) // 8} instructions",
            "processes": "one, with threads" if limits.processes is False else f"at most {limits.tasks} with threads",
            "memory": f"{limits.memory_mib} MiB, of all processes together (control group)",
            "full memory": _HELD if facts["held"] else _NOT_HELD,
            "processors": scheduling.in_words(facts["yielding"]),
            "/tmp": f"{limits.tmp_mib} MiB, {limits.files} files",
            "image": self._image,
            "python": facts["python"],
            "packages": ", ".join(f"{name} {number}" for name, number in facts["packages"].items() if number),
        }

    def close(self) -> None:
        """End all containers; see `Sandbox.close`."""
        super().close()
        self._client.close()

    def _new_worker(self) -> Worker:
        limits = self.limits
        config: dict[str, Any] = {
            "isolation": "container",
            "preload": PRELOADED,
            "memory_mib": limits.memory_mib,
            "rlimits": rlimits(limits),
            "tmpfs": "",
            "devices": [],
            "filter": self._filter.hex(),
        }
        options = container_options(limits, self._image, self._runtime)
        transport = ContainerTransport(self._client, options, boot_arguments(0))
        return ContainerWorker(transport, bundle("container", config, []))

    def _probe(self) -> None:
        result = self.run(_PROBE, timeout=_PROBE_LIMIT_S)
        if result.stdout != _ISOLATED:
            self.close()
            seen = f"the self-test ended with '{result.status}' and saw {result.stdout + result.stderr!r}"
            raise IsolationUnavailableError("docker", seen, "Build the image with: palestra doctor --build-image")
