"""The fake E2B's stand-in for a Jupyter kernel: one line of JSON in per cell, lines of JSON out, `null` at the end."""

import ast
import io
import json
import os
import signal
import sys
import threading
import traceback
from typing import Any

_channel = os.fdopen(os.dup(1), "w", encoding="ascii")
_turn = threading.Lock()
_requests = os.fdopen(os.dup(0), "r", encoding="ascii")


class _Stream(io.TextIOBase):
    """Standard output or standard error: what is written goes out as an event."""

    def __init__(self, name: str) -> None:
        self._name = name

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        _tell({"type": self._name, "text": text.encode("utf-8", "replace").decode(), "timestamp": "0"})
        return len(text)


def _tell(event: dict[str, Any] | None) -> None:
    with _turn:
        _channel.write(json.dumps(event) + "\n")
        _channel.flush()


def _capture(descriptor: int, name: str) -> None:
    """Tell what is written to a descriptor, as if it had been written to the stream of that name."""
    reading, writing = os.pipe()
    os.dup2(writing, descriptor)
    os.close(writing)

    def copy() -> None:
        while data := os.read(reading, 65536):
            _tell({"type": name, "text": data.decode("utf-8", "replace"), "timestamp": "0"})

    threading.Thread(target=copy, daemon=True).start()


def _run(code: str, names: dict[str, Any], count: int) -> None:
    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<kernel>", "exec"), names)
    if isinstance(last, ast.Expr):
        value = eval(compile(ast.Expression(last.value), "<kernel>", "eval"), names)
        if value is not None:
            _tell({"type": "result", "text": repr(value), "is_main_result": True})
    _tell({"type": "number_of_executions", "execution_count": count})


def main() -> None:
    """Serve cells to the end of the input."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    _capture(1, "stdout")
    _capture(2, "stderr")
    sys.stdout, sys.stderr = _Stream("stdout"), _Stream("stderr")
    names: dict[str, Any] = {"__name__": "__main__"}
    count = 0
    while True:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        line = _requests.readline()
        if not line:
            return
        count += 1
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            _run(json.loads(line), names, count)
        except BaseException as error:
            trace = "".join(traceback.format_exception(error))
            _tell({"type": "error", "name": type(error).__name__, "value": str(error), "traceback": trace})
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _tell(None)


if __name__ == "__main__":
    main()
