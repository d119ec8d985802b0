"""What every backend promises about itself; `backends.py` says where one cannot, and why."""

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from backends import EVERY, keeping

from palestra.envs.errors import UsageError
from palestra.envs.sandbox import Sandbox, SandboxError, SessionEndedError, open_sandbox


@pytest.fixture(params=EVERY)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def sandbox(backend: str, opened: Callable[[str], Sandbox]) -> Sandbox:
    return opened(backend)


def test_a_closed_sandbox_refuses(backend: str, opener: Callable[[str], AbstractContextManager[Sandbox]]) -> None:
    with opener(backend) as sandbox:
        session = sandbox.session()
    sandbox.close()
    for call in (lambda: sandbox.run("pass"), sandbox.session):
        with pytest.raises(SandboxError, match="closed"):
            call()
    with pytest.raises((SandboxError, SessionEndedError)):
        session.run("pass")


def test_closing_ends_what_runs(
    backend: str, opener: Callable[[str], AbstractContextManager[Sandbox]], in_thread: Callable[..., Any]
) -> None:
    with opener(backend) as sandbox:
        session = sandbox.session()
        running = [in_thread(lambda: session.run("while True: pass", timeout=60))]
        running += [in_thread(lambda: sandbox.run("while True: pass", timeout=60)) for _ in range(3)]
        time.sleep(0.5)
    assert {type(outcome.get(10)) for outcome in running} <= {SandboxError, SessionEndedError}


@keeping("descriptors")
def test_no_descriptor_is_left_open(sandbox: Sandbox) -> None:
    def use() -> None:
        for code in ("print(1)", "1 / 0", "while True: print('a' * 1000)", "import time; time.sleep(9)"):
            sandbox.run(code, stdin="x", files={"a": b"x"}, timeout=0.2)
        with sandbox.session() as session:
            session.run("1")
            session.write_file("a", b"x")
            session.read_file("a")
            session.list_files()

    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    use()
    before = count()
    for _ in range(3):
        use()
    deadline = time.monotonic() + 3
    while count() > before and time.monotonic() < deadline:
        time.sleep(0.01)  # a worker makes its spares again
    # Less than one for each use: other sandboxes of the test run come and go.
    assert count() - before < 3


def test_executions_are_counted(sandbox: Sandbox) -> None:
    before = sandbox.stats()
    sandbox.run("1 / 0")
    with sandbox.session() as session:
        session.run("1")
        session.run("2")
    after = sandbox.stats()
    assert after.executions - before.executions == 3
    assert (after.failed, after.retried) == (before.failed, before.retried)


def test_the_description_is_text(sandbox: Sandbox) -> None:
    facts = sandbox.describe()
    assert facts["isolation"]
    assert all(isinstance(text, str) for item in facts.items() for text in item)


def test_a_sandbox_has_the_name_that_opens_it(sandbox: Sandbox, backend: str) -> None:
    assert sandbox.name == backend


def test_an_unknown_name_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="did you mean 'local'"):
        open_sandbox("locla")
    with pytest.raises(UsageError, match="unknown sandbox ''"):
        open_sandbox("")
