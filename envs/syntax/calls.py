"""What every syntax reads into and writes from: a call, and where in the text it stood.

Invariant: reading returns a `ToolCall` for whatever was written as a call; if it cannot be understood, the call
says so in `error`, and its arguments are empty.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from palestra.envs.syntax.lenient_json import decode

if TYPE_CHECKING:
    from palestra.envs.tools.base import Tool  # which reads its arguments with this package

Toolbox: TypeAlias = "Mapping[str, Tool] | None"
"""The tools that may be called, by name; None where they are not known."""

_ARGUMENTS = ("arguments", "parameters")
_ENVELOPE = frozenset({"name", "type", "id", *_ARGUMENTS})


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call as the model wrote it; `error` says what is wrong with its syntax, if anything is."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None


class Found(NamedTuple):
    """A call and the part [start, end) of the text that it was read from."""

    start: int
    end: int
    call: ToolCall


def to_json(value: Any) -> str:
    """Write JSON that keeps its characters, and holds no tag that ends a model's thinking (see `toolcalls`)."""
    return json.dumps(value, ensure_ascii=False).replace("</think>", r"<\/think>")


def call_from_json(value: Any) -> ToolCall:
    """Read `{"name": ..., "arguments" or "parameters": {...}}`, also inside `{"function": ...}`."""
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return ToolCall("", error='a tool call must be a JSON object with a "name"')
    name = value["name"]
    unknown = next((key for key in value if key not in _ENVELOPE), None)
    if unknown is not None:
        return ToolCall(name, error=f'"{unknown[:100]}" does not belong beside "name"; put arguments into "arguments"')
    arguments: Any = next((value[key] for key in _ARGUMENTS if key in value), {})
    if isinstance(arguments, str):
        try:
            arguments, _ = decode(arguments)
        except ValueError:
            arguments = None
    if not isinstance(arguments, dict):
        return ToolCall(name, error='the "arguments" of a tool call must be a JSON object')
    return ToolCall(name, arguments)


def is_call(value: Any, tools: Toolbox) -> bool:
    """Whether an unmarked JSON value is a tool call and nothing else: an answer must not be taken for one."""
    if isinstance(value, dict) and value.keys() <= {"function", "type", "id"}:
        value = value.get("function")
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or value.keys() - _ENVELOPE:
        return False
    return any(key in value for key in _ARGUMENTS) or (tools is not None and value["name"] in tools)


def calls_from_json(values: Sequence[Any]) -> list[ToolCall]:
    """Read each value as a call; a list is a list of calls."""
    flat = [item for value in values for item in (value if isinstance(value, list) and value else [value])]
    return [call_from_json(item) for item in flat]
