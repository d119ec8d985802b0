"""What hostile code tries, as data in `attacks.json`, and what must hold during and after each, on every backend.

An entry has `code` (one program), `steps` (programs one after the other), `parallel` (programs at the same
time) or `cells` (of one session). Code prints ESCAPED when it got what it must not get, and PROBED when it has
tried everything: an attack that breaks off early proves nothing. Other keys, all optional:

- `status`, `exit_code`, `stdout_has`, `stdout_lacks`, `stderr_has`: of every result; `last_stdout_has`: of the
  last one. Without `status` and `stdout_has` a result must be `ok` and have PROBED in it (cells: anything).
- `max_wall`: seconds; default: `timeout` and 3 more. `steps_differ`: no two outputs after the first are equal.
- `processes`: it makes some. `may_end`: the session may be over before the last cell. `pause`: seconds between
  cells. `prelude`: it uses the helpers below. `only`: a backend. `machine`: the processor whose call numbers it
  uses. `connects_to`: a port that the host tries to reach meanwhile.

Never point these at a backend without isolation: they are real.
"""

import json
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from palestra.envs.sandbox import ExecResult, Sandbox, SessionEndedError
from palestra.envs.sandbox.local import LocalSandbox

CANARY = "canary-5f1c9a77"
ATTACKS = json.loads(Path(__file__).with_name("attacks.json").read_text(encoding="utf-8"))
PRELUDE = """\
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def attempt(name, number, *arguments):
    result = libc.syscall(number, *arguments)
    print("ESCAPED" if result >= 0 else "refused", name, result, ctypes.get_errno())
def trying(name, action, expected=(OSError, ValueError)):
    try:
        value = action()
    except expected as error:
        print("refused", name, repr(error)[:200])
    else:
        print("ESCAPED", name, repr(value)[:200])
"""
PRIVATE = {
    "local": ("import os; print(os.getpid(), os.listdir('/proc'))", "1 []\n"),
    "docker": ("import os; print(1 < os.getpid(), sum(n.isdigit() for n in os.listdir('/proc')) <= 4)", "True True\n"),
}
"""Asked first: whether the processes that code can see are its own."""
BACKENDS = [
    pytest.param("local", marks=pytest.mark.sandbox),
    pytest.param("docker", marks=pytest.mark.docker),
]
FORMS = ("code", "steps", "parallel", "cells")


@dataclass
class Host:
    """What the attacks aim at: a secret, a writable folder, and servers that must never be reached."""

    canary: Path
    outside: Path
    listeners: dict[str, socket.socket]
    free_port: int

    def values(self, python: str, worker_pid: int) -> dict[str, str]:
        """What stands for the placeholders in an attack."""
        return {
            "@CANARY@": str(self.canary),
            "@MOVED_CANARY@": "".join(chr(ord(letter) + 1) for letter in CANARY),
            "@OUTSIDE@": str(self.outside),
            "@TCP@": str(self.listeners["tcp"].getsockname()[1]),
            "@UNIX@": self.listeners["unix"].getsockname(),
            "@ABSTRACT@": f"palestra-{os.getpid()}",
            "@FREE@": str(self.free_port),
            "@HOST_PID@": str(os.getpid()),
            "@WORKER_PID@": str(worker_pid),
            "@PYTHON@": python,
        }

    def contacted(self) -> list[str]:
        names = []
        for name, listener in self.listeners.items():
            try:
                listener.accept()[0].close()
            except BlockingIOError:
                continue
            names.append(name)
        return names


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user may enter, unlike those of pytest: only the sandbox may be in the way."""
    folder = Path(tempfile.mkdtemp(prefix="palestra-attacks-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def host(public: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    canary = public / "secret"
    canary.write_text(CANARY, encoding="utf-8")
    outside = public / "outside"
    outside.mkdir()
    outside.chmod(0o777)
    monkeypatch.setenv("PALESTRA_TEST_SECRET", CANARY)
    addresses: dict[str, tuple[int, Any]] = {
        "tcp": (socket.AF_INET, ("127.0.0.1", 0)),
        "unix": (socket.AF_UNIX, str(public / "s")),
        "abstract": (socket.AF_UNIX, f"\0palestra-{os.getpid()}"),
    }
    listeners = {}
    for name, (family, address) in addresses.items():
        listener = listeners[name] = socket.socket(family)
        listener.bind(address)
        if name == "unix":
            os.chmod(address, 0o777)
        listener.listen()
        listener.setblocking(False)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free_port = probe.getsockname()[1]
    yield Host(canary, outside, listeners, free_port)
    for listener in listeners.values():
        listener.close()


@pytest.fixture(scope="session")
def private(opened: Callable[[str], Sandbox]) -> Callable[[str], tuple[Sandbox, str]]:
    """Gives a backend's sandbox, once it has shown that attacks stay in it, and its interpreter."""
    checked: dict[str, tuple[Sandbox, str]] = {}

    def get(backend: str) -> tuple[Sandbox, str]:
        if backend not in checked:
            sandbox = opened(backend)
            code, expected = PRIVATE[backend]
            result = sandbox.run(code)
            if result.stdout != expected:
                pytest.exit(f"'{backend}' does not isolate, so nothing is let loose in it: {result}", 1)
            checked[backend] = sandbox, sandbox.run("import sys; print(sys.executable)").stdout.strip()
        return checked[backend]

    return get


