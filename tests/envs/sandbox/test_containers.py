import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from palestra.envs.errors import MissingPrerequisiteError, PalestraError
from palestra.envs.sandbox import containers
from palestra.envs.sandbox.base import IsolationUnavailableError, Limits, SandboxError
from palestra.envs.sandbox.containers import IMAGE, ContainerTransport, container_options

COMPOSE = Path(__file__).parents[3] / "docker" / "compose.yaml"
ECHO = "import os\nos.write(1, b'+')\nwhile data := os.read(0, 65536): os.write(1, data)"
DEAF = "import os, time\nos.write(1, b'+')\ntime.sleep(600)"
HOST = """
import sys, time
from palestra.envs.sandbox import containers
from palestra.envs.sandbox.base import Limits
client = containers.connect()
transport = containers.ContainerTransport(client, containers.container_options(Limits()), ["-c", sys.argv[1]])
assert transport.receive() == b"+"
print(transport.id, flush=True)
time.sleep(600)
"""
LIMITED = {
    "OSType": "linux",
    "MemoryLimit": True,
    "PidsLimit": True,
    "CpuCfsQuota": True,
    "SecurityOptions": ["name=apparmor", "name=seccomp,profile=default"],
    "Runtimes": {"runc": {}},
}

needs_daemon = pytest.mark.docker


def wait_until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def sdk() -> None:
    """The SDK, not our folder of the same name."""
    pytest.importorskip("docker.errors")


@pytest.fixture
def start(daemon: Any) -> Iterator[Callable[..., ContainerTransport]]:
    with contextlib.ExitStack() as stack:

        def start_one(program: str, limits: Limits | None = None) -> ContainerTransport:
            transport = ContainerTransport(daemon, container_options(limits or Limits()), ["-c", program])
            stack.callback(transport.close)
            return transport

        yield start_one


def read(transport: ContainerTransport, count: int | None = None) -> bytes:
    data = b""
    while (count is None or len(data) < count) and (part := transport.receive()):
        data += part
    return data


def exists(daemon: Any, container: str) -> bool:
    return bool(daemon.api.containers(all=True, quiet=True, filters={"id": container}))


# Without a daemon: what the user is told.


def test_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("docker", "docker.client"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingPrerequisiteError, match="pip install docker"):
        containers.connect()


