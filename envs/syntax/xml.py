"""XML tags, as several families write calls.

`<tool name="calculator"><expression>1+1</expression></tool>` (this one is written), `<invoke name="...">` with
`<parameter name="...">`, Qwen3-Coder's `<function=...>` with `<parameter=...>` (`qwen_coder` writes it), and Llama's
`<function=...>{...}</function>`. Values are raw text, without entities, and get the types that the tool declares.
"""

import re
from collections.abc import Mapping
from typing import Any

from palestra.envs.syntax.calls import Toolbox, ToolCall
from palestra.envs.syntax.coercion import as_text, coerce
from palestra.envs.syntax.lenient_json import decode, skip_space

OPENER = r"<(?:(tool|invoke|function)[ \t]{1,8}name=|(function)=)[\"']?([^\"'<>\n]{1,100})[\"']?[ \t]{0,8}(/?)>"
"""Matches an opening tag; groups: its kind (one of two), the tool's name, and a slash if nothing follows."""
_CLOSERS = "</(?:tool|invoke|function|tool_call|function_calls|tool_calls)>"
_PARAMETER = re.compile(r"<parameter(?:=|[ \t]{1,8}name=)[\"']?([^\"'>\n]{1,100})[\"']?[ \t]{0,8}>")
_VALUE_END = re.compile(rf"</parameter>|(?=<parameter[= ]|{_CLOSERS})|\Z")
_CLOSER = re.compile(_CLOSERS)
_CHILD = re.compile(r"<([A-Za-z_][\w.-]{0,100})>")


def write(name: str, arguments: Mapping[str, Any]) -> str:
    """Write a call, one tag per argument."""
    body = "".join(f"<{key}>{as_text(value)}</{key}>" for key, value in arguments.items())
    return f'<tool name="{name}">{body}</tool>'


def read(text: str, opener: re.Match[str], tools: Toolbox) -> tuple[ToolCall, int]:
    """Read the call that an opening tag (see `OPENER`) begins; return it and where it ends."""
    name, start = opener[3].strip(), opener.end()
    if opener[4]:
        return ToolCall(name), start
    tag = opener[1] or opener[2]
    parameters = tools[name].parameters if tools is not None and name in tools else {}
    inside = skip_space(text, start)
    if _PARAMETER.match(text, inside):
        return _read_parameters(text, inside, name, tag, parameters)
    if text.startswith("{", inside):
        try:
            arguments, end = decode(text, inside)
        except ValueError:
            pass
        else:
            closed = text.startswith(f"</{tag}>", skip_space(text, end))
            if closed or skip_space(text, end) == len(text):
                return ToolCall(name, arguments), _past(text, end, tag)
    closing = re.compile(rf"</{tag}>|(?=<{tag}[ =])|\Z").search(text, start)
    assert closing is not None
    if not closing[0]:
        return ToolCall(name, error="the call has no closing tag"), closing.end()
    return _read_body(text[start : closing.start()], name, parameters), closing.end()


def _read_parameters(text: str, at: int, name: str, tag: str, parameters: Mapping[str, Any]) -> tuple[ToolCall, int]:
    arguments: dict[str, Any] = {}
    error = None
    while opening := _PARAMETER.match(text, at):
        end = _VALUE_END.search(text, opening.end())
        assert end is not None
        key, value = opening[1].strip(), text[opening.end() : end.start()]
        if not end[0] and (end.end() == len(text) or "</" in value):
            error = f"the parameter '{key}' has no end"
        arguments[key] = coerce(value, parameters.get(key, {}))
        at = skip_space(text, end.end())
    if not _CLOSER.match(text, at):
        error = error or "the parameters are not followed by a closing tag"
    return ToolCall(name, {} if error else arguments, error), _past(text, at, tag)


def _read_body(body: str, name: str, parameters: Mapping[str, Any]) -> ToolCall:
    arguments = _children(body, parameters)
    if len(parameters) == 1 and (arguments is None or arguments.keys() - parameters.keys()) and "</" not in body:
        ((key, schema),) = parameters.items()
        arguments = {key: coerce(body, schema)}
    if arguments is None:
        return ToolCall(name, error="the arguments of a call stand in tags of their own, <name>value</name>")
    return ToolCall(name, arguments)


def _children(body: str, parameters: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read a body that is nothing but `<key>value</key>`, one after the other; None if it is not."""
    arguments: dict[str, Any] = {}
    at = skip_space(body, 0)
    while at < len(body):
        child = _CHILD.match(body, at)
        end = body.find(f"</{child[1]}>", child.end()) if child else -1
        if child is None or end < 0:
            return None
        arguments[child[1]] = coerce(body[child.end() : end], parameters.get(child[1], {}))
        at = skip_space(body, end + len(child[1]) + 3)
    return arguments


def _past(text: str, at: int, tag: str) -> int:
    """Return where the closing tag ends, if it stands at `at`."""
    at = skip_space(text, at)
    return at + len(tag) + 3 if text.startswith(f"</{tag}>", at) else at
