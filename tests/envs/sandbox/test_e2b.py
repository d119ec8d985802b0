"""The sandbox `e2b`, by way of the official SDK, against a local server that speaks the service's protocol."""

import asyncio
import base64
import contextlib
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest

pytest.importorskip("e2b_code_interpreter", reason="the extra e2b is not installed")

from e2b_machine import Machine
from e2b_server import FakeE2B, Make, until

from palestra.envs.errors import MissingPrerequisiteError, UsageError
from palestra.envs.sandbox import e2b_cloud
from palestra.envs.sandbox.base import KEPT_BYTES, Limits, SandboxError
from palestra.envs.sandbox.e2b import E2BSandbox, read_report
from palestra.envs.sandbox.e2b_cloud import ask


@pytest.fixture(scope="module")
def shared() -> Iterator[FakeE2B]:
    with FakeE2B() as service:
        yield service


@pytest.fixture(scope="module")
def sandbox(shared: FakeE2B) -> Iterator[E2BSandbox]:
    with E2BSandbox(connection=shared.connection()) as opened:
        yield opened


@pytest.fixture
def service() -> Iterator[FakeE2B]:
    with FakeE2B() as opened:
        yield opened


@pytest.fixture
def make(service: FakeE2B) -> Iterator[Make]:
    with service.sandboxes() as make:
        yield make


# Programs.


@pytest.mark.parametrize(
    ("code", "status", "exit_code", "stdout"),
    [
        ("print(6 * 7)", "ok", 0, "42\n"),
        ("raise SystemExit(3)", "error", 3, ""),
        ("print(1); 1 / 0", "error", 1, "1\n"),
        ("raise MemoryError", "memory", 113, ""),
        ("import ctypes; ctypes.string_at(0)", "killed", 139, ""),
        ("import time; print('a', end=''); time.sleep(60)", "timeout", None, "a"),
        ("def f(:", "error", 1, ""),
        ("", "ok", 0, ""),
    ],
)
def test_status_tells_how_it_ended(
    sandbox: E2BSandbox, code: str, status: str, exit_code: int | None, stdout: str
) -> None:
    result = sandbox.run(code, timeout=2)
    assert (result.status, result.exit_code, result.stdout) == (status, exit_code, stdout)


def test_memory_is_limited(shared: FakeE2B) -> None:
    with E2BSandbox(Limits(memory_mib=100), connection=shared.connection()) as small:
        assert small.run("x = bytearray(50 << 20)").status == "ok"
        assert small.run("x = bytearray(150 << 20)").status == "memory"


def test_threads_are_limited(shared: FakeE2B) -> None:
    code = "import threading, time\nfor _ in range(50): threading.Thread(target=time.sleep, args=(0.5,)).start()"
    with E2BSandbox(Limits(tasks=9, memory_mib=4096), connection=shared.connection()) as small:
        assert "can't start new thread" in small.run(code).stderr


def test_code_is_an_ordinary_main_module(sandbox: E2BSandbox) -> None:
    code = "import sys, __main__\nprint(__name__, sys.argv == [__file__], vars(__main__) is globals())"
    assert sandbox.run(code).stdout == "__main__ True True\n"


def test_traceback_shows_the_code_and_nothing_of_ours(sandbox: E2BSandbox) -> None:
    lines = sandbox.run("x = 1\nx / 0").stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].endswith('main.py", line 2, in <module>')
    assert lines[2].strip() == "x / 0"
    assert lines[-1] == "ZeroDivisionError: division by zero"


def test_stdin_is_read_to_its_end(sandbox: E2BSandbox) -> None:
    text = "ä\n" * 200_000
    assert sandbox.run("import sys; print(len(sys.stdin.read()))", stdin=text).stdout == f"{len(text)}\n"
    assert sandbox.run("print(repr(input()))").stderr.endswith("EOFError: EOF when reading a line\n")


