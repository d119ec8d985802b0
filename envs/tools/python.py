"""A Python interpreter in the sandbox: every call starts from nothing."""

from functools import cache
from threading import Lock
from typing import Any

from palestra.envs.sandbox import DEFAULT_SANDBOX, ExecResult, Sandbox, open_sandbox
from palestra.envs.sandbox.base import DEFAULT_TIMEOUT_S
from palestra.envs.tools.base import Tool

MAX_SHOWN = 2_000
"""Characters of output that the agent sees; of a longer one, the beginning."""
_MAX_ERROR_LINE = 300
_opening = Lock()


class PythonTool(Tool):
    """Runs a program and shows what it printed, and how it failed if it did.

    A call that the sandbox could not run raises `SandboxError`: the agent must neither see nor pay for it.
    """

    name = "python"
    description = "Runs a Python program (standard library only) and shows what it prints; calls share no state."
    parameters = {"code": {"type": "string", "description": "a program that prints its result"}}
    blocking = True

    def __init__(self, sandbox: str = DEFAULT_SANDBOX, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        """Create the tool; the sandbox is opened by the first call.

        Args:
            sandbox: Name as for `open_sandbox`.
            timeout: Seconds of wall time per call.
        """
        self.sandbox = sandbox
        self.timeout = timeout

    def __call__(self, **arguments: Any) -> str:
        """Run `code` and return its output.

        Raises:
            SandboxError: The sandbox failed, not the program.
            IsolationUnavailableError: This machine has no such sandbox.
        """
        with _opening:
            sandbox = _shared_sandbox(self.sandbox)
        return describe(sandbox.run(arguments["code"], timeout=self.timeout), self.timeout)


def describe(result: ExecResult, timeout: float) -> str:
    """Put a result into words: the output, then the last line of the error or how the program was ended.

    Args:
        result: What happened.
        timeout: The wall time that was allowed, in seconds.
    """
    shown = result.stdout.rstrip("\n")
    if len(shown) > MAX_SHOWN:
        shown = f"{shown[:MAX_SHOWN]}\n[output cut after {MAX_SHOWN} characters]"
    parts = [shown] if shown else []
    match result.status:
        case "ok":
            return shown or "(no output)"
        case "error":
            last = result.stderr.rstrip().rsplit("\n", 1)[-1]
            parts.append(last[:_MAX_ERROR_LINE] or f"exited with code {result.exit_code}")
        case "timeout":
            parts.append(f"timed out after {timeout:g} s")
        case "memory":
            parts.append("ran out of memory (MemoryError)")
        case "output":
            parts.append("stopped: it printed too much")
        case "killed":
            parts.append(f"killed by signal {(result.exit_code or 128) - 128}")
    return "\n".join(parts)


@cache
def _shared_sandbox(name: str) -> Sandbox:
    return open_sandbox(name)
