import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from palestra.envs.errors import MissingPrerequisiteError
from palestra.envs.sandbox import Sandbox, open_sandbox, seccomp
from palestra.envs.sandbox.base import IsolationUnavailableError, SandboxError
from palestra.envs.sandbox.layout import Launcher
from palestra.envs.sandbox.local import Limits, LocalSandbox

SLEEP = "import time; time.sleep(60)"


def wait_until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def interpreters(pids: set[int]) -> list[int]:
    return [p for p in pids if Path(f"/proc/{p}/cmdline").read_bytes().startswith(b"/opt/python")]


def script(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Put a bwrap of our own making first in PATH."""
    path = folder / "bwrap"
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


# Without bubblewrap: what the user is told.


def test_missing_bubblewrap_names_the_package_and_the_unsafe_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(IsolationUnavailableError, match="apt install bubblewrap") as caught:
        LocalSandbox()
    assert isinstance(caught.value, MissingPrerequisiteError)
    assert "'unsafe-process' by name" in str(caught.value)


def test_namespaces_switched_off_say_how_to_switch_them_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, monkeypatch, "echo 'bwrap: No permissions to create new namespace' >&2; exit 1")
    with pytest.raises(IsolationUnavailableError, match="create new namespace.*user namespaces"):
        LocalSandbox()


def test_old_bubblewrap_is_told_from_a_forbidden_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, monkeypatch, "echo 'bwrap: Unknown option --size' >&2; exit 1")
    with pytest.raises(IsolationUnavailableError, match="0.8 or newer"):
        LocalSandbox()


def test_a_bubblewrap_that_does_nothing_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, monkeypatch, "exit 0")
    with pytest.raises(IsolationUnavailableError):
        LocalSandbox()


def test_other_machines_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "supported", lambda: False)
    with pytest.raises(IsolationUnavailableError, match="x86-64 and aarch64"):
        LocalSandbox()


def test_root_without_setpriv_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, monkeypatch, "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(IsolationUnavailableError, match="setpriv"):
        LocalSandbox()


# With bubblewrap.

needs_sandbox = pytest.mark.sandbox


@needs_sandbox
def test_both_backends_satisfy_the_protocol(local: LocalSandbox) -> None:
    assert isinstance(local, Sandbox)
    assert isinstance(open_sandbox("unsafe-process"), Sandbox)


@needs_sandbox
def test_local_is_the_default(local: LocalSandbox) -> None:
    with open_sandbox() as sandbox:
        assert isinstance(sandbox, LocalSandbox)
    with pytest.raises(SandboxError, match="closed"):
        sandbox.run("pass")


@needs_sandbox
def test_limits_are_the_ones_asked_for(local: LocalSandbox) -> None:
    code = "x = bytearray(150 << 20); print(len(x) >> 20)"
    assert local.run(code).stdout == "150\n"
    assert LocalSandbox(Limits(memory_mib=128)).run(code).status == "memory"


@needs_sandbox
def test_installed_packages_are_not_visible(local: LocalSandbox) -> None:
    assert "ModuleNotFoundError" in local.run("import numpy").stderr
    assert "ModuleNotFoundError" in local.run("import palestra").stderr


@needs_sandbox
def test_standard_library_is_complete(local: LocalSandbox) -> None:
    names = "ctypes, decimal, fractions, hashlib, itertools, json, math, random, re, socket, statistics, zlib"
    assert local.run(f"import {names}; print('ok')").stdout == "ok\n"


@needs_sandbox
def test_code_is_never_run_as_root(local: LocalSandbox, sandboxed: Callable[[], set[int]]) -> None:
    before = sandboxed()
    thread = threading.Thread(target=local.run, args=(SLEEP,), kwargs={"timeout": 1})
    thread.start()

    wait_until(lambda: interpreters(sandboxed() - before))
    (pid,) = interpreters(sandboxed() - before)
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    thread.join()
    (uids,) = (line.split()[1:] for line in status.splitlines() if line.startswith("Uid:"))
    assert "0" not in uids
    assert "Seccomp:\t2" in status
    assert "NoNewPrivs:\t1" in status


@needs_sandbox
def test_host_keeps_its_mounts_and_temporary_files(
    local: LocalSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    files = set(os.listdir("/tmp"))
    local.run("open('/tmp/mine', 'w').write('x')")
    local.run(SLEEP, timeout=0.2)
    assert Path("/proc/self/mountinfo").read_text(encoding="utf-8") == mounts
    assert list(tmp_path.iterdir()) == []
    assert not {"mine", "main.py", "newroot", "oldroot"} & (set(os.listdir("/tmp")) - files)


@needs_sandbox
def test_a_sandbox_that_is_killed_is_our_failure_and_not_the_codes(
    local: LocalSandbox, sandboxed: Callable[[], set[int]]
) -> None:
    before = sandboxed()
    errors: list[str] = []

    def run() -> None:
        try:
            local.run(SLEEP, timeout=30)
        except SandboxError as error:
            errors.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: interpreters(sandboxed() - before))
    time.sleep(0.3)
    new = sandboxed() - before
    for pid in new - set(interpreters(new)):
        os.kill(pid, signal.SIGKILL)
    thread.join(10)
    assert errors
    wait_until(lambda: not sandboxed() - before)


@needs_sandbox
def test_a_launcher_that_fails_later_is_our_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local: LocalSandbox
) -> None:
    broken = ["/bin/sh", "-c", "echo no space >&2; exit 0", "sh"]
    monkeypatch.setattr(Launcher, "command", lambda self: broken)
    with pytest.raises(SandboxError, match="did not start: no space"):
        local.run("print(1)")
    broken[0] = "/nonexistent/bwrap"
    with pytest.raises(SandboxError, match="could not be started"):
        local.run("print(1)")


@needs_sandbox
def test_interrupting_the_host_ends_the_execution(local: LocalSandbox, sandboxed: Callable[[], set[int]]) -> None:
    before = sandboxed()
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(KeyboardInterrupt):
            local.run(SLEEP, timeout=30)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert not sandboxed() - before


@needs_sandbox
@pytest.mark.parametrize("fork", [False, True])
def test_killing_the_host_ends_the_execution(fork: bool, sandboxed: Callable[[], set[int]]) -> None:
    before = sandboxed()
    child = "import os\nif os.fork() == 0: os.setsid()\n" if fork else ""
    program = (
        "from palestra.envs.sandbox.local import Limits, LocalSandbox\n"
        f"LocalSandbox(Limits(fork={fork})).run({child + SLEEP!r}, timeout=60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program])
    wait_until(lambda: len(interpreters(sandboxed() - before)) > fork, 20)
    time.sleep(0.3)
    process.kill()
    process.wait()
    wait_until(lambda: not sandboxed() - before)