@pytest.fixture
def survivors(
    request: pytest.FixtureRequest, descendants: Callable[[], set[int]]
) -> Callable[[str], Callable[[], str]]:
    """Makes a check that names what an attack left running, or nothing."""

    def local() -> Callable[[], str]:
        before = -1
        while before != (before := len(descendants())):
            time.sleep(0.03)  # spares are still being made
        return lambda: f"{now} processes, {before} before" if (now := len(descendants())) > before else ""

    def docker() -> Callable[[], str]:
        from docker.errors import DockerException

        from palestra.envs.sandbox import containers

        client = containers.connect()
        request.addfinalizer(client.close)

        def look() -> str:
            try:
                ours = client.containers.list(filters={"label": f"palestra.pid={os.getpid()}"})
                tops = [container.top()["Processes"] or ["it ends"] * 9 for container in ours]
            except DockerException as error:  # a container that is ending
                return str(error)
            return next((str(top) for top in tops if len(top) > 3), "")

        return look

    return lambda backend: local() if backend == "local" else docker()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("attack", [pytest.param(attack, id=attack["id"]) for attack in ATTACKS])
def test_attack_is_held(
    attack: dict[str, Any],
    backend: str,
    private: Callable[[str], tuple[Sandbox, str]],
    survivors: Callable[[str], Callable[[], str]],
    descendants: Callable[[], set[int]],
    wait_until: Callable[..., None],
    host: Host,
    clock: Callable[[], float],
) -> None:
    if attack.get("machine", platform.machine()) != platform.machine():
        pytest.skip(f"system call numbers of {attack['machine']}")
    if attack.get("only", backend) != backend:
        pytest.skip(f"concerns {attack['only']}")
    sandbox, python = private(backend)
    if attack.get("processes") and isinstance(sandbox, LocalSandbox) and not sandbox.processes:
        pytest.skip("new processes are refused here")
    left, stats = survivors(backend), sandbox.stats()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    values = host.values(python, min(descendants(), default=os.getppid()))
    reached = knock(attack, host)

    results = unleash(sandbox, attack, values, clock)

    judge(attack, results)
    assert not reached(), "a server inside was reached from the host"
    assert not host.contacted()
    assert list(host.outside.iterdir()) == []
    assert host.canary.read_text(encoding="utf-8") == CANARY
    assert sandbox.run("print(6 * 7)").stdout == "42\n"
    wait_until(lambda: not left())
    after = sandbox.stats()
    assert (after.failed, after.retried) == (stats.failed, stats.retried), "the attack passes for our own failure"
    if backend == "local":
        assert after.workers_replaced == stats.workers_replaced
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 100_000, "host memory grew (KiB)"


def unleash(
    sandbox: Sandbox, attack: dict[str, Any], values: dict[str, str], clock: Callable[[], float]
) -> list[ExecResult]:
    """Run an attack; no part of it may take longer than it may, but for what the machine itself stood still."""
    (form,) = (form for form in FORMS if form in attack)
    parts = [attack["code"]] if form == "code" else attack[form]
    codes = ["\n".join(part) for part in parts]
    for name, value in values.items():
        codes = [code.replace(name, value) for code in codes]
    if "prelude" in attack:
        codes = [PRELUDE + code for code in codes]
    timeout = attack.get("timeout", 5)
    longest = attack.get("max_wall", timeout + 3)
    if form == "cells":
        return cells(sandbox, codes, attack, timeout, longest, clock)
    results: list[ExecResult] = []
    began = clock()
    if form == "parallel":
        futures: list[Future[ExecResult]] = [sandbox.submit(code, timeout=timeout) for code in codes]
        results = [future.result() for future in futures]
        assert clock() - began <= longest, (results, sandbox.stats())
    else:
        for code in codes:
            began = clock()
            results.append(sandbox.run(code, stdin=attack.get("stdin", ""), timeout=timeout))
            assert clock() - began <= longest, (results, sandbox.stats())
    return results