def test_files_are_there_before_the_code_starts(sandbox: E2BSandbox) -> None:
    files = {"a.bin": bytes(range(256)), "deep/er/b": b""}
    result = sandbox.run(
        "print(open('a.bin', 'rb').read() == bytes(range(256)), open('deep/er/b').read())", files=files
    )
    assert result.stdout == "True \n"
    assert sandbox.run("open('deep/new', 'w').write('x')", files=files).status == "ok"


def test_output_beyond_64_kib_is_dropped(sandbox: E2BSandbox) -> None:
    result = sandbox.run("import sys\nprint('a' * 100_000 + 'b')\nprint('c' * 100_000, file=sys.stderr)")
    assert (result.status, result.stdout, result.stderr) == ("ok", "a" * KEPT_BYTES, "c" * KEPT_BYTES)


def test_endless_output_is_stopped(sandbox: E2BSandbox) -> None:
    result = sandbox.run("while True: print('a' * 1000)", timeout=60)
    assert (result.status, result.exit_code) == ("output", None)
    assert result.wall_s < 30


def test_long_source_is_run(sandbox: E2BSandbox) -> None:
    assert sandbox.run("#" + "x" * 5_000_000 + "\nprint(1)").stdout == "1\n"


@pytest.mark.parametrize("code", ["print('\ud800')", "print(1)\0", "\ufeffprint(1)\n\x0c\r", "\x1a\x04"])
def test_no_text_makes_the_host_raise(sandbox: E2BSandbox, code: str) -> None:
    assert sandbox.run(code).status in ("ok", "error")


def test_output_of_equal_programs_is_equal(sandbox: E2BSandbox) -> None:
    code = "print({str(i) for i in range(50)}, hash('a'))"
    assert len({sandbox.run(code).stdout for _ in range(3)}) == 1


def test_times_are_those_of_the_code(sandbox: E2BSandbox) -> None:
    asleep = sandbox.run("import time; time.sleep(0.5)")
    assert 0.4 <= asleep.wall_s < 2
    assert asleep.cpu_s < 0.4
    busy = sandbox.run("while True: pass", timeout=0.5)
    assert busy.status == "timeout"
    assert 0.5 <= busy.wall_s < 2
    assert busy.cpu_s > 0.1


def test_every_program_has_a_machine_of_its_own(service: FakeE2B, make: Make) -> None:
    sandbox = make(warm=0)
    sandbox.run("open('/tmp/left', 'w')")
    sandbox.run("pass")
    assert [machine.commands for machine in service.made] == [1, 1]


def test_code_sees_no_environment_of_the_machine(sandbox: E2BSandbox) -> None:
    names = sandbox.run("import os; print(*sorted(os.environ))").stdout.split()
    assert names == ["HOME", "LANG", "MALLOC_ARENA_MAX", "PATH", "PYTHONHASHSEED"]


@pytest.mark.skipif(os.geteuid() != 0, reason="the machine's root is played by root")
@pytest.mark.parametrize(
    "code",
    [
        "import os; os.kill(os.getppid(), 0)",
        "import os; open(f'/proc/{os.getppid()}/fd/1', 'w')",
        "import os; os.setuid(0)",
        "import os; os.nice(-1)",
    ],
)
def test_code_cannot_reach_its_supervisor(sandbox: E2BSandbox, code: str) -> None:
    assert "PermissionError" in sandbox.run(code).stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="the machine's root is played by root")
def test_code_cannot_reach_the_services_of_the_machine(shared: FakeE2B, sandbox: E2BSandbox) -> None:
    port = shared.url.rpartition(":")[2]
    result = sandbox.run(f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)")
    assert "ConnectionRefusedError" in result.stderr
    own = "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname())"
    assert sandbox.run(own).status == "ok"


# Failures of the service.


@pytest.mark.parametrize("status", [401, 404, 429, 500, 502])
@pytest.mark.parametrize("request_", ["POST /v2/sandboxes", "POST /files", "POST /process.Process/Start"])
def test_one_failure_of_the_service_is_made_up_for(service: FakeE2B, make: Make, request_: str, status: int) -> None:
    service.fail(request_, status)
    sandbox = make(warm=0)
    assert sandbox.run("print(1)").stdout == "1\n"
    stats = sandbox.stats()
    by_the_sdk = request_ == "POST /v2/sandboxes" and status in (429, 502)
    assert (stats.executions, stats.retried, stats.failed) == (1, int(not by_the_sdk), 0)
    assert stats.workers_replaced == int(request_ != "POST /v2/sandboxes")


