"""Parsers of model text: answers, tool calls, the calculator."""

import contextlib
import gc
import operator
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palestra.envs import make
from palestra.envs.answers import extract_answer
from palestra.envs.toolcalls import ToolCall, format_tool_call, parse_tool_calls
from palestra.envs.tools.base import ToolError
from palestra.envs.tools.calculator import Calculator, evaluate


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer> 5/12 </answer>", "5/12"),
        ("<answer>1</answer> no, <answer>2</answer>", "2"),
        ("<ANSWER>x</ANSWER>", "x"),
        (r"thus \boxed{\frac{5}{12}}", r"\frac{5}{12}"),
        (r"\boxed{1", None),
        ('{"output": "abc"}', "abc"),
        ('first {"answer": 1} then {"answer": 2.5}', "2.5"),
        ('{"note": "x"} {"answer": "y"} {"z": 1}', "y"),
        ('{"answer": true}', None),
        ("no answer", None),
        ("<answer>open", None),
        (f"<answer>{'1' * 10_001}</answer>", None),
        ("", None),
    ],
)
def test_answers(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@given(st.text())
def test_extraction_never_raises(text: str) -> None:
    extract_answer(text)
    parse_tool_calls(text)


@given(st.text(alphabet='{}<>/\\"answerboxd_tol: ,1', max_size=300))
def test_extraction_survives_markup_soup(text: str) -> None:
    extract_answer(text)
    parse_tool_calls(text)


OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda x: st.lists(x) | st.dictionaries(st.text(), x),
)


@given(st.text(min_size=1), st.dictionaries(st.text(), json_values))
def test_tool_calls_round_trip(name: str, arguments: dict[str, object]) -> None:
    text = format_tool_call(name, arguments)
    if "</tool_call>" in name + repr(arguments) or "<tool_call>" in name + repr(arguments):
        return
    assert parse_tool_calls(f"Let me see. {text} Done.") == [ToolCall(name, arguments)]


def test_arguments_may_be_a_json_string_and_an_open_call_counts() -> None:
    assert parse_tool_calls('<tool_call>{"name": "f", "arguments": "{\\"x\\": 1}"}') == [ToolCall("f", {"x": 1})]
    assert parse_tool_calls("```python\nprint(1)\n```") == [ToolCall("python", {"code": "print(1)"})]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1/6 + 1/4", Fraction(5, 12)),
        ("(1*2+2*3)/(4*6)", Fraction(1, 3)),
        ("-2^2", Fraction(-4)),
        ("2^-2", Fraction(1, 4)),
        ("2**3**2", Fraction(512)),
        ("1-2-3", Fraction(-4)),
        ("12/2/3", Fraction(2)),
        ("0.1+0.2", Fraction(3, 10)),
        ("3 × 4 ÷ 6 − 1", Fraction(1)),
        ("--3", Fraction(3)),
        ("2*-3", Fraction(-6)),
    ],
)
def test_calculator_is_exact(expression: str, value: Fraction) -> None:
    assert evaluate(expression) == value
    assert Calculator().call({"expression": expression}) == str(value)


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "1+",
        "(1",
        "1)",
        "1 2",
        "a",
        "__import__('os')",
        "1/0",
        "0^-1",
        "0^(0-1)",
        "(0/5)^(1-2)",
        "٣+٤",
        "2^0.5",
        "9^9^9",
        "2^1001",
        "(" * 60 + "1" + ")" * 60,
        "2^" * 60 + "1",
        "9" * 1_001,
        "*".join(["9" * 300] * 20),
    ],
)
def test_calculator_refuses(expression: str) -> None:
    with pytest.raises(ToolError):
        evaluate(expression)


Tree = int | tuple["Tree", str, "Tree"]
trees = st.recursive(st.integers(0, 50), lambda x: st.tuples(x, st.sampled_from("+-*/"), x), max_leaves=8)


def as_text(tree: Tree) -> str:
    return str(tree) if isinstance(tree, int) else f"({as_text(tree[0])}{tree[1]}{as_text(tree[2])})"


def as_value(tree: Tree) -> Fraction:
    if isinstance(tree, int):
        return Fraction(tree)
    return OPERATORS[tree[1]](as_value(tree[0]), as_value(tree[2]))


@given(trees)
def test_calculator_agrees_with_fractions(tree: Tree) -> None:
    try:
        expected = as_value(tree)
    except ZeroDivisionError:
        with pytest.raises(ToolError, match="division by zero"):
            evaluate(as_text(tree))
    else:
        assert evaluate(as_text(tree)) == expected


@given(st.text(max_size=60))
def test_calculator_never_raises_anything_else(text: str) -> None:
    with contextlib.suppress(ToolError):
        evaluate(text)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"<answer>\boxed{5/12}</answer>", "5/12"),
        (r"\boxed {\text{ege}}", "ege"),
        ("<answer>**1036**</answer>", "1036"),
        ("<answer>`ege`</answer>", "ege"),
        ("<answer>a*b**c</answer>", "a*b**c"),
        ("<think>try <answer>1/9</answer></think>\n\\boxed{3}", "3"),
        ("<think>maybe <answer>3</answer>?</think>\nI give up.", None),
        ("<think>it may be <answer>3</answer> or", None),
    ],
)
def test_marks_around_an_answer_and_drafts_in_thought_do_not_count(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


HUGE = {
    "tags": "<tool_call>" * 90_909,
    "broken calls": "<tool_call>{" * 83_333,
    "fences": "```json\n" * 125_000,
    "broken fences": "```json\n{'a':" * 76_923,
    "nested objects": '{"a":' * 64 + "[[]" + ",[]" * 333_200,
    "one long call": "<tool_call>{'name':'x','arguments':{'a':[" + "1," * 499_900 + "1</tool_call>",
}


@pytest.mark.parametrize("kind", HUGE)
def test_a_turn_of_a_million_characters_costs_little(kind: str) -> None:
    env = make("palestra/Dice-v0")
    env.reset(options={"index": 3})
    gc.disable()  # a collection costs what all other tests left behind
    try:
        before = time.thread_time()
        env.step(HUGE[kind])
        assert time.thread_time() - before < 1.0
    finally:
        gc.enable()
