"""What hostile code tries, as data in `attacks.json`, and what must hold after each.

An entry's code prints ESCAPED when it got what it must not get, and PROBED when it has tried everything: an
attack that breaks off early proves nothing. A list of codes is run one after the other. Never point these at
a backend without isolation: they are real.
"""

import json
import os
import platform
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from palestra.envs.sandbox.base import ExecResult
from palestra.envs.sandbox.local import LocalSandbox

pytestmark = pytest.mark.sandbox

CANARY = "canary-5f1c9a77"
ATTACKS = json.loads(Path(__file__).with_name("attacks.json").read_text(encoding="utf-8"))


@dataclass
class Host:
    """What the attacks aim at: a secret, a writable folder, and servers that must never be reached."""

    canary: Path
    outside: Path
    listeners: dict[str, socket.socket]
    free_port: int

    def fill(self, code: str) -> str:
        values = {
            "@CANARY@": str(self.canary),
            "@OUTSIDE@": str(self.outside),
            "@TCP@": str(self.listeners["tcp"].getsockname()[1]),
            "@UNIX@": self.listeners["unix"].getsockname(),
            "@ABSTRACT@": f"palestra-{os.getpid()}",
            "@FREE@": str(self.free_port),
            "@HOST_PID@": str(os.getpid()),
        }
        for name, value in values.items():
            code = code.replace(name, value)
        return code

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
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    tmp_path.chmod(0o755)
    canary = tmp_path / "secret"
    canary.write_text(CANARY, encoding="utf-8")
    outside = tmp_path / "outside"
    outside.mkdir()
    outside.chmod(0o777)
    monkeypatch.setenv("PALESTRA_TEST_SECRET", CANARY)
    addresses: dict[str, tuple[int, Any]] = {
        "tcp": (socket.AF_INET, ("127.0.0.1", 0)),
        "unix": (socket.AF_UNIX, str(tmp_path / "s")),
        "abstract": (socket.AF_UNIX, f"\0palestra-{os.getpid()}"),
    }
    listeners = {}
    for name, (family, address) in addresses.items():
        listener = listeners[name] = socket.socket(family)
        listener.bind(address)
        listener.listen()
        listener.setblocking(False)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free_port = probe.getsockname()[1]
    yield Host(canary, outside, listeners, free_port)
    for listener in listeners.values():
        listener.close()


@pytest.mark.parametrize("attack", [pytest.param(attack, id=attack["id"]) for attack in ATTACKS])
def test_attack_is_held(
    attack: dict[str, Any],
    local: LocalSandbox,
    forking: LocalSandbox,
    host: Host,
    sandboxed: Callable[[], set[int]],
) -> None:
    if attack.get("machine", platform.machine()) != platform.machine():
        pytest.skip(f"system call numbers of {attack['machine']}")
    sandbox = forking if attack.get("fork") else local
    codes = attack["code"] if isinstance(attack["code"][0], list) else [attack["code"]]
    before = sandboxed()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reached = knock(attack, host)
    timeout = attack.get("timeout", 5)
    for code in codes:
        began = time.monotonic()
        result = sandbox.run(host.fill("\n".join(code)), stdin=attack.get("stdin", ""), timeout=timeout)
        wall = time.monotonic() - began
        judge(attack, result)
        assert wall <= attack.get("max_wall", timeout + 3)
    assert not reached(), "a server inside was reached from the host"
    assert not host.contacted()
    assert list(host.outside.iterdir()) == []
    assert host.canary.read_text(encoding="utf-8") == CANARY
    assert not sandboxed() - before, "something survived"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 100_000, "host memory grew (KiB)"
    assert sandbox.run("print(6 * 7)").stdout == "42\n"


def judge(attack: dict[str, Any], result: ExecResult) -> None:
    shown = f"{result.status} {result.exit_code}\n{result.stdout}\n{result.stderr}"
    output = result.stdout + result.stderr
    assert "ESCAPED" not in output, shown
    assert CANARY not in output, shown
    assert len(output) < 200_000
    probing = not {"status", "stdout_has"} & attack.keys()
    assert result.status in attack.get("status", ["ok"] if probing else [result.status]), shown
    assert result.exit_code in attack.get("exit_code", [result.exit_code]), shown
    for text in attack.get("stdout_has", ["PROBED"] if probing else []):
        assert text in result.stdout, shown
    for text in attack.get("stdout_lacks", []):
        assert text not in result.stdout, shown
    for text in attack.get("stderr_has", []):
        assert text in result.stderr, shown


def knock(attack: dict[str, Any], host: Host) -> Callable[[], bool]:
    """Try to connect from the host while the attack listens; the result tells whether it worked."""
    if "connects_to" not in attack:
        return lambda: False
    port = int(host.fill(attack["connects_to"]))
    reached: list[bool] = []

    def connect() -> None:
        for _ in range(15):
            time.sleep(0.1)
            with socket.socket() as client:
                reached.append(client.connect_ex(("127.0.0.1", port)) == 0)

    thread = threading.Thread(target=connect)
    thread.start()

    def ask() -> bool:
        thread.join()
        return any(reached)

    return ask
