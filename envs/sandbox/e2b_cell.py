"""Runs the cells of a session inside a cloud machine's interpreter; sent there as text.

The interpreter is a Jupyter kernel. Its own ways with input, tracebacks and `exit` are replaced, so that a cell
does what it does in the other sandboxes. Whatever this says may be made up by an earlier cell.
Standard library only, for Python 3.9 and newer.
"""

import ast
import asyncio
import base64
import builtins
import io
import json
import linecache
import os
import resource
import sys
import time
import traceback
import types
import zlib

_main = types.ModuleType("__main__")
_count = 0


class _Report:
    """Shows as JSON, which is what the kernel answers with."""

    def __init__(self, status: str, cpu_s: float) -> None:
        self._text = json.dumps({"status": status, "cpu_s": cpu_s})

    def __repr__(self) -> str:
        return self._text


def _input(prompt: object = "") -> str:
    sys.stdout.write(str(prompt))
    sys.stdout.flush()
    line = sys.stdin.readline()
    if not line:
        raise EOFError("EOF when reading a line")
    return line[:-1] if line.endswith("\n") else line


def prepare(memory: int) -> None:
    """Import from the working folder; limit the address space to what is taken now and `memory` bytes more."""
    sys.modules["__main__"] = _main
    sys.path.insert(0, os.getcwd())
    with open("/proc/self/statm", encoding="ascii") as file:
        limit = memory + int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def run(packed: str) -> _Report:
    """Run one cell: compressed JSON of the source, the standard input, and a token to print at the start."""
    global _count
    code, given, token = json.loads(zlib.decompress(base64.b64decode(packed)))
    _count += 1
    name = f"<cell {_count}>"
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
    stdin = io.BytesIO(given.encode("utf-8", "surrogatepass"))
    sys.stdin = io.TextIOWrapper(stdin, encoding="utf-8", errors="surrogateescape")
    builtins.input = _input
    sys.stdout.write(token)
    sys.stdout.flush()
    began = time.process_time()
    # The kernel's own loop waits for us; a cell that calls asyncio.run must not see it.
    loop = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    try:
        status = _cell(code.encode("utf-8", "surrogatepass"), name)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        asyncio._set_running_loop(loop)
    return _Report(status, time.process_time() - began)


def _cell(code: bytes, name: str) -> str:
    """Run a cell; the value of a last expression is shown."""
    try:
        tree = compile(code, name, "exec", ast.PyCF_ONLY_AST)  # ast.parse would show in tracebacks
        assert isinstance(tree, ast.Module)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, name, "exec"), _main.__dict__)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), name, "eval"), _main.__dict__)
            if value is not None:
                sys.stdout.write(f"{value!r}\n")
    except SystemExit as error:
        if error.code is None or error.code == 0:
            return "ok"
        if not isinstance(error.code, int):
            sys.stderr.write(f"{error.code}\n")
        return "error"
    except BaseException as error:
        trace = error.__traceback__.tb_next if error.__traceback__ else None
        traceback.print_exception(type(error), error, trace)
        return "memory" if isinstance(error, MemoryError) else "error"
    return "ok"