def cells(
    sandbox: Sandbox,
    codes: list[str],
    attack: dict[str, Any],
    timeout: float,
    longest: float,
    clock: Callable[[], float],
) -> list[ExecResult]:
    results = []
    with sandbox.session() as session:
        for code in codes:
            began = clock()
            try:
                results.append(session.run(code, timeout=timeout))
            except SessionEndedError:
                assert attack.get("may_end")
                break
            assert clock() - began <= longest, (results, sandbox.stats())
            time.sleep(attack.get("pause", 0.0))
    return results


def judge(attack: dict[str, Any], results: list[ExecResult]) -> None:
    shown = "\n".join(f"{r.status} {r.exit_code}\n{r.stdout[-3000:]}\n{r.stderr[-3000:]}" for r in results)
    probing = not {"status", "stdout_has", "cells"} & attack.keys()
    for result in results:
        output = result.stdout + result.stderr
        assert "ESCAPED" not in output, shown
        assert CANARY not in output, shown
        assert len(output) < 200_000
        assert result.status in attack.get("status", ["ok"] if probing else [result.status]), shown
        assert result.exit_code in attack.get("exit_code", [result.exit_code]), shown
        for text in attack.get("stdout_has", ["PROBED"] if probing else []):
            assert text in result.stdout, shown
        for text in attack.get("stdout_lacks", []):
            assert text not in output, shown
        for text in attack.get("stderr_has", []):
            assert text in result.stderr, shown
    for text in attack.get("last_stdout_has", []):
        assert text in results[-1].stdout, shown
    if "steps_differ" in attack:
        outputs = [result.stdout for result in results[1:]]
        assert len(set(outputs)) == len(outputs), shown


def knock(attack: dict[str, Any], host: Host) -> Callable[[], bool]:
    """Try to connect from the host while the attack listens; the result tells whether it worked."""
    if "connects_to" not in attack:
        return lambda: False
    reached: list[bool] = []

    def connect() -> None:
        for _ in range(15):
            time.sleep(0.1)
            with socket.socket() as client:
                reached.append(client.connect_ex(("127.0.0.1", host.free_port)) == 0)

    thread = threading.Thread(target=connect)
    thread.start()

    def ask() -> bool:
        thread.join()
        return any(reached)

    return ask


def test_every_attack_is_of_one_form_and_has_a_name_of_its_own() -> None:
    assert all(sum(form in attack for form in FORMS) == 1 for attack in ATTACKS)
    assert len({attack["id"] for attack in ATTACKS}) == len(ATTACKS)


@pytest.mark.sandbox
@pytest.mark.skipif(os.geteuid() != 0, reason="this already runs as an ordinary user")
def test_attacks_are_held_for_an_ordinary_user(public: Path) -> None:
    """As root, all attacks once more by a user who can make no control groups and owns nothing."""
    unshare, setpriv = shutil.which("unshare"), shutil.which("setpriv")
    assert unshare
    assert setpriv
    hidden = {*closed_folders(Path(sys.executable).parent), *closed_folders(Path(__file__).parent)}
    if hidden and os.environ.get("PALESTRA_REQUIRE_SANDBOX") != "1":
        pytest.skip(f"no ordinary user may enter {min(hidden)}")
    script = public / "run.sh"
    script.write_text(REACHABLE, encoding="utf-8")
    closed = [str(folder) for folder in closed_folders(Path(sys.base_prefix))]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "DOCKER_"))}
    command = [unshare, "--mount", "sh", str(script), sys.base_prefix, closed[0] if closed else "", setpriv]
    command += [sys.executable, "-m", "pytest", "-q", "-m", "sandbox", "-p", "no:cacheprovider", "-k", "local"]
    command += [f"--basetemp={public}/base", "-c", str(Path(__file__).parents[3] / "pyproject.toml"), __file__]
    process = subprocess.run(
        command,
        env=environment | {"PALESTRA_REQUIRE_SANDBOX": "1", "HOME": str(public)},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert process.returncode == 0, process.stdout[-8000:] + process.stderr[-2000:]
    assert " passed" in process.stdout


REACHABLE = """\
# Make the interpreter reachable for everyone, in this mount namespace only, and go on as nobody.
set -eu
prefix=$1 closed=$2 setpriv=$3
shift 3
if [ -n "$closed" ]; then
    kept=$(mktemp -d)
    mount --bind "$prefix" "$kept"
    mount -t tmpfs -o mode=755 none "$closed"
    mkdir -p "$prefix"
    mount --move "$kept" "$prefix"
    rmdir "$kept"
fi
exec "$setpriv" --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all --bounding-set=-all "$@"
"""


def closed_folders(path: Path) -> list[Path]:
    """The folders on the way to `path` that not everyone may enter, the uppermost first."""
    return [folder for folder in reversed([path, *path.parents]) if not folder.stat().st_mode & 0o001]