@pytest.mark.parametrize("status", [401, 429, 500, 502])
def test_lasting_failure_of_the_service_is_an_error_of_the_sandbox(service: FakeE2B, make: Make, status: int) -> None:
    sandbox = make(warm=0)
    service.fail("POST /process.Process/Start", status, times=2)
    with pytest.raises(SandboxError, match="E2B could not run the code"):
        sandbox.run("print(1)")
    stats = sandbox.stats()
    assert (stats.executions, stats.retried, stats.failed, stats.workers_replaced) == (0, 1, 1, 2)
    assert "E2B could not run the code" in stats.last_failure


def test_too_many_requests_are_an_error_in_the_end(service: FakeE2B, make: Make) -> None:
    service.fail("POST /v2/sandboxes", 429, times=8)
    with pytest.raises(SandboxError, match="RateLimit"):
        make(warm=0).run("print(1)")


def test_machine_that_ends_while_the_code_runs_is_replaced(service: FakeE2B, make: Make) -> None:
    sandbox = make(warm=0)
    future = sandbox.submit("import time; time.sleep(0.5); print(1)")
    until(lambda: service.made and service.made[0].commands)
    time.sleep(0.2)
    service.end(service.made[0])
    assert future.result().stdout == "1\n"
    assert sandbox.stats().retried == 1


def test_dead_spares_are_no_failure(service: FakeE2B, make: Make) -> None:
    sandbox = make(warm=3)
    sandbox.run("pass")
    until(lambda: len(service.machines) == 3)
    for machine in list(service.machines.values()):
        service.end(machine)
    assert sandbox.run("print(1)").stdout == "1\n"


def test_service_that_does_not_answer_is_given_up(service: FakeE2B) -> None:
    service.fail("POST /files", 0, times=2)
    with (
        E2BSandbox(connection=service.connection(answer_limit_s=0.5), warm=0) as sandbox,
        pytest.raises(SandboxError, match=r"E2B (did not|could not) take a file"),
    ):
        sandbox.run("print(1)")
    assert service.machines == {}


def test_unreachable_service_is_an_error_of_the_sandbox(service: FakeE2B) -> None:
    nowhere = service.connection(api_url="http://127.0.0.1:9", answer_limit_s=0.3)
    with (
        E2BSandbox(connection=nowhere, warm=0) as sandbox,
        pytest.raises(SandboxError, match="E2B (did|could) not make a machine"),
    ):
        sandbox.run("print(1)")


def test_wrong_key_is_an_error_of_the_sandbox(service: FakeE2B) -> None:
    with (
        E2BSandbox(connection=service.connection(api_key="e2b_wrong")) as sandbox,
        pytest.raises(SandboxError, match="Invalid API key"),
    ):
        sandbox.run("print(1)")


def _report(**changes: Any) -> str:
    ended = {"ended_by": "itself", "exit_code": 0, "out_of_memory": False, "nobody_left": True}
    output = {"wall_s": 1.0, "cpu_s": 0.5, "stdout": base64.b64encode(b"a").decode(), "stderr": ""}
    return json.dumps({**ended, **output, **changes})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        "x",
        _report(stdout=1),
        _report(stdout="?"),
        _report(exit_code="x"),
        _report(wall_s=None),
    ],
)
def test_nonsense_is_no_report(text: str) -> None:
    with pytest.raises(SandboxError, match="no report"):
        read_report(text)


def test_code_that_never_started_is_not_to_blame() -> None:
    with pytest.raises(SandboxError, match="did not start the code: why"):
        read_report(_report(ended_by="start", stderr=base64.b64encode(b"why").decode()))


