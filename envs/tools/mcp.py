"""Tools of a Model Context Protocol server, started over stdio, as tools of an environment.

Every episode has a server process of its own, which ends with the episode, unless the tools are made `shared`. The
server is trusted: it runs as the user, outside any sandbox. What a tool answers is shown to the agent, and so is
that it failed or took too long; a server that cannot be started, dies or breaks the protocol is a `PalestraError`,
for which no agent must pay.

The protocol is that of modelcontextprotocol.io, spoken by its Python SDK (the extra `mcp`).
"""

import asyncio
import atexit
import json
import os
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, TypeVar

from palestra.envs.errors import MissingPrerequisiteError, PalestraError, UsageError
from palestra.envs.tools.base import EpisodeState, Tool, ToolError

if TYPE_CHECKING:
    from anyio import CancelScope
    from mcp import Client
    from mcp.types import CallToolResult
    from mcp.types import Tool as ToolDescription

DEFAULT_TIMEOUT_S = 30.0
_CLOSING_S = 15.0
"""A server that does not end when asked is killed by the SDK within some seconds."""
_KEPT_BYTES = 2_000
_MAX_PAGES = 100
"""Of a list of tools."""
_INVALID_PARAMS, _REQUEST_TIMEOUT = -32602, -32001
_T = TypeVar("_T")


@dataclass(frozen=True)
class Server:
    """How to start a server."""

    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    """Variables that it gets besides PATH, HOME and the like."""
    cwd: Path | None = None
    timeout: float = DEFAULT_TIMEOUT_S
    """Seconds for the start, and for each call."""


class Connection:
    """A running server process with its client; safe to use from several threads."""

    def __init__(self, server: Server) -> None:
        """Start the server and shake hands.

        Raises:
            PalestraError: It did not start, or did not answer in time.
            MissingPrerequisiteError: The MCP SDK is not installed.
        """
        _require_sdk()
        self.server = server
        self._said = b""
        self._client: Future[Client] = Future()
        self._scope: CancelScope | None = None
        self._pid, self._loop = os.getpid(), _loop()
        self._life = asyncio.run_coroutine_threadsafe(self._live(), self._loop)
        _open.add(self)
        try:
            self._client.result(server.timeout)
        except BaseException as error:
            self.close()
            if isinstance(error, TimeoutError):
                raise self._failure(f"did not start within {server.timeout:g} s") from None
            if isinstance(error, Exception):
                raise self._failure(f"could not be started: {error}") from error
            raise

    async def _live(self) -> None:
        """Hold the client open: in one task, because no other may leave its cancel scopes."""
        from anyio import CancelScope, sleep_forever
        from mcp import Client, StdioServerParameters, stdio_client

        command, *arguments = self.server.command
        parameters = StdioServerParameters(
            command=command, args=arguments, env=dict(self.server.env), cwd=self.server.cwd
        )
        readable, writable = os.pipe()
        os.set_blocking(readable, False)
        self._loop.add_reader(readable, self._listen, readable)
        try:
            with CancelScope() as self._scope, os.fdopen(writable, "w", encoding="utf-8") as log:
                transport = stdio_client(parameters, errlog=log)
                async with Client(transport, read_timeout_seconds=self.server.timeout) as client:
                    log.close()
                    self._client.set_result(client)
                    await sleep_forever()
        except Exception as error:
            if not self._client.done():
                self._client.set_exception(_root(error))
        finally:
            self._listen(readable)
            self._loop.remove_reader(readable)
            os.close(readable)

    def tools(self) -> "list[ToolDescription]":
        """Return all tools that the server lists.

        Raises:
            PalestraError: The server failed.
        """
        client = self._client.result()
        page = self._ask(client.list_tools())
        found = list(page.tools)
        cursors: set[str] = set()
        while (cursor := page.next_cursor) is not None:
            if cursor in cursors or len(cursors) >= _MAX_PAGES:
                raise self._failure("broke the protocol: its list of tools does not end")
            cursors.add(cursor)
            page = self._ask(client.list_tools(cursor=cursor))
            found += page.tools
        return found

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Call a tool and return its answer as text.

        Raises:
            ToolError: The tool failed, refused its arguments, or took too long.
            PalestraError: The server failed.
        """
        result = self._ask(self._client.result().call_tool(name, dict(arguments)), name)
        if result.is_error:
            raise ToolError(as_text(result))
        return as_text(result)

    def close(self) -> None:
        """End the server process and wait until it is gone; closing twice is fine."""
        _open.discard(self)
        if self._life.done() or self._pid != os.getpid():  # a forked copy has no such process
            return
        self._loop.call_soon_threadsafe(lambda: self._scope.cancel() if self._scope else self._life.cancel())
        with suppress(Exception):
            self._life.result(_CLOSING_S)

    def _ask(self, question: Coroutine[Any, Any, _T], tool: str | None = None) -> _T:
        from mcp import MCPError

        try:
            return asyncio.run_coroutine_threadsafe(question, self._loop).result()
        except MCPError as error:
            if tool is not None and error.code == _REQUEST_TIMEOUT:
                raise ToolError(f"{tool} gave no answer within {self.server.timeout:g} s.") from None
            if tool is not None and error.code == _INVALID_PARAMS:
                raise ToolError(f"{error.message.rstrip('.')}.") from None
            raise self._failure(f"failed: {error.message}") from error
        except Exception as error:
            raise self._failure(f"broke the protocol: {error}") from error

    def _failure(self, what: str) -> PalestraError:
        last = self._said.decode("utf-8", "replace").strip().rsplit("\n", 1)[-1]
        return PalestraError(
            f"the MCP server '{' '.join(self.server.command)}' {what}{f' (it wrote: {last})' if last else ''}"
        )

    def _listen(self, readable: int) -> None:
        """Keep the end of what the server writes to its error stream; reading all of it, lest it wait."""
        with suppress(BlockingIOError):
            said = os.read(readable, 65_536)
            self._said = (self._said + said)[-_KEPT_BYTES:]
            if not said:
                self._loop.remove_reader(readable)


class McpTool(Tool):
    """A tool of an MCP server; its name and schema are the server's."""

    blocking = True

    def __init__(self, source: "_Source", listed: "ToolDescription") -> None:
        self.name = listed.name
        self.description = listed.description or listed.title or listed.name
        self.parameters = listed.input_schema.get("properties") or {}
        self.required = tuple(listed.input_schema.get("required") or ())
        self._input_schema = listed.input_schema
        self._source = source

    def schema(self) -> dict[str, Any]:
        """Return the tool as a function schema, with the parameters word for word as the server gave them."""
        function = {"name": self.name, "description": self.description, "parameters": self._input_schema}
        return {"type": "function", "function": function}

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Check what `Tool` can check; the server checks the rest."""
        if self._input_schema.get("additionalProperties"):
            arguments = {k: v for k, v in arguments.items() if k in self.parameters}
        super().check(arguments)

    def __call__(self, **arguments: Any) -> str:
        """Call the tool of a server that is started for this call, unless the tools are shared.

        Raises:
            ToolError: The tool failed, refused its arguments, or took too long.
            PalestraError: The server failed.
        """
        if self._source.shared:
            return self._source.call_shared(self.name, arguments)
        with closing(Connection(self._source.server)) as connection:
            return connection.call(self.name, arguments)

    def in_episode(self, state: EpisodeState, /, **arguments: Any) -> str:
        """Call the tool of the episode's server; raises as `__call__`."""
        if self._source.shared:
            return self._source.call_shared(self.name, arguments)
        connection = state.keep(self._source, lambda: Connection(self._source.server))
        return connection.call(self.name, arguments)


