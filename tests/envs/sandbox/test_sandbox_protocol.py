"""The semantics that every process backend shares."""

import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from palestra.envs.errors import UsageError
from palestra.envs.sandbox import Sandbox, SandboxError, open_sandbox
from palestra.envs.sandbox.base import KEPT_BYTES
from palestra.envs.sandbox.process import MAX_SOURCE_BYTES, Stream, classify


@pytest.fixture(params=["unsafe-process", pytest.param("local", marks=pytest.mark.sandbox)])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    if request.param == "local":
        yield request.getfixturevalue("local")
        return
    with open_sandbox(request.param) as opened:
        yield opened


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
    sandbox: Sandbox, code: str, status: str, exit_code: int | None, stdout: str
) -> None:
    result = sandbox.run(code, timeout=2)
    assert (result.status, result.exit_code, result.stdout) == (status, exit_code, stdout)


def test_code_is_an_ordinary_main_module(sandbox: Sandbox) -> None:
    code = "import sys, __main__\nprint(__name__, sys.argv == [__file__], vars(__main__) is globals())"
    assert sandbox.run(code).stdout == "__main__ True True\n"


def test_traceback_shows_the_code_and_nothing_of_ours(sandbox: Sandbox) -> None:
    lines = sandbox.run("x = 1\nx / 0").stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].endswith('main.py", line 2, in <module>')
    assert lines[2].strip() == "x / 0"
    assert lines[-1] == "ZeroDivisionError: division by zero"


def test_stdin_is_read_to_its_end(sandbox: Sandbox) -> None:
    text = "ä\n" * 200_000  # more than any pipe holds
    assert sandbox.run("import sys; print(len(sys.stdin.read()))", stdin=text).stdout == f"{len(text)}\n"
    assert sandbox.run("print(repr(input()))").stderr.endswith("EOFError: EOF when reading a line\n")


def test_output_beyond_64_kib_is_dropped(sandbox: Sandbox) -> None:
    result = sandbox.run("import sys\nprint('a' * 100_000 + 'b')\nprint('c' * 100_000, file=sys.stderr)")
    assert result.status == "ok"
    assert (result.stdout, result.stderr) == ("a" * KEPT_BYTES, "c" * KEPT_BYTES)


def test_endless_output_is_stopped(sandbox: Sandbox) -> None:
    result = sandbox.run("while True: print('a' * 1000)", timeout=60)
    assert (result.status, result.exit_code) == ("output", None)
    assert result.wall_s < 30


def test_long_source_is_run_and_an_absurd_one_is_an_error(sandbox: Sandbox) -> None:
    assert sandbox.run("#" + "x" * 5_000_000 + "\nprint(1)").stdout == "1\n"
    result = sandbox.run("#" * (MAX_SOURCE_BYTES + 1))
    assert result.status == "error"
    assert "longer than 8 MiB" in result.stderr


@pytest.mark.parametrize("code", ["print('\ud800')", "print(1)\0", "\ufeffprint(1)\n\x0c\r", "\x1a\x04"])
def test_no_text_makes_the_host_raise(sandbox: Sandbox, code: str) -> None:
    assert sandbox.run(code).status in ("ok", "error")


def test_runs_do_not_see_each_other(sandbox: Sandbox) -> None:
    sandbox.run("open('left', 'w').write('x')\nimport builtins; builtins.left = 1")
    result = sandbox.run("import os; print(os.path.exists('left'), 'left' in dir(__builtins__))")
    assert result.stdout == "False False\n"


def test_output_of_equal_programs_is_equal(sandbox: Sandbox) -> None:
    code = "print({str(i) for i in range(50)}, hash('a'))"
    assert len({sandbox.run(code).stdout for _ in range(3)}) == 1


def test_timeout_counts_wall_time(sandbox: Sandbox) -> None:
    began = time.monotonic()
    result = sandbox.run("while True: pass", timeout=0.3)
    assert result.status == "timeout"
    assert 0.3 <= result.wall_s <= time.monotonic() - began < 3


def test_threads_may_run_at_once(sandbox: Sandbox) -> None:
    results: dict[int, Any] = {}

    def run(number: int) -> None:
        results[number] = sandbox.run(f"import time; time.sleep(0.2); print({number})").stdout

    threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: f"{number}\n" for number in range(6)}


def test_no_descriptor_is_left_open(sandbox: Sandbox) -> None:
    sandbox.run("pass")
    before = sorted(os.listdir("/proc/self/fd"))
    for code in ("print(1)", "1 / 0", "while True: print('a' * 1000)", "import time; time.sleep(9)"):
        sandbox.run(code, stdin="x", timeout=0.2)
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_timeout_must_be_a_time(sandbox: Sandbox, timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        sandbox.run("pass", timeout=timeout)


def test_closed_sandbox_refuses() -> None:
    with open_sandbox("unsafe-process") as sandbox:
        pass
    sandbox.close()
    with pytest.raises(SandboxError, match="closed"):
        sandbox.run("pass")


def test_unknown_name_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="did you mean 'local'"):
        open_sandbox("locla")
    with pytest.raises(UsageError, match="unknown sandbox ''"):
        open_sandbox("")


@pytest.mark.parametrize(
    ("exit_code", "status"),
    [(0, "ok"), (1, "error"), (113, "memory"), (137, "killed"), (128, "error"), (255, "error")],
)
def test_exit_codes_are_classified(exit_code: int, status: str) -> None:
    assert classify(exit_code) == status


def test_stream_keeps_the_beginning_and_counts_the_rest() -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    stream = Stream(reading)
    assert not stream.read()
    for _ in range(3):
        os.write(writing, b"x" * 40_000)
        while stream.read():
            pass
    os.close(writing)
    assert not stream.read()
    os.close(reading)
    assert (len(stream.kept), stream.total, stream.ended) == (KEPT_BYTES, 120_000, True)
