"""Containers for the sandbox `docker`: what confines them, the stream to the program inside, and their removal.

No container outlives its process here: its standard input ends with us, the program inside exits, and the daemon
removes it. Where the program does not, `reap` removes the container when a sandbox is opened the next time.
"""

import contextlib
import io
import math
import os
import platform
import select
import socket
import time
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import palestra
from palestra.envs.errors import MissingPrerequisiteError, PalestraError
from palestra.envs.sandbox.base import IsolationUnavailableError, Limits, SandboxError
from palestra.envs.sandbox.layout import ENVIRONMENT

if TYPE_CHECKING:
    from docker.client import DockerClient
    from docker.models.containers import Container

IMAGE = f"palestra-sandbox:{palestra.__version__}"
BASE_IMAGE = "python:3.11-slim-bookworm"

RUNNER_MIB = 256
"""Memory on top of `Limits.memory_mib`: interpreters with numpy and sympy (about 70 MiB, mostly shared by forks)."""
RUNNER_TASKS = 3
"""Threads and processes on top of `Limits.tasks`: the container's first, the zygote, and one that is being made."""
STALL_S = 10.0
"""How long the program inside may leave its input unread."""
KEPT_ERRORS = 4096
"""How much of the end of the error stream is kept for messages."""
EVENT_S = 0.5
"""How long the daemon is given to tell what the kernel did to a container that has ended."""
DEATH_S = 15.0
"""Seconds that a container may take to end after the kernel has killed what runs in it."""
START_S = 60.0
"""Age beyond which a container that was made but not started is abandoned."""

_LABEL = "palestra"
_PLAIN = ("http+docker://localhost", "http://")
"""Addresses as the SDK writes them, behind which there is a plain socket."""


def connect() -> "DockerClient":
    """Connect to the daemon that `DOCKER_HOST` names, else to the one of this machine.

    Raises:
        MissingPrerequisiteError: The Python package or the daemon is missing, or we may not use it.
    """
    try:
        # Not `import docker`: without the package that finds our folder of the same name in a source tree.
        from docker.client import DockerClient
        from docker.errors import DockerException
    except ImportError:
        raise MissingPrerequisiteError(
            "the sandbox 'docker' needs a Python package that is not installed; install it with: pip install docker"
        ) from None
    address = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    try:
        if address.startswith("unix://"):
            # Tried first, because the SDK hides the reason of a failure and forgets to close the socket.
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(address.removeprefix("unix://"))
        client = DockerClient.from_env()
    except PermissionError:
        raise MissingPrerequisiteError(
            f"the docker daemon's socket {address} may not be used by this user; run a rootless daemon and set "
            "DOCKER_HOST to its socket, or join the group 'docker' (whose members are as good as root)"
        ) from None
    except (DockerException, OSError) as error:
        raise MissingPrerequisiteError(
            f"no docker daemon answers at {address}; start one (sudo systemctl start docker), "
            f"or set DOCKER_HOST to where it listens ({error})"
        ) from error
    if not client.api.base_url.startswith(_PLAIN):
        client.close()
        raise MissingPrerequisiteError(
            f"the sandbox 'docker' reaches a daemon through a unix or plain TCP socket, not through {address}; "
            "forward its socket here (ssh -L) and set DOCKER_HOST to that"
        )
    # The SDK would keep an idle connection for every address that it asked, and so for every container.
    client.api.headers["Connection"] = "close"
    return client


def require_isolation(client: "DockerClient", runtime: str | None) -> None:
    """Check that the daemon enforces what `container_options` asks for; some only warn where they cannot.

    Raises:
        IsolationUnavailableError: It does not.
    """
    info = client.info()
    if info["OSType"] != "linux":
        raise _unavailable("the daemon runs no Linux containers", "Switch it to Linux containers")
    for key, what in (("MemoryLimit", "memory"), ("PidsLimit", "processes"), ("CpuCfsQuota", "processor time")):
        if not info.get(key):
            raise _unavailable(f"the daemon cannot limit {what}", "Give it its cgroup controllers (see docker info)")
    filters = [option for option in info["SecurityOptions"] if option.startswith("name=seccomp")]
    if not filters or "profile=unconfined" in filters[0]:
        raise _unavailable("the daemon filters no system calls", "Switch on seccomp (see docker info)")
    if runtime is not None and runtime not in info["Runtimes"]:
        known = ", ".join(sorted(info["Runtimes"]))
        raise _unavailable(f"the daemon has no runtime '{runtime}'", f"Install it, or use one of these: {known}")


