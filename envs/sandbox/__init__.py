"""Running Python code that a model wrote: see `Sandbox` for the protocol, `open_sandbox` for the backends."""

from palestra.envs.errors import unknown_name
from palestra.envs.sandbox.base import (
    ExecResult,
    IsolationUnavailableError,
    Sandbox,
    SandboxError,
    Status,
)
from palestra.envs.sandbox.local import LocalSandbox
from palestra.envs.sandbox.unsafe import UnsafeProcess

__all__ = [
    "DEFAULT_SANDBOX",
    "ExecResult",
    "IsolationUnavailableError",
    "Sandbox",
    "SandboxError",
    "Status",
    "open_sandbox",
]

DEFAULT_SANDBOX = "local"
_BACKENDS: dict[str, type[LocalSandbox] | type[UnsafeProcess]] = {
    "local": LocalSandbox,
    "unsafe-process": UnsafeProcess,
}


def open_sandbox(name: str = DEFAULT_SANDBOX) -> Sandbox:
    """Open the sandbox of that name, and no other.

    Args:
        name: `"local"` (bubblewrap), or `"unsafe-process"`: no isolation, the code has all your rights.

    Raises:
        UsageError: There is no sandbox of that name.
        IsolationUnavailableError: The machine cannot give the isolation; says what is missing.
    """
    if name not in _BACKENDS:
        raise unknown_name("sandbox", name, _BACKENDS)
    return _BACKENDS[name]()
