"""Tool calls in the text of a turn: one lenient reader for every syntax, and writers for each.

What counts as a call, in this order: tags (`<tool_call>`, `<function=...>`, `<tool name=...>`, `<invoke name=...>`,
`<|python_tag|>`), wherever they stand; else fenced blocks; else JSON calls that are the whole turn. What a model
thinks (up to the last `</think>`) is not acted on.

Invariants: reading never raises and takes linear time; a malformed call is data too and comes back with its error;
what `format_tool_call` writes reads back as the same call, whatever its arguments.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from palestra.envs.syntax import fenced, hermes, llama, qwen_coder, xml
from palestra.envs.syntax.calls import Found, Toolbox, ToolCall, to_json
from palestra.envs.syntax.lenient_json import skip_space

__all__ = ["SYNTAXES", "ToolCall", "format_tool_call", "parse_tool_calls", "rewrite_tool_calls"]

SYNTAXES: Mapping[str, Callable[[str, Mapping[str, Any]], str]] = {
    "hermes": hermes.write,
    "llama": llama.write,
    "fenced": fenced.write,
    "xml": xml.write,
    "qwen-coder": qwen_coder.write,
}
"""Name of a syntax -> writes a call in it."""
MAX_READ = 64
"""Calls that are read in one turn, far more than are ever run: a text of nothing but tags must cost little."""
_TAG = re.compile(rf"{hermes.OPEN}|{re.escape(llama.OPEN)}|{xml.OPENER}")


def parse_tool_calls(text: str, tools: Toolbox = None) -> list[ToolCall]:
    """Return the tool calls of one assistant turn, in order; never raises.

    Args:
        text: The turn.
        tools: What may be called: gives arguments written as bare text their types. A fenced Python block is a
            call only if there is a tool `python`. None if nothing is known about the tools.
    """
    if "<" in text and (found := _tagged(text, tools)):
        return [f.call for f in found]
    if "```" in text and (found := _fenced(_said(text), tools)):
        return [f.call for f in found]
    return llama.read_turn(_said(text), tools) if "{" in text else []


def format_tool_call(name: str, arguments: Mapping[str, Any], syntax: str = "hermes", tools: Toolbox = None) -> str:
    """Write a call so that `parse_tool_calls` gives it back.

    What a syntax cannot say (a closing tag inside a value, a type that the tool does not declare) is written in the
    Hermes syntax.
    """
    written = SYNTAXES[syntax](name, arguments)
    if syntax == "hermes" or _same(parse_tool_calls(written, tools), [ToolCall(name, arguments)]):
        return written
    return hermes.write(name, arguments)


def rewrite_tool_calls(text: str, syntax: str, tools: Toolbox = None) -> str:
    """Return a turn with its tagged calls written in `syntax`; unchanged if it would then read differently."""
    found = _tagged(text, tools)
    pieces, at = [], 0
    for start, end, call in found:
        pieces += [text[at:start], format_tool_call(call.name, call.arguments, syntax, tools)]
        at = end
    rewritten = "".join([*pieces, text[at:]])
    return rewritten if _same(parse_tool_calls(rewritten, tools), [f.call for f in found]) else text


def _tagged(text: str, tools: Toolbox) -> list[Found]:
    found: list[Found] = []
    at = text.rfind("</think>") + 1
    for _ in range(MAX_READ):
        tag = _TAG.search(text, at)
        if tag is None:
            break
        start, at = tag.span()
        if tag[3] is not None:
            call, at = xml.read(text, tag, tools)
            found.append(Found(start, at, call))
        elif tag[0] == llama.OPEN:
            found += [Found(start, len(text), call) for call in llama.read(text, at, tools)]
            break
        elif not ((inside := _TAG.match(text, skip_space(text, at))) and inside[3]):
            calls, at = hermes.read(text, at)
            found += [Found(start, at, call) for call in calls]
    return found


def _fenced(text: str, tools: Toolbox) -> list[Found]:
    """A block between answer tags is an answer and no call, even where code is asked for and `python` is a tool."""
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    return [f for f in fenced.read_all(text, tools) if start < 0 or not start < f.start < end]


def _said(text: str) -> str:
    """Return what follows a model's thoughts."""
    return text[text.rfind("</think>") + len("</think>") :] if "</think>" in text else text


def _same(found: list[ToolCall], wanted: list[ToolCall]) -> bool:
    """Compare with types: to Python, 1, 1.0 and True are equal."""
    return [_spelled(call) for call in found] == [_spelled(call) for call in wanted]


def _spelled(call: ToolCall) -> tuple[str, str, str | None]:
    return call.name, to_json(dict(call.arguments)), call.error