def _unavailable(reason: str, remedy: str) -> IsolationUnavailableError:
    return IsolationUnavailableError("docker", reason, remedy)


def container_options(limits: Limits, image: str = IMAGE, runtime: str | None = None) -> dict[str, Any]:
    """Return what `client.containers.create` needs to confine a container; docker's seccomp profile stays on."""
    memory = (limits.memory_mib + limits.tmp_mib + RUNNER_MIB) << 20
    # Not noexec: it stops nobody who has an interpreter, and the other sandboxes can run what they wrote, too.
    tmp = f"rw,exec,nosuid,nodev,size={limits.tmp_mib}m,nr_inodes={limits.files},mode=1777"
    # The number of processes is left to the cgroup: RLIMIT_NPROC counts a user's processes in all containers.
    ulimits = {"core": 0, "memlock": 0, "msgqueue": 0, "nofile": max(1024, limits.open_files), "stack": 8 << 20}
    options: dict[str, Any] = {
        "image": image,
        "entrypoint": ["python3"],
        "network_mode": "none",
        "read_only": True,
        "tmpfs": {
            "/tmp": tmp,
            "/dev/shm": "rw,noexec,nosuid,nodev,size=1m,nr_inodes=64,mode=1777",
            # Terminals are counted for the whole machine, and queues for the user.
            "/dev/pts": "ro,noexec,nosuid,nodev,size=4k,nr_inodes=2",
            "/dev/mqueue": "ro,noexec,nosuid,nodev,size=4k,nr_inodes=2",
        },
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "user": "65534:65534",
        "ipc_mode": "private",
        "cgroupns": "private",
        "hostname": "sandbox",
        "pids_limit": limits.tasks + RUNNER_TASKS,
        "mem_limit": memory,
        "memswap_limit": memory,
        "nano_cpus": 10**9,
        # Programs raise theirs to 1000, so that the kernel ends them before what runs them.
        "oom_score_adj": 500,
        "ulimits": [{"name": name, "soft": value, "hard": value} for name, value in ulimits.items()],
        "init": False,
        "auto_remove": True,
        # Without `detach` the SDK also asks that the input be closed when the attached client is gone.
        "stdin_open": True,
        "detach": False,
        "log_config": {"type": "none"},
        "working_dir": "/tmp",
        "environment": {"PATH": "/usr/local/bin:/usr/bin:/bin", **ENVIRONMENT},
        "use_config_proxy": False,  # else the SDK hands over the user's proxies, with their passwords
        "labels": owner_labels(),
    }
    return options if runtime is None else {**options, "runtime": runtime}


def owner_labels() -> dict[str, str]:
    """Return the labels by which `reap` recognises a container of this process."""
    return {
        _LABEL: "sandbox",
        f"{_LABEL}.host": _host(),
        f"{_LABEL}.pid": str(os.getpid()),
        f"{_LABEL}.started": _process_start(os.getpid()) or "",
    }


