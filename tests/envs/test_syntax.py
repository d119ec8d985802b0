"""Tool calls in every syntax: what is written reads back, and whatever is written, reading is safe and fast."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from palestra.envs import Tool, ToolError
from palestra.envs.answers import MAX_ANSWER, extract_answer, plain_answer
from palestra.envs.syntax.calls import to_json
from palestra.envs.syntax.coercion import as_text, coerce
from palestra.envs.syntax.lenient_json import decode
from palestra.envs.toolcalls import SYNTAXES, ToolCall, format_tool_call, parse_tool_calls, rewrite_tool_calls

TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}


class Declared(Tool):
    """A tool with given parameters; it is not run."""

    description = "Does nothing."

    def __init__(self, name: str, **types: str) -> None:
        self.name = name
        self.parameters = {key: {"type": kind} for key, kind in types.items()}

    def __call__(self, **arguments: Any) -> str:
        raise NotImplementedError


CALCULATOR = Declared("calculator", expression="string")
LOOKUP = Declared(
    "lookup", table="string", row="integer", scale="number", exact="boolean", keys="array", more="object"
)
PYTHON = Declared("python", code="string")
TOOLS = {tool.name: tool for tool in (CALCULATOR, LOOKUP, PYTHON)}
ADD = ToolCall("calculator", {"expression": "1+1"})

tricky = st.sampled_from(
    ["</tool_call>", "<tool_call>", "</parameter>", "<parameter=a>", "</function>", "</think>", "```", "\n", '"', "'"]
    + ["\\", "{", "}", "<answer>5</answer>", "<|python_tag|>", "</tool>", "</x>", "é", "日", "\u2028", "\0", "&lt;"]
)
text = st.text(max_size=20) | st.lists(tricky | st.text(max_size=5), max_size=6).map("".join)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text
values = st.recursive(scalars, lambda x: st.lists(x, max_size=3) | st.dictionaries(text, x, max_size=3), max_leaves=6)


@pytest.mark.parametrize("syntax", SYNTAXES)
@given(name=text.filter(bool), arguments=st.dictionaries(text, values, max_size=4), known=st.booleans())
@settings(max_examples=60, deadline=None)
def test_what_is_written_reads_back(syntax: str, name: str, arguments: dict[str, Any], known: bool) -> None:
    types = {key: TYPES.get(type(value), "null") for key, value in arguments.items()}
    tool = Declared(name)
    tool.parameters = {key: {"type": kind} for key, kind in types.items()}
    tools = {name: tool} if known else None
    (call,) = parse_tool_calls(format_tool_call(name, arguments, syntax, tools), tools)
    assert (call.name, to_json(call.arguments), call.error) == (name, to_json(arguments), None)


word = st.from_regex(r"[a-z][a-z_0-9]{0,8}", fullmatch=True)
plain = st.text(alphabet="abc é+-*/()=.,:;?'\"\\{}[] \n日", max_size=30).filter(lambda t: t == t.strip("\n"))


@pytest.mark.parametrize(
    ("syntax", "mark"),
    [
        ("hermes", '<tool_call>{"name"'),
        ("llama", '"parameters"'),
        ("fenced", "```tool_call\n"),
        ("xml", '<tool name="'),
        ("qwen-coder", "<tool_call>\n<function="),
    ],
)
@given(text=plain, row=st.integers(), exact=st.booleans(), keys=st.lists(st.integers() | plain, max_size=3))
@settings(max_examples=60, deadline=None)
def test_a_syntax_is_used_for_all_it_can_say(
    syntax: str, mark: str, text: str, row: int, exact: bool, keys: list[Any]
) -> None:
    arguments = {"table": text, "row": row, "exact": exact, "keys": keys, "more": {"a": keys}, "scale": 0.5}
    written = format_tool_call("lookup", arguments, syntax, TOOLS)
    assert mark in written
    assert parse_tool_calls(written, TOOLS) == [ToolCall("lookup", arguments)]


def test_python_is_written_as_code_in_the_fenced_syntax() -> None:
    code = "for i in range(3):\n    print('<b>', i)"
    written = format_tool_call("python", {"code": code}, "fenced", TOOLS)
    assert written == f"```python\n{code}\n```"
    assert parse_tool_calls(f"I count.\n{written}\nThen I answer.", TOOLS) == [ToolCall("python", {"code": code})]


@pytest.mark.parametrize(
    "written",
    [
        "Let me see. <tool_call>{'name': 'calculator', 'arguments': {'expression': '1+1',},}</tool_call>",
        '<tool_call>\n{"name": "calculator", "arguments": {"expression": "1+1"}\n</tool_call>',
        '<tool_call>{"name": "calculator", "arguments": {"expression": "1+1"}}}</tool_call>',
        '<tool_call>{"name": "calculator", "arguments": {"expression": "1+1"}}\nNow I wait.',
        '<tool_call>{"name": "calculator", "arguments": "{\\"expression\\": \\"1+1\\"}"}</tool_call>',
        '<tool_call>[{"name": "calculator", "parameters": {"expression": "1+1"}}]</tool_call>',
        '<tool_call>{"type": "function", "function": {"name": "calculator", "arguments": {"expression": "1+1"}}}',
        '<think>Or <tool_call>{"name": "x"}</tool_call>?</think>'
        '<tool_call>{"name": "calculator", "arguments": {"expression": "1+1"}}</tool_call>',
        'Perhaps <tool_call>{"name": "x"}</tool_call>.</think>\n{"name": "calculator", "arguments": '
        '{"expression": "1+1"}}',
        '{"name": "calculator", "parameters": {"expression": "1+1"}}',
        '  {"name": "calculator", "parameters": {"expression": "1+1"}} <|eom_id|>\n',
        '[{"name": "calculator", "arguments": {"expression": "1+1"}}]',
        'I add. <|python_tag|>{"name": "calculator", "parameters": {"expression": "1+1"}}<|eom_id|>',
        '<function=calculator>{"expression": "1+1"}</function>',
        '<function=calculator>{"expression": "1+1"}',
        '```json\n{"name": "calculator", "arguments": {"expression": "1+1"}}\n```',
        '```tool_call\n{"name": "calculator", "arguments": {"expression": "1+1"}}\n```',
        '<tool name="calculator"><expression>1+1</expression></tool>',
        "<tool name='calculator'>1+1</tool>",
        '<tool name="calculator">{"expression": "1+1"}</tool>',
        '<function_calls>\n<invoke name="calculator">\n<parameter name="expression">1+1</parameter>\n</invoke>\n'
        "</function_calls>",
        "<tool_call>\n<function=calculator>\n<parameter=expression>\n1+1\n</parameter>\n</function>\n</tool_call>",
        "<function=calculator>\n<parameter=expression>\n1+1\n</function>",
    ],
)
def test_ways_to_write_the_same_call(written: str) -> None:
    assert parse_tool_calls(written, TOOLS) == [ADD]


def test_several_calls_come_in_order() -> None:
    calls = [ToolCall("calculator", {"expression": str(n)}) for n in range(3)]
    for syntax in SYNTAXES:
        written = [format_tool_call(c.name, c.arguments, syntax, TOOLS) for c in calls]
        for between in ("", "\n"):
            assert parse_tool_calls(between.join(written), TOOLS) == calls
    in_one_block = "\n".join(f'{{"name": "calculator", "arguments": {{"expression": "{n}"}}}}' for n in range(3))
    assert parse_tool_calls(f"<tool_call>{in_one_block}</tool_call>", TOOLS) == calls
    unclosed = "".join(f'<tool_call>{{"name": "calculator", "arguments": {{"expression": "{n}"}}}}' for n in range(3))
    assert parse_tool_calls(unclosed, TOOLS) == calls
    assert parse_tool_calls(in_one_block.replace("\n", "; "), TOOLS) == calls


@pytest.mark.parametrize(
    ("written", "part"),
    [
        ("<tool_call>{broken</tool_call>", "valid JSON"),
        ('<tool_call>{"name": "calculator", "arguments": {"expression": "1+', "valid JSON"),
        ('<tool_call>{"name": "lookup", "arguments": {"more": {"a": 1}, "row": 2}</tool_call>', "valid JSON"),
        ('<tool_call>{"name": "lookup", "arguments": {"row": 1}}, "exact": true}</tool_call>', "valid JSON"),
        ('<tool_call>{"name": "lookup", "arguments": {"row": NaN}}</tool_call>', "valid JSON"),
        ('<tool_call>{"name": "calculator", "expression": "1+1"}</tool_call>', '"expression" does not belong'),
        ('<tool_call>{"name": "calculator", "arguments": [1]}</tool_call>', "must be a JSON object"),
        ("<tool_call></tool_call>", "valid JSON"),
        ('{"name": "calculator", "parameters": {"output": 1}', "valid JSON"),
        ("```tool_call\ncalculator(1)\n```", "must hold JSON"),
        ('<tool name="calculator">1+1', "no closing tag"),
        ('<tool name="lookup">1+1</tool>', "in tags of their own"),
        ("<function=lookup><parameter=row>1", "has no end"),
        ("<function=lookup><parameter=row>1</paramter></function>", "has no end"),
        (
            "<function=lookup><parameter=row>1</parameter> and <parameter=exact>true</parameter></function>",
            "closing tag",
        ),
        ("<function=calculator><parameter=expression>1+1</parameter>", "closing tag"),
    ],
)
def test_a_broken_call_comes_back_with_its_error(written: str, part: str) -> None:
    (call,) = parse_tool_calls(written, TOOLS)
    assert part in (call.error or "")
    assert call.arguments == {}


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        ('{"answer": 5}', "5"),
        ('```json\n{"answer": 5}\n```', "5"),
        ('{"name": "Ann", "answer": 5}', "5"),
        ('[{"name": "Ann"}, {"answer": 5}]', "5"),
        ('<answer>{"name": "calculator", "parameters": {}}</answer>', '{"name": "calculator", "parameters": {}}'),
        ('I call {"name": "calculator", "parameters": {"output": 5}}', None),
        ("I could write <answer> or <b>.", None),
        ("```python\nprint(1)\n```", None),
    ],
)
def test_an_answer_is_no_call_and_arguments_are_no_answer(written: str, answer: str | None) -> None:
    assert parse_tool_calls(written, {"calculator": CALCULATOR}) == []
    assert extract_answer(written) == answer


def test_code_between_answer_tags_is_no_call() -> None:
    assert parse_tool_calls("<answer>\n```python\nprint(1)\n```\n</answer>", TOOLS) == []
    two = "```python\nprint(1)\n```\n<answer>\n```python\nprint(2)\n```\n</answer>"
    assert parse_tool_calls(two, TOOLS) == [ToolCall("python", {"code": "print(1)"})]


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("5", "integer", 5),
        ("\n-5\n", "integer", -5),
        ("5.0", "integer", "5.0"),
        ("9" * 5_000, "integer", "9" * 5_000),
        ("5", "number", 5),
        (" 2.5e3 ", "number", 2500.0),
        ("1e999", "number", "1e999"),
        ("nan", "number", "nan"),
        ("٣", "integer", "٣"),
        ("true", "boolean", True),
        ("False", "boolean", False),
        ("yes", "boolean", "yes"),
        ("[1, 'a', None,]", "array", [1, "a", None]),
        ('{"a": 1}', "array", '{"a": 1}'),
        ("{'a': True}", "object", {"a": True}),
        ("5", "string", "5"),
        ("\n\nx\n\n", "string", "\nx\n"),
        ("5", "unheard-of", "5"),
    ],
)
def test_bare_text_gets_the_declared_type(text: str, kind: str, value: Any) -> None:
    found = coerce(text, {"type": kind})
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": ["integer", "null"]}, 5),
        ({"anyOf": [{"type": "null"}, {"type": "integer"}]}, 5),
        ({"type": ["string", "integer"]}, "5"),
        ({}, "5"),
        (True, "5"),
    ],
)
def test_any_schema_is_understood_or_left_alone(schema: Any, value: Any) -> None:
    assert coerce("5", schema) == value


@given(values)
def test_a_value_as_text_gets_its_type_back(value: Any) -> None:
    assume(not isinstance(value, str) or value == value.strip("\n"))
    assume(not (isinstance(value, int) and abs(value) > 10**299))
    assert to_json(coerce(as_text(value), {"type": TYPES.get(type(value), "null")})) == to_json(value)


@given(values)
def test_json_is_read_as_json(value: Any) -> None:
    written = to_json(value)
    assert decode(written) == (value, len(written))


@given(values)
def test_python_literals_are_read_as_python_does(value: Any) -> None:
    written = repr(value)
    assume("\\x" not in written and "\\U" not in written)  # escapes that JSON lacks stay as they are written
    found, end = decode(written)
    assert (repr(found), end) == (written, len(written))


MARKUP = [
    "<tool_call>",
    "</tool_call>",
    "<function=f>",
    "</function>",
    "<parameter=x>",
    "</parameter>",
    "<tool name=f>",
]
MARKUP += ["</tool>", '<invoke name="f">', "<parameter name='x'>", "<x>", "</x>", "```python\n", "```json\n", "```"]
MARKUP += ["```tool_call\n", "<|python_tag|>", "<|eom_id|>", "</think>", "{", "}", "[", "]", '"', "'", ":", ",", "\\"]
MARKUP += ['{"name": "f", "arguments": {', '{"name": "f", "parameters": {}}', "<answer>", "</answer>", "\\boxed{", " "]
soup = st.lists(st.sampled_from(MARKUP) | st.text(max_size=3), max_size=30).map("".join)


@given(st.text() | soup, st.sampled_from([None, {}, TOOLS]))
@settings(max_examples=300, deadline=None)
@example("<function=f><parameter=x>", None)
@example("{" * 10_000, None)
@example("<tool_call>" + "[" * 100_000, None)
@example("<tool_call>" + "['" * 10_000, None)
@example("<tool_call>" + "9" * 10_000, None)
def test_reading_any_text_never_raises(text: str, tools: Any) -> None:
    for call in parse_tool_calls(text, tools):
        assert isinstance(call.name, str)
        assert call.error is None or not call.arguments
    extract_answer(text, fenced=True)
    rewrite_tool_calls(text, "xml", tools)


@given(soup | text, text, soup | text, st.sampled_from([None, {}, TOOLS]), st.booleans())
@settings(max_examples=300, deadline=None)
@example("{", "", "", None, False)
@example("", "```python\nx\n```", "", TOOLS, True)
@example("", "12", "", TOOLS, True)
@example("", "x²٣", "", None, False)
def test_the_glance_agrees_with_the_closer_look(
    before: str, answer: str, after: str, tools: Any, fenced: bool
) -> None:
    written = f"{before}<answer>{answer}</answer>{after}"
    glance = plain_answer(written)
    if glance is not None:
        assert parse_tool_calls(written, tools) == []
        assert extract_answer(written, fenced=fenced) == glance
    assert plain_answer(before + after) is None or "<answer>" in before + after


def test_the_glance_suffices_for_words_and_an_answer() -> None:
    assert plain_answer("So 2 > 1, hence\n<answer> {5} </answer> and that is it.") == "{5}"
    assert plain_answer("<answer>12</answer>") == "12"
    assert plain_answer(f"<answer>{'1' * MAX_ANSWER}</answer>") is None


@pytest.mark.parametrize(
    "written",
    [
        r"<answer>$\boxed{9/22}$</answer>",
        r"<answer>\boxed{9/22}.</answer>",
        r"<answer>\[ \boxed{9/22} \]</answer>",
        "<answer>```\n9/22\n```</answer>",
        "<answer>```text\n9/22\n```</answer>",
        "<answer>9/22</answer></answer>",
        "<answer><answer>9/22</answer></answer>",
        "<answer>1</answer> No: <answer>9/22</answer>, which I closed with `</answer>`.",
    ],
)
def test_what_is_wrapped_around_an_answer_does_not_count(written: str) -> None:
    assert extract_answer(written) == "9/22"


def test_braces_in_a_box_are_matched() -> None:
    formula = r"\frac{8}{3-\frac{8}{3}}"
    for written in (r"\boxed{%s}", r"<answer>\boxed{%s}</answer>", r"<answer>$\boxed{%s}$</answer>"):
        assert extract_answer(written % formula) == formula
    assert extract_answer(r"<answer>\boxed{1} or \boxed{2}</answer>") == r"\boxed{1} or \boxed{2}"


# Repeated, each of these makes a careless reader start over and over again.
HOSTILE = [*MARKUP, "<tool_call>{'a':\"", '<tool_call>{"a": \'', "<function=f><parameter=x>", "<tool name=f><x>"]
HOSTILE += ["<function=f>{", "<tool ", "<function ", "</parameter>   ", "```json\n{", "```python\nx", "<|a|> ", "\\\\"]
HOSTILE += ["<tool_call>{}", '<tool_call>{"name": "f"}', "<tool_call>\n\n<function=f>", '{"name": "f"},', "</answer>"]
HOSTILE += ["\\u12", "<tool_call>{'", "\n", "   {", "<tool name=f>{'a': '"]


@pytest.mark.parametrize("unit", HOSTILE)
@pytest.mark.parametrize(
    "head", ["", *(pytest.param(h, marks=pytest.mark.slow) for h in ("<tool_call>", "<tool name=f><x>", "{", "['"))]
)
def test_time_is_linear(unit: str, head: str) -> None:
    def seconds(read: Callable[[str], object], size: int) -> float:
        text = head + unit * (size // len(unit))
        best = float("inf")
        for _ in range(2):
            start = time.process_time()
            read(text)
            best = min(best, time.process_time() - start)
        return best

    for read in (lambda t: parse_tool_calls(t, TOOLS), lambda t: extract_answer(t, fenced=True)):
        small = seconds(read, 5_000)
        large = seconds(read, 40_000)
        assert large < 24 * small + 0.005, (small, large)  # eight times the text; quadratic would be 64 times the time


# No string: beside one that is written as bare text, damage is text.
LOOKUP_ARGUMENTS = {"row": 12, "scale": 0.5, "exact": True, "keys": [1, [2]], "more": {"a": {"b": 3}}}


def is_refused(call: ToolCall, tool: Tool) -> bool:
    if call.error or call.name != tool.name:
        return True
    try:
        tool.check(call.arguments)
    except ToolError:
        return True
    return False


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_damaged_call_is_the_same_call_or_an_error(syntax: str) -> None:
    tool = Declared("lookup", **{key: TYPES[type(value)] for key, value in LOOKUP_ARGUMENTS.items()})
    written = format_tool_call("lookup", LOOKUP_ARGUMENTS, syntax, {"lookup": tool})
    for at, character in enumerate(written):
        if character in '{}[]":,<>/=`\n ':
            for damage in ("", character * 2, "x"):
                for call in parse_tool_calls(written[:at] + damage + written[at + 1 :], {"lookup": tool}):
                    assert is_refused(call, tool) or call == ToolCall("lookup", LOOKUP_ARGUMENTS), (at, damage)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_call_cut_off_anywhere_is_never_another_call(syntax: str) -> None:
    arguments = {"table": "x y", **LOOKUP_ARGUMENTS}
    written = format_tool_call("lookup", arguments, syntax, TOOLS)
    for end in range(len(written)):
        for call in parse_tool_calls(written[:end], TOOLS):
            assert call.error or call == ToolCall("lookup", arguments)


def test_rewriting_keeps_what_stands_around_a_call() -> None:
    turn = f"First {format_tool_call('calculator', {'expression': '1+1'})}, then\n<answer>?</answer>"
    rewritten = rewrite_tool_calls(turn, "xml", TOOLS)
    assert rewritten == 'First <tool name="calculator"><expression>1+1</expression></tool>, then\n<answer>?</answer>'
    assert rewrite_tool_calls(turn, "llama", TOOLS) == turn  # in that syntax a call is the whole turn