@pytest.mark.parametrize(
    ("exit_code", "out_of_memory", "status"),
    [(0, False, "ok"), (1, False, "error"), (113, False, "memory"), (137, False, "killed"), (137, True, "memory")],
)
def test_report_is_classified(exit_code: int, out_of_memory: bool, status: str) -> None:
    result, clean = read_report(_report(exit_code=exit_code, out_of_memory=out_of_memory))
    assert (result.status, result.exit_code, result.stdout, clean) == (status, exit_code, "a", True)


# Opening and closing.


def test_opening_asks_nothing_of_the_service(service: FakeE2B, make: Make) -> None:
    sandbox = make()
    sandbox.describe()
    sandbox.close()
    assert service.requests == []


def test_missing_key_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("E2B_API_KEY", raising=False)
    with pytest.raises(MissingPrerequisiteError, match="set E2B_API_KEY"):
        E2BSandbox()


def test_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "e2b_code_interpreter", None)
    with pytest.raises(MissingPrerequisiteError, match="pip install e2b-code-interpreter"):
        E2BSandbox()


@pytest.mark.parametrize(
    "options", [{"in_flight": 0}, {"warm": -1}, {"executions_per_sandbox": 0}, {"limits": Limits(processes=False)}]
)
def test_options_out_of_range_are_usage_errors(service: FakeE2B, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        E2BSandbox(connection=service.connection(), **options)


def test_key_is_not_shown(service: FakeE2B) -> None:
    assert "e2b_0" not in repr(service.connection())


def test_closing_kills_every_machine_also_those_being_made(service: FakeE2B, make: Make) -> None:
    sandbox = make(warm=4)
    sandbox.run("pass")
    service.delay_create_s = 0.4
    session = sandbox.session()
    future = sandbox.submit("import time; time.sleep(60)")
    time.sleep(0.1)
    sandbox.close()
    assert service.machines == {}
    assert len(service.made) >= 6
    with pytest.raises(SandboxError, match="closed"):
        future.result()
    with pytest.raises(SandboxError, match="closed"):
        session.run("1")
    session.close()


def test_closing_kills_machines_that_nobody_knows_of(service: FakeE2B, make: Make) -> None:
    sandbox = make(warm=0)
    service.lose_answer("POST /v2/sandboxes")
    assert sandbox.run("print(1)").stdout == "1\n"
    until(lambda: len(service.machines) == 1)
    sandbox.close()
    assert service.machines == {}


def test_closing_kills_machines_that_were_not_killed_at_once(service: FakeE2B, make: Make) -> None:
    service.fail("DELETE /sandboxes/.*", 500)
    sandbox = make(warm=0)
    sandbox.run("pass")
    sandbox.close()
    assert service.machines == {}


def test_closing_leaves_machines_of_others(service: FakeE2B, make: Make) -> None:
    mine, other = make(warm=1), make(warm=1)
    mine.run("pass")
    other.run("pass")
    mine.close()
    assert service.machines
    assert other.run("print(1)").stdout == "1\n"


def test_closed_sandbox_refuses(make: Make) -> None:
    sandbox = make()
    sandbox.close()
    sandbox.close()
    with pytest.raises(SandboxError, match="closed"):
        sandbox.run("pass")
    with pytest.raises(SandboxError, match="closed"):
        sandbox.session()


def test_forgotten_sandbox_is_closed(service: FakeE2B) -> None:
    E2BSandbox(connection=service.connection()).run("pass")
    gc.collect()
    until(lambda: not service.machines)


def test_ending_process_leaves_no_machine(service: FakeE2B) -> None:
    code = "from palestra.envs.sandbox.e2b import E2BSandbox; s = E2BSandbox(); print(s.run('print(1)').stdout)"
    urls = {
        "E2B_API_KEY": service.connection().api_key or "",
        "E2B_API_URL": service.url,
        "E2B_SANDBOX_URL": service.url,
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **urls}, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("1\n\n", "")
    assert service.made
    assert service.machines == {}


def test_machines_are_marked_and_end_with_their_host(service: FakeE2B, make: Make) -> None:
    make(warm=0, life_s=77).run("pass")
    request = service.made[0].request
    assert request["timeout"] == 77
    assert request["allow_internet_access"] is False
    assert request["metadata"]["suite"] == "palestra"
    assert request["metadata"]["pid"] == str(os.getpid())


def test_waiting_machines_are_kept_alive(service: FakeE2B, make: Make) -> None:
    sandbox = make(warm=1, life_s=1)
    sandbox.run("pass")
    session = sandbox.session()
    session.run("x = 1")
    time.sleep(2)
    assert session.run("x").stdout == "1\n"
    assert sandbox.run("print(1)").stdout == "1\n"
    assert sandbox.stats().workers_replaced == 0


# Several at once.


def test_no_more_run_at_once_than_allowed(service: FakeE2B, make: Make) -> None:
    sandbox = make(in_flight=3)
    futures = [sandbox.submit(f"import time; time.sleep(0.2); print({number})") for number in range(9)]
    assert [future.result().stdout for future in futures] == [f"{number}\n" for number in range(9)]
    assert service.most_at_once == 3


def _running(service: FakeE2B) -> list[Machine]:
    return [machine for machine in list(service.machines.values()) if machine.commands]


def test_cancelled_execution_is_killed(service: FakeE2B, make: Make) -> None:
    sandbox = make(warm=0)
    future = sandbox.submit("import time; time.sleep(60)", timeout=60)
    until(lambda: _running(service))
    assert future.cancel()
    until(lambda: not service.machines)
    assert sandbox.run("print(1)").stdout == "1\n"


def test_cancelled_task_kills_the_execution(service: FakeE2B, make: Make) -> None:
    async def impatient(sandbox: E2BSandbox) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(sandbox.arun("import time; time.sleep(60)", timeout=60), 1)

    asyncio.run(impatient(make(warm=0)))
    until(lambda: not service.machines)


async def _swallows() -> None:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        await asyncio.sleep(60)


async def _translates() -> None:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError as error:
        raise ValueError("Request was cancelled") from error


async def _outlives_us() -> None:
    ends = time.monotonic() + 1
    while time.monotonic() < ends:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("answer", [_swallows, _translates, _outlives_us])
def test_neither_cancellation_nor_time_limit_depend_on_the_sdk(
    answer: Callable[[], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`asyncio.wait_for` of Python 3.11 can lose a cancellation, and connectrpc raises an error of its own."""
    monkeypatch.setattr(e2b_cloud, "_CANCELLATIONS", 3)

    async def cancelled() -> None:
        asked = asyncio.create_task(ask("answer", answer(), None))
        await asyncio.sleep(0.01)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(asked, 10)

    async def late() -> None:
        with pytest.raises(SandboxError, match="did not answer within 0.01 s"):
            await asyncio.wait_for(ask("answer", answer(), 0.01), 10)

    asyncio.run(cancelled())
    asyncio.run(late())


def test_cancelled_before_its_turn_never_runs(service: FakeE2B, make: Make) -> None:
    sandbox = make(in_flight=1, warm=0)
    first = sandbox.submit("import time; time.sleep(0.5)")
    second = sandbox.submit("print(2)")
    second.cancel()
    first.result()
    with pytest.raises(CancelledError):
        second.result()
    assert sandbox.run("print(3)").stdout == "3\n"
    assert len(service.made) == 2


# Machines used again.


def test_machine_is_used_as_often_as_allowed(service: FakeE2B, make: Make) -> None:
    sandbox = make(executions_per_sandbox=3, warm=0)
    for _ in range(6):
        sandbox.run("pass")
    assert [machine.commands for machine in service.made] == [3, 3]


def test_machine_where_something_is_left_running_is_not_used_again(service: FakeE2B, make: Make) -> None:
    sandbox = make(executions_per_sandbox=9, warm=0)
    left = "import subprocess as s; s.Popen(['sleep', '60'], stdin=-3, stdout=-3, stderr=-3, start_new_session=True)"
    assert sandbox.run(left).status == "ok"
    assert sandbox.run("print(1)").stdout == "1\n"
    assert [machine.commands for machine in service.made] == [1, 1]