def _host() -> str:
    """Name this boot of this machine and this pid namespace: where a pid means the same process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def _process_start(pid: int) -> str | None:
    """Return when a process started, in clock ticks since the boot; None if it has ended, "" where nobody knows."""
    if not Path("/proc/self/stat").exists():
        return ""
    try:
        # The name in parentheses may contain anything, parentheses too.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def reap(client: "DockerClient") -> int:
    """Remove the containers of processes that are gone, and those that were never started.

    Containers of processes that are alive are not touched, so several processes may do this at once.

    Returns:
        How many were removed here.
    """
    from docker.errors import DockerException

    # Not client.containers.list: that fails when a container vanishes meanwhile.
    listed = client.api.containers(all=True, filters={"label": f"{_LABEL}=sandbox"})
    if not listed:
        return 0
    now = _daemon_time(client)
    removed = 0
    for summary in listed:
        if is_abandoned(summary, now):
            # Another process may be removing it, too.
            with contextlib.suppress(DockerException, OSError):
                client.api.remove_container(summary["Id"], force=True, v=True)
                removed += 1
    return removed


def _daemon_time(client: "DockerClient") -> float:
    """Return the clock that stamps the containers; it need not be ours."""
    whole, _, _ = client.info()["SystemTime"].partition(".")
    return datetime.fromisoformat(f"{whole.rstrip('Z')}+00:00").timestamp()


def is_abandoned(summary: dict[str, Any], now: float) -> bool:
    """Decide from an entry of the daemon's list whether a container has nobody left who wants it."""
    labels = summary["Labels"]
    if summary["State"] == "created" and now - summary["Created"] > START_S:
        return True
    pid = labels.get(f"{_LABEL}.pid", "")
    if labels.get(f"{_LABEL}.host") != _host() or not pid.isdecimal():
        return False
    return bool(_process_start(int(pid)) != labels.get(f"{_LABEL}.started"))


class ContainerTransport:
    """The standard streams of a program in a container of its own, which ends with this object or this process."""

    def __init__(self, client: "DockerClient", options: dict[str, Any], arguments: list[str]) -> None:
        """Start `python3 <arguments>` in a container.

        Args:
            client: Where; may be shared by several transports and threads.
            options: See `container_options`.
            arguments: The program must exit when its standard input ends.

        Raises:
            MissingPrerequisiteError: The image is not there.
            SandboxError: The container could not be started.
        """
        from docker.errors import DockerException, ImageNotFound

        self._client = client
        self._frames, self._error_frames = _Frames(), _Frames()
        self._errors = b""
        try:
            container = client.containers.create(command=arguments, **options)
        except ImageNotFound:
            raise MissingPrerequisiteError(
                f"docker has no image '{options['image']}'; build it with: palestra doctor --build-image"
            ) from None
        except (DockerException, OSError) as error:
            raise SandboxError(f"docker could not make a container: {error}") from error
        self.id = str(container.id)
        with contextlib.ExitStack() as undo:
            undo.callback(_remove, container)
            try:
                # The error stream is apart: what is written there must never hold up who waits for output.
                self._stream = undo.enter_context(_attach(client, self.id, "stdin", "stdout"))
                self._error_stream = undo.enter_context(_attach(client, self.id, "stderr"))
                container.start()
            except (DockerException, OSError) as error:
                raise SandboxError(f"docker could not start a container: {error}") from error
            undo.pop_all()

    def fileno(self) -> int:
        """Return the descriptor that is readable when there is output."""
        return self._stream.fileno()

    def send(self, data: bytes) -> None:
        """Write all of `data` to the program's standard input.

        Raises:
            OSError: The stream is broken, or the program reads nothing for `STALL_S`.
        """
        rest = memoryview(data)
        poll = select.poll()
        # The daemon takes input for a program that has ended: only the end of the output tells.
        poll.register(self._stream, select.POLLOUT | select.POLLRDHUP)
        while rest:
            ready = poll.poll(STALL_S * 1000)
            if not ready:
                raise TimeoutError(f"the program in the container read nothing for {STALL_S:g} s")
            if ready[0][1] & ~select.POLLOUT:
                raise BrokenPipeError("the program in the container has ended")
            with contextlib.suppress(BlockingIOError):
                rest = rest[self._stream.send(rest, socket.MSG_DONTWAIT) :]

    def receive(self) -> bytes:
        """Wait for output and return some of it; nothing once the program has ended."""
        while True:
            data = b""
            with contextlib.suppress(OSError):
                data = self._stream.recv(1 << 16)
            payload = self._frames.payload(data)
            if payload or not data:
                return payload

    def errors(self) -> str:
        """Return the end of what the program wrote to its error stream."""
        with contextlib.suppress(OSError):
            while data := self._error_stream.recv(1 << 16, socket.MSG_DONTWAIT):
                self._errors = (self._errors + self._error_frames.payload(data))[-KEPT_ERRORS:]
        return self._errors.decode("utf-8", "replace")

    def exhausted(self, since: float) -> bool:
        """Whether the container has ended for lack of memory; waits for the daemon to say so, a little.

        That is so if the kernel killed something in it shortly before, and nobody had it killed from outside.

        Args:
            since: From when on, as `time.time()` tells it.
        """
        try:
            since = max(since, time.time() - DEATH_S)
            events = self._client.api.events(
                since=int(since),
                until=math.ceil(time.time() + EVENT_S),
                filters={"container": self.id, "event": ["oom", "kill"]},
                decode=True,
            )
            seen = list(events)  # to its end: only then is the connection given back
            kinds = {event["Action"] for event in seen if event["timeNano"] >= since * 1e9}
            return "oom" in kinds and "kill" not in kinds
        except Exception:  # whatever a daemon that is ending sends: then nobody knows
            return False

    def kill(self) -> None:
        """End the program and all it started; the daemon then removes the container."""
        from docker.errors import DockerException

        with contextlib.suppress(OSError):
            self._stream.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(DockerException, OSError):
            self._client.api.kill(self.id)

    def close(self) -> None:
        """End the program and release the streams."""
        self.kill()
        self.errors()
        self._stream.close()
        self._error_stream.close()


