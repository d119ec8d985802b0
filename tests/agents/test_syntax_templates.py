"""What the chat templates of real models write as tool calls reads back as exactly these calls.

The templates are those that TRL carries (it fills them in where it trains a model whose own lacks a feature), rendered
by transformers; `smolvlm` and others without tool calls are not among them.
"""

import json
from importlib.resources import files
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from palestra.agents.codec import tool_syntax
from palestra.envs import Tool, format_tool_call
from palestra.envs.toolcalls import ToolCall, parse_tool_calls

HERMES = ("qwen2_5", "qwen3", "qwen3_instruct_2507", "qwen3_vl")
QWEN_CODER = ("qwen3_5_think", "qwen3_5_nothink", "qwen3_6", "qwen3_8", "nemotron_3_nano", "nemotron_3_super")
QWEN_CODER += ("nemotron_3_ultra", "nemotron_3_5_lightning")
LLAMA = ("llama3_1", "llama3_2")
SYNTAX_OF = {
    **dict.fromkeys(HERMES, "hermes"),
    **dict.fromkeys(QWEN_CODER, "qwen-coder"),
    **dict.fromkeys(LLAMA, "llama"),
}


class Search(Tool):
    """Has a parameter of every type."""

    name, description = "search", "Searches."
    parameters = {
        "query": {"type": "string", "description": "what to search"},
        "limit": {"type": "integer", "description": "how many"},
        "threshold": {"type": "number", "description": "how near"},
        "exact": {"type": "boolean", "description": "whether spelled so"},
        "fields": {"type": "array", "description": "where"},
        "options": {"type": "object", "description": "more"},
    }

    def __call__(self, **arguments: Any) -> str:
        raise NotImplementedError


TOOLS = {"search": Search()}
ARGUMENTS: list[dict[str, Any]] = [
    {},
    {"query": "1/6 + 1/4"},
    {"query": 'quotes " and \' and \\ and <b>tags</b> & a\nline break; é 日本 {"name": "x"}', "limit": -3},
    {"query": "5", "limit": 0, "threshold": 0.25, "fields": [1, "a", None, {"b": [True]}]},
    {"options": {"a": {"b": "</x>"}, "c": []}, "fields": []},
    {"query": " blanks around ", "options": {"query": "<answer>5</answer>"}},
]
BOOLEANS = [{"exact": True}, {"exact": False, "query": "true"}]


def template(name: str) -> str:
    return (files("trl") / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


def render(name: str, calls: list[ToolCall], thoughts: str = "") -> str:
    """Return what the template makes of an assistant turn: what a model trained with it would sample."""
    call_dicts = [{"type": "function", "function": {"name": c.name, "arguments": c.arguments}} for c in calls]
    first = {"role": "user", "content": "Go."}
    turn = {"role": "assistant", "content": thoughts, "tool_calls": call_dicts}
    rendered = []
    for messages in ([first], [first, turn]):
        (text,), _ = render_jinja_template(
            conversations=[messages],
            chat_template=template(name),
            tools=[tool.schema() for tool in TOOLS.values()],
            bos_token="<|begin_of_text|>",
        )
        rendered.append(text)
    before, after = rendered
    assert after.startswith(before)
    _, _, turn_text = after[len(before) :].partition("assistant")
    return turn_text.removeprefix("<|end_header_id|>").strip().removesuffix("<|im_end|>")


@pytest.mark.parametrize("name", SYNTAX_OF)
@pytest.mark.parametrize("arguments", ARGUMENTS + BOOLEANS, ids=str)
def test_a_rendered_call_reads_back(name: str, arguments: dict[str, Any]) -> None:
    call = ToolCall("search", arguments)
    written = render(name, [call])
    found = parse_tool_calls(written, TOOLS)
    assert found == [call], written
    assert json.dumps(found[0].arguments) == json.dumps(arguments)  # 1 is not True


@pytest.mark.parametrize("name", [*HERMES, *QWEN_CODER])
def test_several_rendered_calls_read_back_in_order(name: str) -> None:
    calls = [ToolCall("search", arguments) for arguments in ARGUMENTS]
    written = render(name, calls, "I look for these.")
    assert written.lstrip().startswith(("I look", "<think>"))
    assert parse_tool_calls(written, TOOLS) == calls


@pytest.mark.parametrize(("name", "syntax"), SYNTAX_OF.items())
def test_the_syntax_of_a_model_is_that_of_its_template(name: str, syntax: str) -> None:
    assert tool_syntax(template(name)) == syntax
    call = ToolCall("search", ARGUMENTS[2])
    theirs = render(name, [call]).replace("<think>", "").replace("</think>", "").partition("<|eot_id|>")[0]
    ours = format_tool_call(call.name, call.arguments, syntax, TOOLS)
    assert "".join(ours.split()) == "".join(theirs.split())


@pytest.mark.parametrize("name", ["smolvlm", "gemma3", "phi3_5"])
def test_a_template_without_tool_calls_leaves_the_default(name: str) -> None:
    assert tool_syntax(template(name)) == "hermes"
