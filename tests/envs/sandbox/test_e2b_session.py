"""Sessions of the sandbox `e2b`, by way of the official SDK, against a local server."""

import time
from collections.abc import Iterator

import pytest

pytest.importorskip("e2b_code_interpreter", reason="the extra e2b is not installed")

from e2b_server import FakeE2B, Make, until

from palestra.envs.sandbox.base import SandboxError, SessionEndedError
from palestra.envs.sandbox.e2b import E2BSandbox


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


def test_session_keeps_variables_and_shows_values(sandbox: E2BSandbox) -> None:
    with sandbox.session() as session:
        assert session.run("x = 20").stdout == ""
        assert session.run("def f(): return x + 1\nf() * 2").stdout == "42\n"
        assert session.run("None").stdout == ""


def test_sessions_do_not_see_each_other(sandbox: E2BSandbox) -> None:
    with sandbox.session() as one, sandbox.session() as other:
        one.run("x = 1; open('a', 'w').write('a')")
        assert "NameError" in other.run("x").stderr
        assert other.list_files() == []


@pytest.mark.parametrize(
    ("code", "status", "stdout", "stderr"),
    [
        (
            "1 / 0",
            "error",
            "",
            'Traceback (most recent call last):\n  File "<cell 1>", line 1, in <module>\n    1 / 0\n',
        ),
        ("raise MemoryError", "memory", "", "Traceback"),
        ("x = bytearray(3 << 30)", "memory", "", "Traceback"),
        ("raise SystemExit('why')", "error", "", "why\n"),
        ("raise SystemExit", "ok", "", ""),
        ("def f(:", "error", "", '  File "<cell 1>", line 1\n'),
        ("print(1)\0", "error", "", ""),
        ("input('? ') + input()", "ok", "? 'aäb'\n", ""),
        ("input(), input(), input()", "error", "", "Traceback"),
        ("import asyncio; asyncio.run(asyncio.sleep(0, 5))", "ok", "5\n", ""),
        ("print('\\ud800' == '\ud800')", "error", "", ""),
    ],
)
def test_cells(sandbox: E2BSandbox, code: str, status: str, stdout: str, stderr: str) -> None:
    with sandbox.session() as session:
        result = session.run(code, stdin="a\näb")
        assert (result.status, result.stdout) == (status, stdout)
        assert result.exit_code == int(status != "ok")
        assert result.stderr.startswith(stderr)
        assert session.run("'alive'").stdout == "'alive'\n"


def test_cell_over_its_time_is_interrupted_and_keeps_its_state(sandbox: E2BSandbox) -> None:
    with sandbox.session() as session:
        session.run("x = 1")
        result = session.run("import time; print('a'); x = 2; time.sleep(60)", timeout=0.5)
        assert (result.status, result.exit_code, result.stdout) == ("timeout", None, "a\n")
        assert 0.5 <= result.wall_s < 2
        assert session.alive
        assert session.run("x").stdout == "2\n"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("import time\nwhile True:\n try: time.sleep(60)\n except BaseException: pass", "timeout"),
        ("while True: print('a' * 1000)", "output"),
        ("import os; os._exit(0)", "killed"),
        ("import ctypes; ctypes.string_at(0)", "killed"),
    ],
)
def test_cell_may_end_its_session(service: FakeE2B, make: Make, code: str, status: str) -> None:
    session = make(warm=0).session()
    assert session.run(code, timeout=20 if status != "timeout" else 0.5).status == status
    assert not session.alive
    with pytest.raises(SessionEndedError):
        session.run("1")
    with pytest.raises(SessionEndedError):
        session.read_file("a")
    until(lambda: not service.machines)


def test_interpreter_that_was_replaced_unseen_is_not_taken_for_the_old_one(service: FakeE2B, make: Make) -> None:
    service.tells_restarts = False
    session = make(warm=0).session()
    assert session.run("import os; os._exit(0)", timeout=1).status == "timeout"
    assert not session.alive


def test_interpreter_that_the_service_lost_is_not_the_cells_failure(service: FakeE2B, make: Make) -> None:
    session = make(warm=0).session()
    service.loses_kernels = True
    with pytest.raises(SandboxError, match="E2B lost its interpreter"):
        session.run("1")