def _remove(container: "Container") -> None:
    from docker.errors import DockerException

    with contextlib.suppress(DockerException, OSError):
        container.remove(force=True, v=True)


def _attach(client: "DockerClient", container: str, *streams: str) -> socket.socket:
    """Return a socket that carries those streams.

    The SDK's `attach_socket` leaves the connection underneath to the garbage collector.
    """
    api = client.api
    response = api.post(
        f"{api.base_url}/v{api.api_version}/containers/{container}/attach",
        params={"stream": 1, **dict.fromkeys(streams, 1)},
        headers={"Connection": "Upgrade", "Upgrade": "tcp"},
        stream=True,
    )
    with contextlib.closing(response):
        response.raise_for_status()
        stream = socket.socket(fileno=os.dup(response.raw.fileno()))
    stream.settimeout(None)
    return stream


class _Frames:
    """Takes docker's headers out of a stream: 8 bytes before each piece, the last 4 of them its length."""

    def __init__(self) -> None:
        self._header = b""
        self._left = 0

    def payload(self, data: bytes) -> bytes:
        """Return what `data`, the next bytes of the stream, holds besides headers."""
        pieces = []
        while data:
            if self._left:
                pieces.append(data[: self._left])
                data = data[self._left :]
                self._left -= len(pieces[-1])
            else:
                missing = 8 - len(self._header)
                self._header += data[:missing]
                data = data[missing:]
                if len(self._header) == 8:
                    self._left = int.from_bytes(self._header[4:], "big")
                    self._header = b""
        return b"".join(pieces)


def build_image(client: "DockerClient", tag: str = IMAGE, base: str = BASE_IMAGE) -> None:
    """Build the image of the sandbox.

    Args:
        client: The daemon that builds it.
        tag: The image's name.
        base: The image it starts from, with Python 3.11 or later; fetched if the daemon does not have it.

    Raises:
        PalestraError: The build failed.
    """
    from docker.errors import BuildError, DockerException

    dockerfile = files("palestra.docker").joinpath("sandbox.Dockerfile").read_bytes()
    try:
        client.images.build(fileobj=io.BytesIO(dockerfile), tag=tag, buildargs={"BASE": base}, rm=True, forcerm=True)
    except BuildError as error:
        said = "".join(part.get("stream", "") for part in error.build_log).strip().splitlines()
        raise PalestraError(f"building {tag} from {base} failed: {error}; last lines: {said[-3:]}") from error
    except (DockerException, OSError) as error:
        raise PalestraError(f"building {tag} from {base} failed: {error}") from error
