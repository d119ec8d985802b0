"""What every backend promises about sessions and their files; `backends.py` says where one cannot, and why."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from backends import EVERY, keeping

from palestra.envs.sandbox import Sandbox, SessionEndedError
from palestra.envs.sandbox.base import MAX_FILE_BYTES


@pytest.fixture(params=EVERY)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def sandbox(backend: str, opened: Callable[[str], Sandbox]) -> Sandbox:
    return opened(backend)


def test_a_session_keeps_variables_and_shows_the_last_value(sandbox: Sandbox) -> None:
    with sandbox.session() as session:
        outputs = [
            session.run(cell).stdout for cell in ("a = 5", "a + 1", "print(a); None", "def f(): return a", "f()", "a;")
        ]
    assert outputs == ["", "6\n", "5\n", "", "5\n", "5\n"]


def test_a_session_is_a_main_module(sandbox: Sandbox) -> None:
    with sandbox.session() as session:
        session.run("class A: pass")
        cell = "import pickle, __main__\nprint(__name__, __main__.A is A, type(pickle.loads(pickle.dumps(A()))) is A)"
        assert session.run(cell).stdout == "__main__ True True\n"


@pytest.mark.parametrize(
    ("cell", "status", "stderr"),
    [
        ("1 / 0", "error", "ZeroDivisionError"),
        ("def f(:", "error", "SyntaxError"),
        ("raise MemoryError", "memory", "MemoryError"),
        ("raise SystemExit(3)", "error", ""),
        ("raise KeyboardInterrupt", "error", "KeyboardInterrupt"),
        ("'\ud800'", "error", "Error"),
        ("print(1)\0", "error", "Error"),
        ("class R:\n def __repr__(s): raise SystemExit(3)\nR()", "error", ""),
        ("class E(Exception):\n def __str__(s): raise KeyboardInterrupt\nraise E", "error", ""),
    ],
)
def test_an_error_in_a_cell_keeps_the_state(sandbox: Sandbox, cell: str, status: str, stderr: str) -> None:
    with sandbox.session() as session:
        session.run("a = 5")
        result = session.run(cell)
        assert (result.status, result.exit_code) == (status, 1)
        assert stderr in result.stderr
        assert session.alive
        assert session.run("a").stdout == "5\n"


def test_traceback_of_a_cell_shows_its_line(sandbox: Sandbox) -> None:
    with sandbox.session() as session:
        session.run("def f(x):\n    return x / 0")
        lines = session.run("f(3)").stderr.splitlines()
    assert "    return x / 0" in lines
    assert "    f(3)" in lines
    assert lines[-1] == "ZeroDivisionError: division by zero"


def test_every_cell_has_its_own_input_and_output(sandbox: Sandbox) -> None:
    with sandbox.session() as session:
        for text in ("one", "two"):
            result = session.run("import sys\nprint(sys.stdin.read())\nprint(3, file=sys.stderr)", stdin=text)
            assert (result.stdout, result.stderr) == (f"{text}\n", "3\n")


def test_a_cell_over_its_time_is_interrupted_and_keeps_the_state(sandbox: Sandbox) -> None:
    with sandbox.session() as session:
        session.run("import time; a = 5")
        for cell in ("while True: pass", "print('x', end=''); time.sleep(60)"):
            result = session.run(cell, timeout=0.3)
            assert (result.status, result.exit_code) == ("timeout", None)
            assert 0.3 <= result.wall_s < 3
            assert session.alive
        assert result.stdout == "x"
        assert session.run("a").stdout == "5\n"


@pytest.mark.parametrize(
    ("cell", "statuses"),
    [
        ("import os; os._exit(3)", {"error", "killed"}),
        ("import os; os._exit(0)", {"killed"}),
        ("import ctypes; ctypes.string_at(0)", {"killed"}),
        ("import time\nwhile True:\n try: time.sleep(9)\n except BaseException: pass", {"timeout"}),
        ("while True: print('x' * 1000)", {"output"}),
    ],
)
def test_a_cell_that_ends_its_interpreter_ends_the_session(sandbox: Sandbox, cell: str, statuses: set[str]) -> None:
    with sandbox.session() as session:
        session.run("a = 5")
        assert session.run(cell, timeout=20 if "output" in statuses else 0.5).status in statuses
        assert not session.alive
        with pytest.raises(SessionEndedError):
            session.run("a")
        with pytest.raises(SessionEndedError):
            session.write_file("a", b"")
        with pytest.raises(SessionEndedError):
            session.read_file("a")
        with pytest.raises(SessionEndedError):
            session.list_files()
    assert sandbox.run("print(1)").stdout == "1\n"


def test_sessions_do_not_see_each_other(sandbox: Sandbox) -> None:
    with sandbox.session() as one, sandbox.session() as other:
        one.run("a = 1; open('left', 'w').close()")
        assert other.run("import os; print('a' in globals(), os.path.exists('left'))").stdout == "False False\n"
        assert other.list_files() == []
        assert one.run("a").stdout == "1\n"


def test_cells_that_are_submitted_together_run_in_turn(sandbox: Sandbox) -> None:
    with sandbox.session() as session:
        session.run("import time; seen = []")
        futures = [session.submit(f"time.sleep({(3 - n) / 50}); seen.append({n})") for n in range(3)]
        assert [future.result().status for future in futures] == ["ok"] * 3
        assert session.run("seen").stdout == "[0, 1, 2]\n"


def test_cancelling_a_cell_ends_its_session(sandbox: Sandbox) -> None:
    with sandbox.session() as session:
        future = session.submit("import time; time.sleep(60)", timeout=120)
        time.sleep(0.1)
        future.cancel()
        with pytest.raises(SessionEndedError):
            session.run("1")
        assert not session.alive


def test_a_closed_session_refuses(sandbox: Sandbox) -> None:
    session = sandbox.session()
    session.close()
    session.close()
    assert not session.alive
    with pytest.raises(SessionEndedError):
        session.run("1")


def test_sessions_for_asyncio(sandbox: Sandbox) -> None:
    async def one(number: int) -> str:
        async with await sandbox.asession() as session:
            await session.arun(f"a = {number}")
            await asyncio.sleep(0.01)
            return (await session.arun("a")).stdout

    async def run() -> list[str]:
        return await asyncio.gather(*(one(n) for n in range(3)))

    assert asyncio.run(run()) == ["0\n", "1\n", "2\n"]


@pytest.mark.parametrize("timeout", [0, float("nan")])
def test_timeout_of_a_cell_must_be_a_time(sandbox: Sandbox, timeout: float) -> None:
    with sandbox.session() as session, pytest.raises(ValueError, match="timeout"):
        session.run("pass", timeout=timeout)


# Files of a session.


def test_files_go_into_a_session_and_come_out(sandbox: Sandbox) -> None:
    with sandbox.session() as session:
        session.write_file("d/e.txt", b"\x00\xff")
        assert session.run("open('d/e.txt', 'rb').read()").stdout == "b'\\x00\\xff'\n"
        session.run("open('d/f', 'w').write('abcdef'); open('z', 'w').close()")
        assert session.list_files() == ["d/e.txt", "d/f", "z"]
        assert session.read_file("d/f") == b"abcdef"
        assert session.read_file("d/f", 3) == b"abc"
        session.write_file("d/f", b"new")
        assert session.run("open('d/f').read()").stdout == "'new'\n"


def test_modules_in_the_working_folder_can_be_imported(sandbox: Sandbox) -> None:
    assert sandbox.run("import helper; print(helper.x)", files={"helper.py": b"x = 4"}).stdout == "4\n"
    with sandbox.session() as session:
        session.write_file("other.py", b"y = 5")
        assert session.run("import other; other.y").stdout == "5\n"


def test_the_largest_file_goes_in_and_comes_out(sandbox: Sandbox) -> None:
    data = os.urandom(1 << 20) * (MAX_FILE_BYTES >> 20)
    with sandbox.session() as session:
        session.write_file("big", data)
        assert session.read_file("big") == data
        with pytest.raises(ValueError, match="16 MiB"):
            session.write_file("bigger", data + b"x")


@keeping("links")
def test_links_pipes_and_folders_are_not_read(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret", encoding="utf-8")
    tmp_path.chmod(0o755)
    with sandbox.session() as session:
        session.run(
            f"import os\nos.symlink('{tmp_path}', 'folder')\nos.symlink('{tmp_path}/secret', 'file')\n"
            "os.mkfifo('pipe')\nos.mkdir('d')\nos.symlink('/etc/passwd', 'd/passwd')\nopen('real', 'w').close()"
        )
        for path in ("folder/secret", "file", "pipe", "d", "d/passwd", "missing", "real/x"):
            with pytest.raises(FileNotFoundError):
                session.read_file(path)
        assert session.list_files() == ["real"]
        with pytest.raises(FileNotFoundError):
            session.write_file("folder/planted", b"x")
        session.write_file("file", b"replaced")
        assert session.read_file("file") == b"replaced"
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
    assert (tmp_path / "secret").read_text(encoding="utf-8") == "secret"


@pytest.mark.parametrize("path", ["/etc/passwd", "../a", "", "a\0b"])
def test_paths_outside_a_session_are_refused(sandbox: Sandbox, path: str) -> None:
    with sandbox.session() as session:
        with pytest.raises(ValueError, match="relative path"):
            session.read_file(path)
        with pytest.raises(ValueError, match="relative path"):
            session.write_file(path, b"")


@keeping("odd names")
def test_odd_file_names_are_listed_as_text(sandbox: Sandbox) -> None:
    with sandbox.session() as session:
        session.run("for n in (b'\\xff', b'a\\nb', 'ü'.encode()): open(n, 'w').close()")
        assert session.list_files() == sorted(["\ufffd", "a\nb", "ü"])


def test_large_files_go_both_ways_at_once(sandbox: Sandbox, in_thread: Callable[..., Any]) -> None:
    data = bytes(8 << 20)
    with sandbox.session() as session:
        session.write_file("out", data)
        calls = [lambda: session.read_file("out"), lambda: session.write_file("in", data)]
        outcomes = [in_thread(call) for call in calls * 3]
        assert [outcome.get(60) for outcome in outcomes] == [data, None] * 3
