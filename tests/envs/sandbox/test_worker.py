"""What happens when a zygote dies, hangs or never comes up; on `unsafe-process`, where nothing else is needed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from palestra.envs.sandbox import ExecResult, Sandbox, SandboxError, SessionEndedError
from palestra.envs.sandbox.bundle import boot_arguments, bundle, memory_file
from palestra.envs.sandbox.inside import supervisor
from palestra.envs.sandbox.unsafe import UnsafeProcess
from palestra.envs.sandbox.worker import ProcessWorker

SLEEP = "import time; time.sleep(1); print('done')"
LONG = "import time; time.sleep(60)"


@pytest.fixture(params=["unsafe-process", pytest.param("local", marks=pytest.mark.sandbox)])
def sandbox(request: pytest.FixtureRequest, opener: Callable[[str], Any]) -> Iterator[Sandbox]:
    with opener(request.param) as opened:
        yield opened


def parent_and_start(pid: int) -> tuple[int, int]:
    """The parent of a process, and when it was started: numbers of processes begin again at some time."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return -1, 0
    return int(fields[1]), int(fields[19])


def test_programs_under_a_killed_zygote_run_again(
    sandbox: Sandbox, descendants: Callable[[], set[int]], in_thread: Callable[..., Any]
) -> None:
    running = [in_thread(lambda n=n: sandbox.run(f"{SLEEP}; print({n})", timeout=20)) for n in range(2)]
    time.sleep(0.5)
    for pid in ours(descendants):
        os.kill(pid, signal.SIGKILL)
    results = [outcome.get() for outcome in running]
    assert [(result.status, result.stdout) for result in results] == [("ok", f"done\n{n}\n") for n in range(2)]
    stats = sandbox.stats()
    assert (stats.retried, stats.failed, stats.workers_replaced) == (2, 0, 1)


def ours(descendants: Callable[[], set[int]]) -> list[int]:
    """The zygotes that were started last: the session's own sandboxes are not to be harmed."""
    mine = [(start, pid) for pid in descendants() for above, start in [parent_and_start(pid)] if above == os.getpid()]
    return [pid for _, pid in sorted(mine)[-1:]]


def test_a_program_whose_workers_die_twice_is_our_failure(
    sandbox: Sandbox,
    descendants: Callable[[], set[int]],
    in_thread: Callable[..., Any],
    wait_until: Callable[..., None],
) -> None:
    outcome = in_thread(lambda: sandbox.run(LONG, timeout=60))
    time.sleep(0.5)
    (first,) = sandbox._places
    os.kill(ours(descendants)[0], signal.SIGKILL)
    wait_until(lambda: [place.busy for place in sandbox._places if place is not first] == [1], 30)  # it runs again
    os.kill(ours(descendants)[0], signal.SIGKILL)
    assert isinstance(outcome.get(), SandboxError)
    stats = sandbox.stats()
    assert (stats.retried, stats.failed, stats.workers_replaced) == (1, 1, 2)
    assert sandbox.run("print(1)").stdout == "1\n"


def test_a_session_under_a_killed_zygote_is_our_failure(sandbox: Sandbox, descendants: Callable[[], set[int]]) -> None:
    with sandbox.session() as session:
        session.run("a = 1")
        os.kill(ours(descendants)[0], signal.SIGKILL)
        time.sleep(0.3)
        with pytest.raises(SandboxError):
            session.run("a")
        with pytest.raises((SandboxError, SessionEndedError)):
            session.read_file("a")
    with sandbox.session() as session:
        assert session.run("1").stdout == "1\n"


