"""Running Python code that a model wrote: see `Sandbox` for the protocol, `open_sandbox` for the backends."""

import os
from collections.abc import Callable

from palestra.envs.errors import UsageError, unknown_name
from palestra.envs.sandbox.base import (
    ExecResult,
    IsolationUnavailableError,
    Limits,
    Sandbox,
    SandboxError,
    SandboxStats,
    Session,
    SessionEndedError,
    Status,
)

__all__ = [
    "BACKENDS",
    "DEFAULT_SANDBOX",
    "ExecResult",
    "IsolationUnavailableError",
    "Limits",
    "Sandbox",
    "SandboxError",
    "SandboxStats",
    "Session",
    "SessionEndedError",
    "Status",
    "open_sandbox",
]

DEFAULT_SANDBOX = "local"


def _local(limits: Limits | None) -> Sandbox:
    from palestra.envs.sandbox.local import LocalSandbox

    return LocalSandbox(limits)


def _docker(limits: Limits | None) -> Sandbox:
    from palestra.envs.sandbox.docker import DockerSandbox

    return DockerSandbox(limits)


def _e2b(limits: Limits | None) -> Sandbox:
    from palestra.envs.sandbox.e2b import E2BSandbox

    reuse = os.environ.get("PALESTRA_E2B_REUSE", "1")
    if not reuse.isdecimal() or int(reuse) < 1:
        raise UsageError(f"PALESTRA_E2B_REUSE says how many programs a machine runs, at least 1, not '{reuse}'")
    return E2BSandbox(limits, executions_per_sandbox=int(reuse))


def _unsafe(limits: Limits | None) -> Sandbox:
    from palestra.envs.sandbox.unsafe import UnsafeProcess

    return UnsafeProcess(limits)


BACKENDS: dict[str, Callable[[Limits | None], Sandbox]] = {
    "local": _local,
    "docker": _docker,
    "e2b": _e2b,
    "unsafe-process": _unsafe,
}
"""Name -> what opens it; each loads what only it needs."""


def open_sandbox(name: str = DEFAULT_SANDBOX, limits: Limits | None = None) -> Sandbox:
    """Open the sandbox of that name, and no other.

    Args:
        name: `"local"` (bubblewrap), `"docker"`, `"e2b"`, or `"unsafe-process"`: no isolation, the code has all
            your rights.
        limits: What one execution may use.

    Raises:
        UsageError: There is no sandbox of that name, or it cannot keep to the limits.
        MissingPrerequisiteError: The machine lacks what the sandbox needs; says what.
        IsolationUnavailableError: The machine cannot give the isolation; says what is missing.
        SandboxError: It did not start.
    """
    if name not in BACKENDS:
        raise unknown_name("sandbox", name, BACKENDS)
    return BACKENDS[name](limits)
