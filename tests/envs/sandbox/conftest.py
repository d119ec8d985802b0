"""Sandboxes for tests: one of each backend per session, opened when the first test asks for it.

Where a prerequisite is missing a test skips, and fails if `PALESTRA_REQUIRE_SANDBOX=1` (bubblewrap) or
`PALESTRA_REQUIRE_DOCKER=1` says that it has to be there.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from stalls import machine_clock

from palestra.envs.errors import MissingPrerequisiteError
from palestra.envs.sandbox import Sandbox, containers, open_sandbox
from palestra.envs.sandbox.local import LocalSandbox

if TYPE_CHECKING:
    from docker.client import DockerClient

REQUIRED_BY = {"local": "PALESTRA_REQUIRE_SANDBOX", "docker": "PALESTRA_REQUIRE_DOCKER"}


def _open(name: str) -> Sandbox:
    try:
        return open_sandbox(name)
    except MissingPrerequisiteError as error:
        if os.environ.get(REQUIRED_BY[name]) == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))


def _open_e2b() -> AbstractContextManager[Sandbox]:
    pytest.importorskip("e2b_code_interpreter")
    from e2b_server import open_e2b_for_tests

    # A few machines are used again and again: making one takes most of the time of a test.
    return open_e2b_for_tests(executions_per_sandbox=10_000, in_flight=4, warm=0)


@pytest.fixture(scope="session")
def local() -> Iterator[LocalSandbox]:
    with _open("local") as sandbox:
        assert isinstance(sandbox, LocalSandbox)
        yield sandbox


@pytest.fixture(scope="session")
def docker() -> Iterator[Sandbox]:
    with _open("docker") as sandbox:
        yield sandbox


@pytest.fixture
def daemon() -> Iterator["DockerClient"]:
    """The SDK's client of the daemon."""
    try:
        client = containers.connect()
    except MissingPrerequisiteError as error:
        if os.environ.get(REQUIRED_BY["docker"]) == "1":
            raise
        pytest.skip(str(error))
    with closing(client):
        yield client


@pytest.fixture(scope="session")
def e2b() -> Iterator[Sandbox]:
    with _open_e2b() as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def unsafe() -> Iterator[Sandbox]:
    with open_sandbox("unsafe-process") as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def opened(request: pytest.FixtureRequest) -> Callable[[str], Sandbox]:
    """Gives the sandbox of a backend, by its name."""
    fixtures = {"unsafe-process": "unsafe"}
    return lambda name: request.getfixturevalue(fixtures.get(name, name))


@pytest.fixture(scope="session")
def opener() -> Callable[[str], AbstractContextManager[Sandbox]]:
    """Opens another sandbox of a backend, for tests that close or break it."""
    return lambda name: _open_e2b() if name == "e2b" else _open(name)


@pytest.fixture(scope="session")
def clock() -> Iterator[Callable[[], float]]:
    """Seconds, for bounds on what an attack may take; see `stalls`."""
    with machine_clock() as clock:
        yield clock


@pytest.fixture(scope="session")
def descendants() -> Callable[[], set[int]]:
    """Finds the pids, as the host sees them, of everything that this process started and that still runs."""
    return lambda: below(os.getpid())


@pytest.fixture(scope="session")
def tree() -> Callable[[int], set[int]]:
    """Finds the pids of everything that a process started and that still runs."""
    return below


def below(pid: int) -> set[int]:
    """Find everything that a process started and that still runs."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] not in "ZX":
                parents[int(folder.name)] = int(fields[1])
    found: set[int] = set()
    fresh = {pid}
    while fresh:
        fresh = {child for child, parent in parents.items() if parent in fresh} - found
        found |= fresh
    return found


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """Waits for a condition, and fails if it does not come true."""

    def wait(condition: Callable[[], object], seconds: float = 5.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"still not so after {seconds} s"
            time.sleep(0.005)

    return wait


@pytest.fixture
def in_thread() -> Iterator[Callable[[Callable[[], object]], "Outcome"]]:
    """Runs a call in a thread, and tells its value or error."""
    started: list[Outcome] = []

    def start(call: Callable[[], object]) -> Outcome:
        started.append(Outcome(call))
        return started[-1]

    yield start
    for outcome in started:
        outcome.thread.join(30)
        assert not outcome.thread.is_alive()


class Outcome:
    """What came out of a call in a thread."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.value: object = None
        self.thread = threading.Thread(target=self._run, args=(call,), daemon=True)
        self.thread.start()

    def _run(self, call: Callable[[], object]) -> None:
        try:
            self.value = call()
        except BaseException as error:
            self.value = error

    def get(self, seconds: float = 30.0) -> object:
        """Wait for it; errors are values."""
        self.thread.join(seconds)
        assert not self.thread.is_alive(), f"no result after {seconds} s"
        return self.value