def test_cells_run_one_after_the_other(sandbox: E2BSandbox) -> None:
    with sandbox.session() as session:
        futures = [session.submit(f"import time; time.sleep(0.1); {number}") for number in range(4)]
        assert [future.result().stdout for future in futures] == ["0\n", "1\n", "2\n", "3\n"]
        assert all(future.result().wall_s < 0.3 for future in futures)


def test_files_of_a_session(sandbox: E2BSandbox) -> None:
    with sandbox.session() as session:
        data = bytes(range(256)) * 5000
        session.write_file("a/b/c.bin", data)
        session.run("import os; os.symlink('a', 'link'); os.symlink('a/b/c.bin', 'file'); os.mkfifo('pipe')")
        session.run("open('new', 'w').write('ä')")
        assert session.list_files() == ["a/b/c.bin", "new"]
        assert session.read_file("a/b/c.bin") == data
        assert session.read_file("a/b/c.bin", 300_000) == data[:300_000]
        assert session.read_file("new") == "ä".encode()
        for path in ("link/b/c.bin", "file", "pipe", "a", "nothing", "new/x"):
            with pytest.raises(FileNotFoundError):
                session.read_file(path)
        with pytest.raises(FileNotFoundError):
            session.write_file("a/b", b"")
        with pytest.raises(ValueError, match="relative path"):
            session.write_file("../x", b"")
        assert session.alive


def test_removed_folder_has_no_files(sandbox: E2BSandbox) -> None:
    with sandbox.session() as session:
        session.run("import os; os.rmdir(os.getcwd())")
        assert session.list_files() == []
        with pytest.raises(FileNotFoundError):
            session.read_file("a")
        assert session.alive


def test_beginning_of_an_endless_file_can_be_read(sandbox: E2BSandbox) -> None:
    with sandbox.session() as session:
        session.run("f = open('big', 'wb'); f.truncate(1 << 33)")
        assert session.read_file("big", 10) == bytes(10)


def test_closing_a_session_ends_a_running_cell_and_its_machine(service: FakeE2B, make: Make) -> None:
    session = make(warm=0).session()
    future = session.submit("import time; time.sleep(60)", timeout=60)
    time.sleep(0.3)
    session.close()
    session.close()
    assert future.result().status == "killed"
    assert not session.alive
    until(lambda: not service.machines)


def test_cancelling_a_cell_ends_its_session(service: FakeE2B, make: Make) -> None:
    session = make(warm=0).session()
    future = session.submit("import time; time.sleep(60)", timeout=60)
    time.sleep(0.3)
    future.cancel()
    until(lambda: not service.machines)
    assert not session.alive


@pytest.mark.parametrize("status", [401, 500, 502])
@pytest.mark.parametrize(
    "request_", ["POST /contexts", "POST /filesystem.Filesystem/MakeDir", "POST /execute", "POST /v2/sandboxes"]
)
def test_opening_a_session_is_tried_twice(service: FakeE2B, make: Make, request_: str, status: int) -> None:
    sandbox = make(warm=0)
    service.fail(request_, status)
    with sandbox.session() as session:
        assert session.run("1").stdout == "1\n"


@pytest.mark.parametrize("status", [401, 500, 502])
def test_failure_of_the_service_is_not_the_cells(service: FakeE2B, make: Make, status: int) -> None:
    sandbox = make(warm=0)
    session = sandbox.session()
    session.run("x = 1")
    service.fail("POST /execute", status)
    with pytest.raises(SandboxError, match="E2B could not run a cell"):
        session.run("x")
    assert not session.alive
    stats = sandbox.stats()
    assert (stats.executions, stats.failed, stats.workers_replaced) == (1, 1, 1)
    assert stats.last_failure


def test_machine_that_ends_under_a_cell_is_not_the_cells_failure(service: FakeE2B, make: Make) -> None:
    session = make(warm=0).session()
    future = session.submit("import time; time.sleep(60)", timeout=60)
    time.sleep(0.3)
    service.end(service.made[0])
    with pytest.raises(SandboxError):
        future.result()
    with pytest.raises(SessionEndedError):
        session.run("1")


def test_cell_that_the_service_does_not_start_is_not_too_slow(service: FakeE2B) -> None:
    with E2BSandbox(connection=service.connection(answer_limit_s=1), warm=0) as sandbox:
        session = sandbox.session()
        service.fail("POST /execute", 0)
        with pytest.raises(SandboxError, match="did not start a cell"):
            session.run("1", timeout=0.2)
