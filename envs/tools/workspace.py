"""Files in the sandbox that an agent writes, reads, lists and runs; they live as long as the episode.

All four tools act on one session of the sandbox, so that a program finds the files and leaves its own. What they
report comes from a place that the agent's code controls: no reward may depend on it.
"""

import re
from collections.abc import Callable
from typing import Any, TypeVar

from palestra.envs.sandbox.base import DEFAULT_TIMEOUT_S, Session, SessionEndedError
from palestra.envs.sandbox.shared import shared_sandbox
from palestra.envs.tools.base import EpisodeState, Tool, ToolError
from palestra.envs.tools.python import MAX_SHOWN, describe

MAX_CONTENT = 100_000
"""Longest text that one call writes, in code points."""
LOST = "[the workspace was emptied: its last program had to be ended together with it]"
"""What the agent is told when its own code has ended the session."""
_MAX_LISTED = 200
_PATH = {"type": "string", "description": "relative path, for example src/main.py"}

# A program starts as a process would: what it imported from the workspace before is read again.
_RUN = """\
import importlib, os, runpy, sys
def run(path, here=os.getcwd()):
    sys.dont_write_bytecode = True
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(here + os.sep):
            del sys.modules[name]
    importlib.invalidate_caches()
    folder = os.path.join(here, os.path.dirname(path))
    sys.path.insert(0, folder)
    sys.argv = [path]
    try:
        runpy.run_path(path, run_name="__main__")
    finally:
        sys.path.remove(folder)
run({path!r})
"""

_ERRNO = re.compile(r"\[Errno \d+\] ")
_T = TypeVar("_T")


class Workspace:
    """The session of one episode, made anew when the agent's own code has ended it."""

    def __init__(self, sandbox: str | None) -> None:
        self._sandbox = sandbox
        self._session: Session | None = None

    def use(self, act: Callable[[Session], _T]) -> _T:
        """Return what `act` does with the session.

        Raises:
            ToolError: The path is none, there is no such file, or earlier code ended the session.
            SandboxError: The sandbox failed.
        """
        if self._session is None:
            self._session = shared_sandbox(self._sandbox).session()
        try:
            return act(self._session)
        except SessionEndedError:
            self.close()
            raise ToolError(LOST) from None
        except (ValueError, FileNotFoundError) as error:
            raise ToolError(f"{_ERRNO.sub('', str(error))}.") from None

    def run(self, path: str, timeout: float) -> str:
        """Run a file and return what it printed."""
        self.use(lambda session: session.read_file(path, 1))  # a missing file is the call's fault
        shown = describe(self.use(lambda session: session.run(_RUN.format(path=path), timeout=timeout)), timeout)
        if self._session is not None and not self._session.alive:
            self.close()
            shown = f"{shown}\n{LOST}"
        return shown

    def close(self) -> None:
        """End the session; its files are gone."""
        if self._session is not None:
            self._session.close()
            self._session = None


class _FileTool(Tool):
    """A tool that acts on the episode's workspace."""

    blocking = True

    def __init__(self, sandbox: str | None, timeout: float) -> None:
        self.sandbox = sandbox
        self.timeout = timeout

    def __call__(self, **arguments: Any) -> str:
        raise ToolError("there are no files outside an episode.")

    def workspace(self, state: EpisodeState) -> Workspace:
        """Return the workspace of the episode, the same for all file tools of one sandbox."""
        return state.keep((Workspace, self.sandbox), lambda: Workspace(self.sandbox))


class WriteFile(_FileTool):
    """Writes a text file; folders on its path are made, an old content is replaced."""

    name = "write_file"
    description = "Writes a text file, replacing it if it exists; folders are made."
    parameters = {"path": _PATH, "content": {"type": "string", "description": "the whole text"}}

    def in_episode(self, state: EpisodeState, /, **arguments: Any) -> str:
        """Write `content` to `path`.

        Raises:
            ToolError: The path is not relative, leads out of the workspace or through a file, or the content
                is too long.
        """
        path, content = _plain(arguments["path"]), arguments["content"]
        if len(content) > MAX_CONTENT:
            raise ToolError(f"the content is longer than {MAX_CONTENT} characters.")
        data = content.encode("utf-8", "replace")
        self.workspace(state).use(lambda session: session.write_file(path, data))
        return f"{len(data)} bytes written."


class ReadFile(_FileTool):
    """Shows a text file, from a line on."""

    name = "read_file"
    description = f"Shows a text file, at most {MAX_SHOWN} characters from a line on."
    parameters = {"path": _PATH, "line": {"type": "integer", "description": "first line to show, from 1 (optional)"}}
    required = ("path",)

    def in_episode(self, state: EpisodeState, /, **arguments: Any) -> str:
        """Return the text from the line on, with a notice if it is cut.

        Raises:
            ToolError: There is no such file or line.
        """
        path, line = _plain(arguments["path"]), arguments.get("line", 1)
        text = self.workspace(state).use(lambda session: session.read_file(path)).decode("utf-8", "replace")
        lines = text.splitlines(keepends=True)
        if not 1 <= line <= max(1, len(lines)):
            raise ToolError(f"'{path}' has {len(lines)} lines.")
        wanted = "".join(lines[line - 1 :])
        if len(wanted) <= MAX_SHOWN:
            return wanted or "(empty)"
        return f"{wanted[:MAX_SHOWN]}\n[cut after {MAX_SHOWN} characters; the file has {len(lines)} lines]"


class ListFiles(_FileTool):
    """Lists the files of the workspace."""

    name = "list_files"
    description = "Lists all files of the workspace."
    parameters = {}

    def in_episode(self, state: EpisodeState, /, **arguments: Any) -> str:
        """Return one path a line, sorted."""
        files = self.workspace(state).use(lambda session: session.list_files())
        more = [f"[and {len(files) - _MAX_LISTED} more]"] if len(files) > _MAX_LISTED else []
        return "\n".join([*files[:_MAX_LISTED], *more]) or "(no files)"


class RunFile(_FileTool):
    """Runs a Python file of the workspace as a program."""

    name = "run_file"
    description = "Runs a Python file of the workspace and shows what it prints."
    parameters = {"path": _PATH}

    def in_episode(self, state: EpisodeState, /, **arguments: Any) -> str:
        """Run the file and return its output and the last line of its error, if any.

        Raises:
            ToolError: There is no such file.
            SandboxError: The sandbox failed, not the program.
        """
        return self.workspace(state).run(_plain(arguments["path"]), self.timeout)


def workspace_tools(sandbox: str | None = None, timeout: float = DEFAULT_TIMEOUT_S) -> tuple[Tool, ...]:
    """Return tools that write, read, list and run files of one workspace per episode.

    Args:
        sandbox: Name as for `open_sandbox`; None for the default of the process (`--sandbox`).
        timeout: Seconds of wall time per run.
    """
    return tuple(kind(sandbox, timeout) for kind in (WriteFile, ReadFile, ListFiles, RunFile))


def _plain(path: str) -> str:
    """Read `./a//b` as `a/b`."""
    parts = path.split("/")
    return "/".join(part for i, part in enumerate(parts) if part != "." and (part or i in (0, len(parts) - 1)))