class _Source:
    """Where the tools of one `mcp_tools` come from."""

    def __init__(self, server: Server, shared: bool) -> None:
        self.server = server
        self.shared = shared
        self._lock = Lock()
        self._connections: dict[int, Connection] = {}
        """By process: a connection does not survive a fork."""

    def call_shared(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Call a tool of this process's server; one that fails is replaced for the next call."""
        with self._lock:
            connection = self._connections.get(os.getpid()) or Connection(self.server)
            self._connections[os.getpid()] = connection
        try:
            return connection.call(name, arguments)
        except PalestraError:
            with self._lock:
                if self._connections.get(os.getpid()) is connection:
                    del self._connections[os.getpid()]
            connection.close()
            raise


def mcp_tools(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    shared: bool = False,
    timeout: float = DEFAULT_TIMEOUT_S,
) -> tuple[Tool, ...]:
    """Return the tools of an MCP server; starts it once to ask what it has.

    Args:
        command: The program and its arguments, such as `["python", "server.py"]`.
        env: Environment variables for it; of this process it gets PATH, HOME and the like only.
        cwd: Its working folder.
        shared: Whether one server serves all episodes of the process, instead of one each. For servers that
            remember nothing: what one episode left there, another would see.
        timeout: Seconds for the start, and for each call.

    Raises:
        UsageError: The command is empty, or the server has no tools, or two of one name.
        PalestraError: The server could not be started or failed.
        MissingPrerequisiteError: The MCP SDK is not installed.
    """
    if not command:
        raise UsageError("an MCP server needs a command, such as ['python', 'server.py']")
    source = _Source(Server(tuple(command), dict(env or {}), cwd, timeout), shared)
    with closing(Connection(source.server)) as connection:
        tools = tuple(McpTool(source, listed) for listed in connection.tools())
    if not tools:
        raise UsageError(f"the MCP server '{' '.join(command)}' has no tools")
    names = [tool.name for tool in tools]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"the MCP server '{' '.join(command)}' has two tools named '{twice}'")
    return tools


def as_text(result: "CallToolResult") -> str:
    """Put a result into words: its texts, a note for what is no text, or its structured content if that is all."""
    parts = []
    for block in result.content:
        match block.type:
            case "text":
                parts.append(block.text)
            case "resource_link":
                parts.append(f"[{block.uri}]")
            case "resource":
                parts.append(getattr(block.resource, "text", f"[{block.resource.uri}]"))
            case _:
                parts.append(f"[{block.type}]")
    if not parts and result.structured_content is not None:
        parts.append(json.dumps(result.structured_content, ensure_ascii=False))
    return "\n".join(parts) or "(no output)"


_open: set[Connection] = set()
_loops: dict[int, asyncio.AbstractEventLoop] = {}
_loops_lock = Lock()


def _loop() -> asyncio.AbstractEventLoop:
    """Return the event loop of this process that all connections live in, in a thread of its own."""
    with _loops_lock:
        if os.getpid() not in _loops:
            loop = _loops[os.getpid()] = asyncio.new_event_loop()
            Thread(target=loop.run_forever, name="mcp", daemon=True).start()
        return _loops[os.getpid()]


def _close_all() -> None:
    for connection in list(_open):
        connection.close()


atexit.register(_close_all)


def _root(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _require_sdk() -> None:
    try:
        import mcp  # noqa: F401
    except ImportError:
        raise MissingPrerequisiteError("MCP servers need the MCP SDK: pip install 'palestra[mcp]'") from None
