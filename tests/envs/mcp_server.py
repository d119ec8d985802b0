"""A little MCP server for the tests, over stdio."""

import os
import sys
import time

from mcp.server.mcpserver import MCPServer
from pydantic import BaseModel

server = MCPServer("little")
count = 0


class Point(BaseModel):
    x: int
    y: int = 0


@server.tool()
def add(a: int, b: int = 10) -> int:
    """Add two integers."""
    return a + b


@server.tool()
def counter() -> int:
    """Count the calls."""
    global count
    count += 1
    return count


@server.tool()
def pid() -> str:
    """Tell the process id."""
    return str(os.getpid())


@server.tool()
def norm(points: list[Point], how: str = "l1") -> str:
    """Sum the sizes of points."""
    return f"{how} {sum(abs(p.x) + abs(p.y) for p in points)}"


@server.tool()
def fail(message: str) -> str:
    """Fail."""
    raise ValueError(message)


@server.tool()
def wait(seconds: float) -> str:
    """Wait."""
    time.sleep(seconds)
    return "done"


@server.tool()
def die() -> str:
    """End the server."""
    sys.stderr.write("something is broken\n")
    sys.stderr.flush()
    os._exit(3)


if __name__ == "__main__":
    server.run()
