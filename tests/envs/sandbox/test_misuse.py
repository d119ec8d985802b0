"""What callers get wrong: it is refused or raised at once, ends no worker, and leaves nobody waiting."""

from collections.abc import Iterator
from typing import Any

import pytest

from palestra.envs.sandbox import Limits, Sandbox, SandboxError, SessionEndedError
from palestra.envs.sandbox.pool import PoolSandbox
from palestra.envs.sandbox.unsafe import UnsafeProcess
from palestra.envs.sandbox.worker import Worker


@pytest.fixture
def unsafe() -> Iterator[Sandbox]:
    with UnsafeProcess() as sandbox:
        yield sandbox


def test_more_cells_than_python_recurses_are_all_answered(unsafe: Sandbox) -> None:
    session = unsafe.session()
    cells = [
        session.submit("import os, time; time.sleep(1); os._exit(1)"),
        *(session.submit("1") for _ in range(3000)),
    ]
    assert cells[0].result(20).status == "error"
    for cell in cells[1:]:
        with pytest.raises(SessionEndedError):
            cell.result(20)


def test_a_file_error_of_the_caller_is_raised_and_ends_nothing(unsafe: Sandbox) -> None:
    with unsafe.session() as session:
        session.run("x = 1")
        with pytest.raises(TypeError, match="must be bytes, not str"):
            session.write_file("a", "text")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="Unicode"):
            session.read_file("a\ud800")
        session.write_file("a", b"text")
        with pytest.raises(TypeError):
            session.read_file("a", 1.5)  # type: ignore[arg-type]
        assert session.run("x").stdout == "1\n"
    assert unsafe.stats().workers_replaced == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"timeout": 1e300}, "at most a day"),
        ({"files": {"main.py": b""}}, "the code itself"),
        ({"files": {"a": b"", "a/b": b""}}, "cannot be a file and the folder"),
        ({"files": {"\udc80": b""}}, "Unicode"),
    ],
)
def test_what_no_worker_could_do_is_refused_at_once(unsafe: Sandbox, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unsafe.run("pass", **arguments)


@pytest.mark.parametrize(
    "limits", [{"tasks": 0}, {"files": 0}, {"memory_mib": -1}, {"tmp_mib": 1 << 30}, {"tasks": "9"}]
)
def test_limits_that_make_no_sense_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"Limits.{next(iter(limits))} must be"):
        Limits(**limits)


def test_a_worker_that_cannot_be_replaced_fails_who_waits(unsafe: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Worker:
        raise RuntimeError("can't start new thread")

    assert isinstance(unsafe, PoolSandbox)
    monkeypatch.setattr(unsafe, "_make", broken)
    unsafe._places[0].worker.failed = "ended"
    with pytest.raises(SandboxError, match="no worker: can't start new thread"):
        unsafe.submit("print(1)").result(20)
