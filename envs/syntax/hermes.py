"""Hermes and Qwen: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, one block per call.

Read leniently: several objects in a block, no closing tag, JSON as `lenient_json` reads it.
"""

import re
from collections.abc import Mapping
from typing import Any

from palestra.envs.syntax.calls import ToolCall, call_from_json, calls_from_json, to_json
from palestra.envs.syntax.lenient_json import decode, decode_unclosed

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_END = re.compile(r"</tool_call>|(?=<tool_call>)|\Z")
_BETWEEN = re.compile(r"[\s,;}]*")
_NOT_JSON = 'a <tool_call> must hold valid JSON like {"name": "...", "arguments": {...}}; and this is not'


def write(name: str, arguments: Mapping[str, Any]) -> str:
    """Write a call."""
    return f"{OPEN}{to_json({'name': name, 'arguments': dict(arguments)})}{CLOSE}"


def read(text: str, start: int) -> tuple[list[ToolCall], int]:
    """Read what follows an opening tag; return the calls and where the block ends."""
    values, at = [], start
    try:
        while True:
            value, at = decode(text, at)
            values.append(value)
            between = _BETWEEN.match(text, at)
            assert between is not None
            if not text.startswith("{", between.end()):
                break
            at = between.end()
    except ValueError:
        return _broken(text, start)
    at = between.end()
    if text.startswith(CLOSE, at):
        return calls_from_json(values), at + len(CLOSE)
    if at == len(text) or text[at] == "<" or "\n" in between[0]:
        return calls_from_json(values), at
    return _broken(text, start)  # something stands behind the object: perhaps a part of it


def _broken(text: str, start: int) -> tuple[list[ToolCall], int]:
    end = _END.search(text, start)
    assert end is not None
    if end[0]:
        try:
            return [call_from_json(decode_unclosed(text[start : end.start()].rstrip()))], end.end()
        except ValueError:
            pass
    return [ToolCall("", error=_NOT_JSON)], end.end()