@pytest.mark.usefixtures("sdk")
def test_missing_daemon_says_where_it_was_sought(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(MissingPrerequisiteError, match=r"none\.sock; start one"):
        containers.connect()


@pytest.mark.usefixtures("sdk")
def test_forbidden_socket_is_told_from_a_missing_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("socket.socket.connect", refuse)
    with pytest.raises(MissingPrerequisiteError, match="may not be used by this user.*rootless"):
        containers.connect()


@pytest.mark.usefixtures("sdk")
def test_daemon_without_a_plain_socket_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    remote = SimpleNamespace(api=SimpleNamespace(base_url="https://far:2376"), close=lambda: None)
    monkeypatch.setenv("DOCKER_HOST", "tcp://far:2376")
    monkeypatch.setattr("docker.DockerClient.from_env", lambda: remote)
    with pytest.raises(MissingPrerequisiteError, match="plain TCP"):
        containers.connect()


@pytest.mark.parametrize(
    ("lacking", "said"),
    [
        ({"MemoryLimit": False}, "cannot limit memory"),
        ({"PidsLimit": False}, "cannot limit processes"),
        ({"CpuCfsQuota": False}, "cannot limit processor time"),
        ({"SecurityOptions": ["name=apparmor"]}, "filters no system calls"),
        ({"SecurityOptions": ["name=seccomp,profile=unconfined"]}, "filters no system calls"),
        ({"OSType": "windows"}, "no Linux containers"),
        ({"Runtimes": {"crun": {}}}, "no runtime 'runc'.*one of these: crun"),
    ],
)
def test_daemon_that_cannot_isolate_is_refused(lacking: dict[str, Any], said: str) -> None:
    client: Any = SimpleNamespace(info=lambda: LIMITED | lacking)
    with pytest.raises(IsolationUnavailableError, match=said):
        containers.require_isolation(client, "runc")


def test_daemon_that_isolates_is_accepted() -> None:
    containers.require_isolation(SimpleNamespace(info=lambda: LIMITED), None)  # type: ignore[arg-type]


# Without a daemon: the parts.


@given(st.lists(st.binary(max_size=300)), st.lists(st.integers(1, 40)))
def test_payload_does_not_depend_on_how_the_stream_is_cut(pieces: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(b"\1\0\0\0" + len(piece).to_bytes(4, "big") + piece for piece in pieces)
    frames, payload = containers._Frames(), b""
    for cut in [*cuts, len(stream)]:
        payload += frames.payload(stream[:cut])
        stream = stream[cut:]
    assert payload + frames.payload(stream) == b"".join(pieces)


def summary(labels: dict[str, str], state: str = "running", age: float = 0.0) -> dict[str, Any]:
    return {"Labels": containers.owner_labels() | labels, "State": state, "Created": 1000.0 - age}


@pytest.mark.parametrize(
    ("abandoned", "entry"),
    [
        (False, summary({})),
        (False, summary({}, age=10**6)),
        (False, summary({"palestra.host": "elsewhere", "palestra.pid": str(2**22 + 1)})),
        (False, summary({}, state="created", age=30)),
        (True, summary({}, state="created", age=90)),
        (True, summary({"palestra.host": "elsewhere"}, state="created", age=90)),
        (True, summary({"palestra.pid": str(2**22 + 1)})),
        (True, summary({"palestra.started": "1"})),
    ],
)
def test_a_container_is_abandoned_once_its_process_is_gone(abandoned: bool, entry: dict[str, Any]) -> None:
    assert containers.is_abandoned(entry, now=1000.0) is abandoned


def test_a_killed_process_that_nobody_waited_for_is_gone() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        started = containers._process_start(process.pid)
        assert started
        process.kill()
        wait_until(lambda: containers._process_start(process.pid) is None)


def test_the_dockerfile_comes_with_the_package() -> None:
    assert b"USER 65534:65534" in files("palestra.docker").joinpath("sandbox.Dockerfile").read_bytes()


@pytest.mark.skipif(not COMPOSE.is_file(), reason="runs beside the source tree only")
def test_compose_file_confines_as_we_do() -> None:
    service = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]["sandbox"]
    options = container_options(Limits())
    same = ("entrypoint", "network_mode", "read_only", "cap_drop", "security_opt", "user", "hostname", "image")
    for name in (*same, "pids_limit", "oom_score_adj", "stdin_open", "working_dir", "environment"):
        assert service[name] == options[name], name
    assert service["tmpfs"] == [f"{path}:{flags}" for path, flags in options["tmpfs"].items()]
    assert service["mem_limit"] == service["memswap_limit"] == f"{options['mem_limit'] >> 20}m"
    assert service["cpus"] * 10**9 == options["nano_cpus"]
    assert service["ulimits"] == {limit["name"]: limit["hard"] for limit in options["ulimits"]}
    assert service["ipc"] == options["ipc_mode"]
    assert service["logging"]["driver"] == options["log_config"]["type"]
    assert "volumes" not in service


# With a daemon: the stream.


@needs_daemon
def test_bytes_come_back_as_they_were_sent(start: Callable[..., ContainerTransport]) -> None:
    data = os.urandom(3 << 20)
    transport = start(ECHO)
    assert read(transport, 1) == b"+"
    sender = threading.Thread(target=transport.send, args=(data,))
    sender.start()
    assert read(transport, len(data)) == data
    sender.join()


@needs_daemon
def test_sending_to_a_program_that_does_not_read_fails(
    start: Callable[..., ContainerTransport], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "STALL_S", 0.3)
    with pytest.raises(TimeoutError):
        start(DEAF).send(bytes(64 << 20))


@needs_daemon
def test_sending_to_a_program_that_ended_fails(start: Callable[..., ContainerTransport]) -> None:
    transport = start("pass")
    assert read(transport) == b""
    with pytest.raises(BrokenPipeError):
        transport.send(b"x")


@needs_daemon
def test_the_end_of_the_error_stream_is_kept(start: Callable[..., ContainerTransport]) -> None:
    transport = start("import os; os.write(2, b'early' + b'.' * 9000 + b'late')")
    assert read(transport) == b""
    wait_until(lambda: transport.errors().endswith("late"))
    assert len(transport.errors()) == containers.KEPT_ERRORS


@needs_daemon
def test_errors_do_not_make_the_stream_readable(start: Callable[..., ContainerTransport]) -> None:
    transport = start("import os, time; os.write(2, b'noise'); os.read(0, 1); os.write(1, b'+'); time.sleep(600)")
    wait_until(lambda: transport.errors() == "noise")
    assert not readable(transport)
    transport.send(b"x")
    wait_until(lambda: readable(transport))
    assert transport.receive() == b"+"


def readable(transport: ContainerTransport) -> bool:
    return bool(select.select([transport], [], [], 0)[0])


@needs_daemon
def test_no_program_that_is_started_later_holds_the_stream_open(start: Callable[..., ContainerTransport]) -> None:
    assert not os.get_inheritable(start(ECHO).fileno())


@needs_daemon
def test_killing_ends_a_wait_for_output(start: Callable[..., ContainerTransport]) -> None:
    transport = start(DEAF)
    assert read(transport, 1) == b"+"
    threading.Timer(0.1, transport.kill).start()
    assert transport.receive() == b""


@needs_daemon
def test_closing_twice_removes_the_container(daemon: Any, start: Callable[..., ContainerTransport]) -> None:
    transport = start(DEAF)
    assert exists(daemon, transport.id)
    transport.close()
    transport.close()
    wait_until(lambda: not exists(daemon, transport.id))


@needs_daemon
def test_many_threads_share_a_client(start: Callable[..., ContainerTransport]) -> None:
    replies: list[bytes] = []

    def talk() -> None:
        transport = start(ECHO)
        transport.send(b"x")
        replies.append(read(transport, 2))
        transport.close()

    threads = [threading.Thread(target=talk) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert replies == [b"+x"] * 8


@needs_daemon
def test_missing_image_says_how_to_build_it(daemon: Any) -> None:
    with pytest.raises(MissingPrerequisiteError, match="no image 'palestra-none:1'.*doctor --build-image"):
        ContainerTransport(daemon, container_options(Limits(), "palestra-none:1"), [])


@needs_daemon
def test_a_container_that_does_not_start_is_removed(daemon: Any) -> None:
    options = container_options(Limits()) | {"entrypoint": ["/nonexistent"], "labels": {"palestra.test": "no start"}}
    with pytest.raises(SandboxError, match="could not start"):
        ContainerTransport(daemon, options, [])
    assert not daemon.api.containers(all=True, filters={"label": "palestra.test=no start"})


# With a daemon: the confinement.

LOOK = """
import json, os
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
def writable(path):
    try:
        open(path + "/probe", "w").close()
    except OSError:
        return False
    return True
folders = [folder for folder, _, _ in os.walk("/") if not folder.startswith("/proc/") and os.access(folder, os.W_OK)]
print(json.dumps({
    "uid": os.getresuid(), "gid": os.getresgid(), "groups": os.getgroups(), "pid": os.getpid(),
    "rights": [status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
    "privileges": status["NoNewPrivs"], "filter": status["Seccomp"],
    "networks": sorted(os.listdir("/sys/class/net")), "environment": dict(os.environ), "cwd": os.getcwd(),
    "writable": [folder for folder in folders if writable(folder)], "host": os.uname().nodename,
    "tmp": os.statvfs("/tmp").f_blocks * os.statvfs("/tmp").f_frsize, "inodes": os.statvfs("/tmp").f_files,
}))
"""


@needs_daemon
def test_inside_there_is_nothing_to_take(
    start: Callable[..., ContainerTransport], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PALESTRA_SECRET", "hunter2")
    seen = json.loads(read(start(LOOK, Limits(tmp_mib=8, files=100))))
    assert seen["uid"] == seen["gid"] == [65534] * 3
    assert set(seen["groups"]) <= {65534}
    assert {int(rights, 16) for rights in seen["rights"]} == {0}
    assert (seen["privileges"], seen["filter"], seen["pid"]) == ("1", "2", 1)
    assert seen["networks"] == ["lo"]
    assert set(seen["writable"]) <= {"/tmp", "/dev/shm", "/dev/mqueue"}
    assert (seen["tmp"], seen["inodes"], seen["cwd"], seen["host"]) == (8 << 20, 100, "/tmp", "sandbox")
    assert seen["environment"]["PYTHONHASHSEED"] == "0"
    assert "hunter2" not in str(seen["environment"])


@needs_daemon
@pytest.mark.usefixtures("daemon")
def test_proxies_of_the_user_stay_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"proxies": {"default": {"httpProxy": "http://me:hunter2@proxy"}}}), encoding="utf-8"
    )
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    arguments = ["-c", "import os; print(dict(os.environ))"]
    with (
        contextlib.closing(containers.connect()) as client,
        contextlib.closing(ContainerTransport(client, container_options(Limits()), arguments)) as transport,
    ):
        seen = read(transport)
    assert b"PATH" in seen
    assert b"hunter2" not in seen