def test_a_stopped_zygote_is_replaced(
    sandbox: Sandbox, descendants: Callable[[], set[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "START_LIMIT_S", 1.0)
    monkeypatch.setattr(supervisor, "GRACE_S", 1.0)
    (zygote,) = ours(descendants)
    stopped = {zygote, *(pid for pid in descendants() if parent_and_start(pid)[0] == zygote)}
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    results = [sandbox.run("print(1)", timeout=5) for _ in range(10)]  # spares first, then new children
    assert [result.stdout for result in results] == ["1\n"] * 10
    assert time.monotonic() - began < 20
    assert sandbox.stats().workers_replaced == 1


def test_closing_during_an_execution_is_an_error_of_the_sandbox(
    sandbox: Sandbox, in_thread: Callable[..., Any]
) -> None:
    outcome = in_thread(lambda: sandbox.run(LONG, timeout=60))
    time.sleep(0.3)
    began = time.monotonic()
    sandbox.close()
    error = outcome.get(10)
    assert isinstance(error, SandboxError)
    assert "closed" in str(error)
    assert time.monotonic() - began < 5


def test_an_interrupt_while_waiting_ends_the_execution(
    sandbox: Sandbox, descendants: Callable[[], set[int]], wait_until: Callable[..., None]
) -> None:
    sandbox.run("pass")
    time.sleep(0.3)
    before = len(descendants())
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(KeyboardInterrupt):
            sandbox.run(LONG, timeout=60)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    wait_until(lambda: len(descendants()) <= before)
    assert sandbox.run("print(1)").stdout == "1\n"


def test_a_forked_host_process_is_told_to_open_its_own(sandbox: Sandbox) -> None:
    sandbox.run("pass")
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            for call in (lambda: sandbox.run("pass"), sandbox.session):
                try:
                    call()
                except SandboxError as error:
                    os.write(writing, f"{error}\n".encode())
            sandbox.close()
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as file:
        said = file.read().splitlines()
    os.waitpid(pid, 0)
    assert len(said) == 2
    assert all("open another one in this process" in line for line in said)
    assert sandbox.run("print(1)").stdout == "1\n"  # the child's close has not ended ours


HOST = """
import sys, threading, time
from palestra.envs.sandbox import open_sandbox
sandbox = open_sandbox(sys.argv[1])
for code in ("while True: pass", "import os, time\\nif os.fork() == 0: os.setsid()\\ntime.sleep(99)"):
    threading.Thread(target=sandbox.run, args=(code,), kwargs={"timeout": 99}, daemon=True).start()
session = sandbox.session() if sys.argv[1] == "unsafe-process" else None
time.sleep(1)
print("running", flush=True)
time.sleep(99)
"""


@pytest.mark.sandbox
def test_killing_the_host_leaves_nothing(
    wait_until: Callable[..., None], opener: Callable[[str], Any], tree: Callable[[int], set[int]]
) -> None:
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    with opener("local"):
        process = subprocess.Popen([sys.executable, "-c", HOST, "local"], stdout=subprocess.PIPE)
        assert process.stdout
        assert process.stdout.readline() == b"running\n"
        left = tree(process.pid)
        assert len(left) >= 5
        process.kill()
        killed = time.monotonic()
        wait_until(lambda: not any(alive(pid) for pid in left), 2)
        took = time.monotonic() - killed
        process.wait()
        process.stdout.close()
    assert took < 0.5  # 100 ms on a machine with nothing else to do
    assert Path("/proc/self/mountinfo").read_text(encoding="utf-8") == mounts


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


# The worker itself.


def start(command: Callable[[int], list[str]]) -> ProcessWorker:
    def launch(control: int) -> "subprocess.Popen[bytes]":
        null = subprocess.DEVNULL
        return subprocess.Popen(command(control), stdin=null, stdout=null, stderr=subprocess.PIPE, pass_fds=(control,))

    return ProcessWorker(launch, spares=0, new_group=None, settle=lambda child: None)


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("raise SystemExit('no room')", "the zygote ended: no room"),
        ("import os; os.write({control}, b'nonsense'); os.read({control}, 1)", "no packet"),
        ("pass", "the zygote ended"),
    ],
)
def test_a_zygote_that_does_not_come_up_says_why(program: str, said: str) -> None:
    with pytest.raises(SandboxError, match=said) as caught:
        start(lambda control: [sys.executable, "-S", "-c", program.format(control=control)])
    assert "did not start" in str(caught.value)


def test_a_zygote_that_cannot_be_started_says_why() -> None:
    with pytest.raises(SandboxError, match="No such file"):
        start(lambda control: ["/nonexistent/python"])


def test_a_bundle_is_cut_short_without_harm() -> None:
    source = memory_file(bundle("zygote", {}, [])[:100])
    process = subprocess.run(
        [sys.executable, *boot_arguments(source)], pass_fds=(source,), capture_output=True, text=True, check=False
    )
    os.close(source)
    assert process.returncode == 1
    assert "ended early" in process.stderr


def test_memory_files_cannot_be_changed() -> None:
    descriptor = memory_file(b"data")
    try:
        assert os.read(descriptor, 10) == b"data"
        with pytest.raises(PermissionError):
            os.write(descriptor, b"x")
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def test_a_result_of_a_closed_worker_is_an_error() -> None:
    with UnsafeProcess() as sandbox:
        assert isinstance(sandbox.run("print(1)"), ExecResult)
        future = sandbox.submit(LONG, timeout=60)
    with pytest.raises(SandboxError, match="closed"):
        future.result(10)
