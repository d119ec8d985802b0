"""Fenced code: a ```python block is a call of the tool `python`; a ```tool_call or ```json block holds a JSON call.

A ```json block that is no call is left alone: it may be an answer.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from palestra.envs.syntax.calls import Found, Toolbox, ToolCall, calls_from_json, is_call, to_json
from palestra.envs.syntax.lenient_json import decode, skip_space

_OPEN = re.compile(r"```(python|py|tool_call|json)[ \t]*\r?\n")
_FENCE = r"(?<![ \t]{4})(?<!\n\t)```"
"""One that is indented deep stands in code, in a docstring say."""
_ANY = re.compile(rf"{_FENCE}([\w+-]{{0,30}})[ \t]*\r?\n(.*?){_FENCE}", re.DOTALL)
_CLOSE = "```"
_CLOSING = re.compile(_FENCE)
_MAX_BLOCKS = 64


def write(name: str, arguments: Mapping[str, Any]) -> str:
    """Write a call of `python` as its code, any other as JSON."""
    if name == "python" and arguments.keys() == {"code"}:
        return f"```python\n{arguments['code']}\n```"
    return f"```tool_call\n{to_json({'name': name, 'arguments': dict(arguments)})}\n```"


def read_all(text: str, tools: Toolbox) -> Iterator[Found]:
    """Read all closed blocks that are calls."""
    at = 0
    for _ in range(_MAX_BLOCKS):
        opening = _OPEN.search(text, at)
        if opening is None:
            return
        start = opening.end()
        if opening[1] in ("python", "py"):
            at = _past_close(text, start)
            known = tools is None or "python" in tools
            calls = [ToolCall("python", {"code": _code(text[start : at - len(_CLOSE)])})] if known else []
        else:
            calls, at = _read_json(text, start, marked=opening[1] == "tool_call", tools=tools)
        if at < 0:
            return
        for call in calls:
            yield Found(opening.start(), at, call)


def last_block(text: str) -> str | None:
    """Return the code of the last closed block, whether it is marked as Python or not at all."""
    found = None
    for match in _ANY.finditer(text):
        if match[1] in ("", "python", "py"):
            found = _code(match[2])
    return found


def _code(body: str) -> str:
    """The line break before the closing fence is no part of the code."""
    return body.removesuffix("\n").removesuffix("\r")


def _past_close(text: str, start: int) -> int:
    """Return where the next closing fence ends, or -1."""
    closing = _CLOSING.search(text, start)
    return closing.end() if closing else -1


def _read_json(text: str, start: int, *, marked: bool, tools: Toolbox) -> tuple[list[ToolCall], int]:
    error = ToolCall("", error='a ```tool_call block must hold JSON like {"name": "...", "arguments": {...}}')
    try:
        value, after = decode(text, start)
    except ValueError:
        return [error] if marked else [], _past_close(text, start)
    after = skip_space(text, after)
    if not text.startswith(_CLOSE, after):
        return [error] if marked else [], _past_close(text, after)
    items = value if isinstance(value, list) and value else [value]
    calls = calls_from_json(items) if marked or all(is_call(item, tools) for item in items) else []
    return calls, after + len(_CLOSE)