HUNGRY = """
import os, time
for _ in range(3):
    if os.fork() == 0:
        data = os.urandom(1 << 20) * 100
        os.write(1, b"fed")
        time.sleep(600)
os.wait()
os.write(1, b"killed")
"""


@needs_daemon
def test_memory_of_all_processes_together_is_bounded(start: Callable[..., ContainerTransport]) -> None:
    assert b"killed" in read(start(HUNGRY, Limits(memory_mib=16, tmp_mib=8)))
    assert read(start(HUNGRY, Limits(memory_mib=512)), 9) == b"fedfedfed"


FORKS = """
import os, time
made = 0
try:
    while made < 500:
        if os.fork() == 0:
            time.sleep(600)
        made += 1
except BlockingIOError:
    os.write(1, b"%d" % made)
"""


@needs_daemon
def test_processes_are_bounded(start: Callable[..., ContainerTransport]) -> None:
    made = int(read(start(FORKS, Limits(tasks=10))))
    assert made == 10 + containers.RUNNER_TASKS - 1


# With a daemon: nothing is left.


@contextlib.contextmanager
def host_process(program: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Another process with a container; and its container."""
    with subprocess.Popen([sys.executable, "-c", HOST, program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


@needs_daemon
def test_killing_the_host_ends_the_container_within_two_seconds(daemon: Any) -> None:
    with host_process(ECHO) as (process, container):
        assert exists(daemon, container)
        process.send_signal(signal.SIGKILL)
        wait_until(lambda: not exists(daemon, container), seconds=2)


@needs_daemon
def test_the_next_opening_removes_a_container_whose_program_did_not_end(daemon: Any) -> None:
    with host_process(DEAF) as (process, container):
        containers.reap(daemon)
        assert exists(daemon, container)
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.5)
        assert exists(daemon, container)
        assert containers.reap(daemon) >= 1
        wait_until(lambda: not exists(daemon, container), seconds=2)


@needs_daemon
def test_several_may_reap_at_once(daemon: Any, start: Callable[..., ContainerTransport]) -> None:
    mine = start(ECHO)
    errors: list[Exception] = []

    def reap() -> None:
        try:
            containers.reap(daemon)
        except Exception as error:
            errors.append(error)

    with host_process(DEAF) as (first, one), host_process(DEAF) as (second, two):
        first.kill()
        second.kill()
        first.wait()
        second.wait()
        threads = [threading.Thread(target=reap) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_until(lambda: not exists(daemon, one) and not exists(daemon, two), seconds=2)
    assert not errors
    mine.send(b"x")
    assert read(mine, 2) == b"+x"


@needs_daemon
def test_a_container_that_its_dead_process_never_started_is_reaped(daemon: Any) -> None:
    options = container_options(Limits())
    options["labels"] = options["labels"] | {"palestra.started": "1"}
    container = daemon.containers.create(command=["-c", ECHO], **options)
    containers.reap(daemon)
    assert not exists(daemon, container.id)


# With a daemon: the image.


@needs_daemon
def test_the_image_has_the_usual_packages_and_no_installer(start: Callable[..., ContainerTransport]) -> None:
    program = "import importlib.util, numpy, sympy; print(numpy.dot([2], [3]), importlib.util.find_spec('pip'))"
    assert read(start(program)).split() == [b"6", b"None"]


@needs_daemon
def test_the_image_is_built_from_the_packaged_dockerfile(daemon: Any) -> None:
    base = os.environ.get("PALESTRA_SANDBOX_BASE", "palestra-base:local")
    if not daemon.images.list(base):
        pytest.skip(f"the daemon has no image {base} to start from")
    containers.build_image(daemon, "palestra-test:built", base)
    try:
        assert daemon.images.get("palestra-test:built").attrs["Config"]["User"] == "65534:65534"
    finally:
        daemon.images.remove("palestra-test:built", noprune=True)


@needs_daemon
def test_a_failed_build_says_why(daemon: Any) -> None:
    with pytest.raises(PalestraError, match=r"building palestra-test:failed .* failed.*No module named pip"):
        containers.build_image(daemon, "palestra-test:failed", IMAGE)
