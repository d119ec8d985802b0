"""The sandboxes of this process: one per backend, opened by its first user and closed when the process ends.

Tools and graders name a backend, or none for the default that `--sandbox` sets. A process made by `fork` opens
its own: what a sandbox holds (threads, pipes, children) does not survive a fork.
"""

import os
from multiprocessing.util import Finalize
from threading import Lock

from palestra.envs.errors import unknown_name
from palestra.envs.sandbox import BACKENDS, DEFAULT_SANDBOX, Sandbox, open_sandbox

_lock = Lock()
# A child keeps the entries of its parent, so that nothing of theirs is torn down there.
_opened: dict[tuple[int, str], Sandbox] = {}
_default = DEFAULT_SANDBOX


def use_sandbox(name: str) -> None:
    """Make `name` the backend of every tool and grader of this process that names none.

    Raises:
        UsageError: There is no such backend.
    """
    global _default
    if name not in BACKENDS:
        raise unknown_name("sandbox", name, BACKENDS)
    _default = name


def default_sandbox() -> str:
    """Return the name of the backend that is used where none is named."""
    return _default


def shared_sandbox(name: str | None = None) -> Sandbox:
    """Return this process's sandbox of that backend, opened now if it is the first use.

    Args:
        name: As for `open_sandbox`; None for the default of the process.

    Raises:
        UsageError: There is no such backend.
        MissingPrerequisiteError: The backend cannot be had on this machine; says what is missing.
        SandboxError: It failed while it was opened.
    """
    key = (os.getpid(), name or _default)
    if found := _opened.get(key):
        return found
    with _lock:
        if key not in _opened:
            _opened[key] = open_sandbox(key[1])
            # Not atexit: the children that multiprocessing forks (data loaders) end without it.
            Finalize(None, _close, key, exitpriority=0)
        return _opened[key]


def enforced(name: str) -> dict[str, str] | None:
    """Return what the shared sandbox of that backend enforces, or None if this process has not opened it."""
    sandbox = _opened.get((os.getpid(), name))
    return sandbox.describe() if sandbox is not None else None


def _close(pid: int, name: str) -> None:
    _opened.pop((pid, name)).close()


def _after_fork() -> None:
    global _lock
    _lock = Lock()  # another thread may have held it


os.register_at_fork(after_in_child=_after_fork)
