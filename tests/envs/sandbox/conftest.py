import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from palestra.envs.sandbox.base import IsolationUnavailableError
from palestra.envs.sandbox.local import Limits, LocalSandbox


def _open(limits: Limits) -> Iterator[LocalSandbox]:
    try:
        sandbox = LocalSandbox(limits)
    except IsolationUnavailableError as error:
        if os.environ.get("PALESTRA_REQUIRE_SANDBOX") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))
    with sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def local() -> Iterator[LocalSandbox]:
    yield from _open(Limits())


@pytest.fixture(scope="session")
def forking() -> Iterator[LocalSandbox]:
    yield from _open(Limits(fork=True))


@pytest.fixture(scope="session")
def sandboxed() -> Callable[[], set[int]]:
    """Finds the pids, as the host sees them, of everything that a sandbox started."""
    return _sandboxed


def _sandboxed() -> set[int]:
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if command.startswith(b"/opt/python/bin/python") or b"--json-status-fd" in command:
                found.add(int(folder.name))
    return found
