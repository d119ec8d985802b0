"""Llama 3: `{"name": ..., "parameters": {...}}` as the whole turn, or after `<|python_tag|>` (which also takes code).

The whole turn, because a JSON object within a text may be anything, for example an answer.
"""

import re
from collections.abc import Mapping
from typing import Any

from palestra.envs.syntax.calls import Toolbox, ToolCall, calls_from_json, is_call, to_json
from palestra.envs.syntax.lenient_json import decode

OPEN = "<|python_tag|>"
_BETWEEN = re.compile(r"[\s,;]*")
_SPECIAL_TOKENS = re.compile(r"(?:<\|\w{1,30}\|>\s*){0,3}\Z")
_ATTEMPT = re.compile(r'[\[{]\s*\{?\s*"name"\s*:\s*"([^"]{0,100})"\s*,\s*"(?:parameters|arguments)"\s*:')
_NOT_JSON = 'a tool call must be valid JSON like {"name": "...", "parameters": {...}} and nothing else; this is not'


def write(name: str, arguments: Mapping[str, Any]) -> str:
    """Write a call: a turn of its own."""
    return to_json({"name": name, "parameters": dict(arguments)})


def read(text: str, start: int, tools: Toolbox) -> list[ToolCall]:
    """Read the rest of a turn after the tag: JSON calls, else code for the tool `python`."""
    calls = read_turn(text[start:], tools)
    if calls:
        return calls
    code = _SPECIAL_TOKENS.sub("", text[start:], count=1).strip()
    if tools is None or "python" in tools:
        return [ToolCall("python", {"code": code})]
    return [ToolCall("", error=_NOT_JSON)]


def read_turn(text: str, tools: Toolbox) -> list[ToolCall]:
    """Read a turn that is nothing but JSON calls, one after the other or in a list; else there are none."""
    text = text.strip()
    if not text.startswith(("{", "[")):
        return []
    text = _SPECIAL_TOKENS.sub("", text, count=1).rstrip()
    values, at = [], 0
    try:
        while at < len(text):
            value, at = decode(text, at)
            values.append(value)
            between = _BETWEEN.match(text, at)
            assert between is not None
            at = between.end()
    except ValueError:
        attempt = _ATTEMPT.match(text)
        return [ToolCall(attempt[1], error=_NOT_JSON)] if attempt else []
    items = [item for value in values for item in (value if isinstance(value, list) else [value])]
    return calls_from_json(items) if items and all(is_call(item, tools) for item in items) else []
