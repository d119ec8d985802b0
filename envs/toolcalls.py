"""Parsers for the tool-call syntaxes that models write, kept apart from the tools themselves.

Understood: Hermes/Qwen `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, and a fenced
```python block (a call of the tool `python`). A malformed call is data too: it comes back with its error.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_BLOCK = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_FENCE = re.compile(r"```(?:python|py)[ \t]*\n(.*?)```", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call as the model wrote it; `error` says what is wrong with its syntax, if anything is."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None


def parse_tool_calls(text: str) -> list[ToolCall]:
    """Return the tool calls of one assistant turn, in order; never raises.

    A fenced python block counts only where no `<tool_call>` stands.
    """
    blocks = [_parse_json_call(body) for body in _BLOCK.findall(text)]
    if blocks:
        return blocks
    return [ToolCall("python", {"code": code}) for code in _FENCE.findall(text)]


def format_tool_call(name: str, arguments: Mapping[str, Any]) -> str:
    """Write a call in the Hermes/Qwen syntax, so that `parse_tool_calls` gives it back."""
    return f"<tool_call>{json.dumps({'name': name, 'arguments': dict(arguments)}, ensure_ascii=False)}</tool_call>"


def _parse_json_call(body: str) -> ToolCall:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return ToolCall(
            "",
            error='a <tool_call> must hold valid JSON like {"name": "...", "arguments": {...}}; and this is not',
        )
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return ToolCall("", error='a tool call must be a JSON object with a "name"')
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            arguments = None
    if not isinstance(arguments, dict):
        return ToolCall(value["name"], error='the "arguments" of a tool call must be a JSON object')
    return ToolCall(value["name"], arguments)
