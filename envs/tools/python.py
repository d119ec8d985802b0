"""A Python interpreter in the sandbox: every call starts from nothing, or variables stay during an episode."""

from typing import Any, assert_never

from palestra.envs.sandbox import ExecResult
from palestra.envs.sandbox.base import DEFAULT_TIMEOUT_S, SandboxError, Session, SessionEndedError
from palestra.envs.sandbox.shared import shared_sandbox
from palestra.envs.tools.base import EpisodeState, Tool

MAX_SHOWN = 2_000
"""Characters of output that the agent sees; of a longer one, the beginning."""
RESTARTED = "[the interpreter was restarted: its variables are gone]"
"""What the agent is told when its code has ended its interpreter."""
_MAX_ERROR_LINE = 300
_LIBRARIES = "(standard library, numpy and sympy)"


class PythonTool(Tool):
    """Runs a program and shows what it printed, and how it failed if it did.

    A call that the sandbox could not run raises `SandboxError`: the agent must neither see nor pay for it.
    With `stateful`, what a call returns comes from an interpreter that earlier calls of the same episode
    control: it may say whatever they made up, so that no reward may depend on it.
    """

    name = "python"
    description = f"Runs a Python program {_LIBRARIES} and shows what it prints; calls share no state."
    parameters = {"code": {"type": "string", "description": "a program that prints its result"}}
    blocking = True

    def __init__(self, sandbox: str | None = None, timeout: float = DEFAULT_TIMEOUT_S, stateful: bool = False) -> None:
        """Create the tool; the sandbox is opened by the first call.

        Args:
            sandbox: Name as for `open_sandbox`; None for the default of the process (`--sandbox`).
            timeout: Seconds of wall time per call.
            stateful: Whether variables and files stay from call to call of an episode. A call outside an
                episode starts from nothing all the same.
        """
        self.sandbox = sandbox
        self.timeout = timeout
        self.stateful = stateful
        if stateful:
            self.description = (
                f"Runs Python code {_LIBRARIES} and shows what it prints; variables stay from call to call."
            )

    def __call__(self, **arguments: Any) -> str:
        """Run `code` from nothing and return its output.

        Raises:
            SandboxError: The sandbox failed, not the program.
            MissingPrerequisiteError: This machine has no such sandbox.
        """
        result = shared_sandbox(self.sandbox).run(arguments["code"], timeout=self.timeout)
        return describe(result, self.timeout)

    def in_episode(self, state: EpisodeState, /, **arguments: Any) -> str:
        """Run `code`, in the episode's interpreter if the tool is stateful; raises as `__call__`."""
        if not self.stateful:
            return self(**arguments)
        interpreter = state.keep(self, lambda: _Interpreter(self.sandbox))
        return interpreter.run(arguments["code"], self.timeout)


class _Interpreter:
    """The session of one episode; replaced, and the agent told, when its own code has ended it."""

    def __init__(self, sandbox: str | None) -> None:
        self._sandbox = sandbox
        self._session: Session | None = None

    def run(self, code: str, timeout: float) -> str:
        notice = ""
        try:
            result = self._opened().run(code, timeout=timeout)
        except SessionEndedError:  # between two calls, by a thread that an earlier one left behind
            notice = f"{RESTARTED}\n"
            self.close()
            result = self._opened().run(code, timeout=timeout)
        shown = notice + describe(result, timeout)
        if not self._opened().alive:
            self.close()
            shown = f"{shown}\n{RESTARTED}"
        return shown

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def _opened(self) -> Session:
        if self._session is None:
            self._session = shared_sandbox(self._sandbox).session()
        return self._session


def describe(result: ExecResult, timeout: float) -> str:
    """Put a result into words: the output, then the last line of the error or how the program was ended.

    Args:
        result: What happened.
        timeout: The wall time that was allowed, in seconds.

    Raises:
        SandboxError: The result says that the sandbox failed, which no agent must see.
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
            parts.append("killed" if result.exit_code is None else f"killed by signal {result.exit_code - 128}")
        case "sandbox-failure":
            raise SandboxError(result.stderr)
        case _:
            assert_never(result.status)
    return "\n".join(parts)
