"""Tools that need no sandbox, and how arguments are checked against a schema."""

from contextlib import suppress
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palestra.envs.tools import LookupTable, TextTool, Tool, ToolError, UnitConverter
from palestra.envs.tools.base import example_of, find_fault
from palestra.envs.tools.units import DIGITS, UNITS, shown

# Arguments and schemas.


class Order(Tool):
    """Repeats its arguments."""

    name = "order"
    description = "Orders."
    parameters = {
        "what": {"type": "string", "enum": ["tea", "coffee"]},
        "sizes": {"type": "array", "items": {"type": "integer"}},
        "to": {
            "type": "object",
            "properties": {"street": {"type": "string"}, "lines": {"type": "array", "items": {"type": "string"}}},
            "required": ["street"],
        },
        "note": {"type": ["string", "null"]},
        "odd": {"anyOf": [{"type": "string"}]},
    }
    required = ("what",)

    def __call__(self, **arguments: Any) -> str:
        return ",".join(sorted(arguments))


def test_a_parameter_that_is_not_required_may_be_left_out_and_the_schema_says_so() -> None:
    assert Order().call({"what": "tea"}) == "what"
    assert Order().call({"what": "tea", "note": None, "sizes": [], "odd": 3}) == "note,odd,sizes,what"
    parameters = Order().schema()["function"]["parameters"]
    assert parameters["required"] == ["what"]
    assert parameters["properties"]["what"]["enum"] == ["tea", "coffee"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "order needs the argument 'what'."),
        ({"what": "beer"}, "the argument 'what' of order must be one of tea, coffee."),
        ({"what": 1}, "the argument 'what' of order must be of type string."),
        ({"what": "tea", "sizes": "1"}, "the argument 'sizes' of order must be of type array."),
        ({"what": "tea", "sizes": [1, "2"]}, "the argument 'sizes[1]' of order must be of type integer."),
        ({"what": "tea", "sizes": [True]}, "the argument 'sizes[0]' of order must be of type integer."),
        ({"what": "tea", "to": []}, "the argument 'to' of order must be of type object."),
        ({"what": "tea", "to": {}}, "the argument 'to' of order must have the field 'street'."),
        (
            {"what": "tea", "to": {"street": "x", "lines": ["a", 2]}},
            "the argument 'to.lines[1]' of order must be of type string.",
        ),
        ({"what": "tea", "note": 1}, "the argument 'note' of order must be of type string or null."),
        ({"what": "tea", "how": 1}, "order has no argument 'how'; it takes what, sizes, to, note, odd."),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ToolError) as caught:
        Order().call(arguments)
    assert str(caught.value) == sentence


def test_a_text_that_says_a_value_of_another_type_is_that_value() -> None:
    class Shown(Order):
        parameters = {**Order.parameters, "count": {"type": "integer"}, "hot": {"type": "boolean"}}

        def __call__(self, **arguments: Any) -> str:
            return repr(arguments)

    given = {"what": "tea", "count": " 3", "hot": "true", "sizes": "[1]", "note": "\n4\n"}
    assert Shown().call(given) == repr({"what": "tea", "count": 3, "hot": True, "sizes": [1], "note": "\n4\n"})
    with pytest.raises(ToolError, match="'count' of order must be of type integer"):
        Shown().call({"what": "tea", "count": "3.5"})


def test_an_example_is_a_call_that_passes() -> None:
    tool = Order()
    assert tool.example() == {"what": "tea", "sizes": [1], "to": {"street": "1"}, "note": "1", "odd": "1"}
    tool.check(tool.example())


@pytest.mark.parametrize(
    "schema", [{"enum": None}, {"type": [{}]}, {"type": "object", "properties": None}, True, None]
)
def test_odd_schemas_of_others_exclude_nothing(schema: Any) -> None:
    assert find_fault(schema, {"a": 1}, "x") is None
    example_of(schema)


def test_a_tool_that_returns_no_text_is_named() -> None:
    class Number(Order):
        def __call__(self, **arguments: Any) -> Any:
            return 3

    with pytest.raises(TypeError, match="the tool 'order' must return a text, not int"):
        Number().call({"what": "tea"})


def test_true_is_not_one_and_one_not_true() -> None:
    assert find_fault({"enum": [1]}, True, "x") is not None
    assert find_fault({"enum": [True]}, 1, "x") is not None
    assert find_fault({"type": "boolean"}, 1, "x") is not None
    assert find_fault({"type": "boolean"}, True, "x") is None
    assert find_fault({"type": "number"}, True, "x") is not None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["what", "sizes", "to", "note", "odd", "x"]), JSON))
def test_no_arguments_make_a_call_raise_anything_but_a_tool_error(arguments: dict[str, Any]) -> None:
    with suppress(ToolError):
        assert isinstance(Order().call(arguments), str)


def test_nesting_without_end_is_refused() -> None:
    schema: dict[str, Any] = {"type": "array"}
    schema["items"] = schema
    value: list[Any] = []
    for _ in range(500):
        value = [value]
    fault = find_fault(schema, value, "x")
    assert fault is not None
    assert fault[1] == "be nested at most 20 deep"


# Text.


@pytest.mark.parametrize(
    ("operation", "arguments", "shown"),
    [
        ("length", {}, "11"),
        ("words", {}, "2"),
        ("reverse", {}, "dlrow olleh"),
        ("upper", {}, "HELLO WORLD"),
        ("lower", {}, "hello world"),
        ("sort", {}, " dehllloorw"),
        ("count", {"part": "l"}, "3"),
        ("index", {"part": "o"}, "4"),
        ("replace", {"part": "o", "by": "00"}, "hell00 w00rld"),
        ("slice", {"start": 1, "end": 4}, "ell"),
        ("slice", {"start": -3, "end": 99}, "rld"),
    ],
)
def test_an_operation_on_a_text(operation: str, arguments: dict[str, Any], shown: str) -> None:
    assert TextTool().call({"operation": operation, "text": "hello world", **arguments}) == shown


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"operation": "count"}, "the operation 'count' needs the argument 'part'."),
        ({"operation": "upper", "part": "a"}, "the operation 'upper' does not take the argument 'part'."),
        ({"operation": "count", "part": ""}, "the argument 'part' must not be empty."),
        ({"operation": "index", "part": "z"}, "'z' does not occur in the text."),
        ({"operation": "replace", "part": "a", "by": "x" * 9_999}, "the result is longer than 10000 characters."),
        ({"operation": "length", "text": "x" * 10_001}, "the text is longer than 10000 characters."),
        ({"operation": "upper", "text": "ß" * 6_000}, "the result is longer than 10000 characters."),
    ],
)
def test_a_wrong_operation_is_explained(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ToolError) as caught:
        TextTool().call({"text": "banana", **arguments})
    assert str(caught.value) == sentence


# Units; expected values from the definitions, by hand.


@pytest.mark.parametrize(
    ("value", "unit", "to", "result"),
    [
        (1, "mi", "km", "1.609344 km"),
        (1, "ft", "in", "12 in"),
        (2.5, "yards", "feet", "7.5 ft"),
        (1, "m", "ft", "about 3.28083989501312 ft"),
        (1, "lb", "oz", "16 oz"),
        (1, "stone", "lb", "14 lb"),
        ("1/3", "hours", "min", "20 min"),
        (1, "wk", "s", "604800 s"),
        (100, "C", "F", "212 F"),
        (-40, "°F", "celsius", "-40 C"),
        (0, "K", "C", "-273.15 C"),
        (1, "C", "R", "493.47 R"),
        (1, "MB", "Mb", "8 Mbit"),
        (1, "KiB", "bytes", "1024 B"),
        (0.1, "m", "mm", "100 mm"),
        ("1e3", "Gram", "kg", "1 kg"),
    ],
)
def test_a_conversion(value: Any, unit: str, to: str, result: str) -> None:
    assert UnitConverter().call({"value": value, "unit": unit, "to": to}) == result


@pytest.mark.parametrize(
    ("value", "unit", "to", "sentence"),
    [
        (1, "ft", "kg", "ft is a unit of length and kg one of mass."),
        (-1, "K", "C", "that temperature is below absolute zero."),
        ("one", "m", "km", "'one' is no number such as 2.5, 1e3 or 1/3."),
        ("1/0", "m", "km", "division by zero."),
        (float("inf"), "m", "km", "'inf' is no number such as 2.5, 1e3 or 1/3."),
        (1, "kilomter", "m", "there is no unit 'kilomter'; near it are "),
        (1, "?", "m", "there is no unit '?'; units: m, km, "),
    ],
)
def test_what_cannot_be_converted_is_explained(value: Any, unit: str, to: str, sentence: str) -> None:
    with pytest.raises(ToolError) as caught:
        UnitConverter().call({"value": value, "unit": unit, "to": to})
    assert str(caught.value).startswith(sentence)


@given(
    st.sampled_from(sorted(UNITS)),
    st.sampled_from(sorted(UNITS)),
    st.fractions(0, 10**6, max_denominator=10**4),
)
def test_there_and_back_gives_the_value_up_to_the_rounding(unit: str, to: str, value: Fraction) -> None:
    if UNITS[unit].quantity != UNITS[to].quantity:
        return
    there = UnitConverter().call({"value": str(value), "unit": unit, "to": to}).split()
    exact = (value * UNITS[unit].factor + UNITS[unit].zero - UNITS[to].zero) / UNITS[to].factor
    error = abs(Fraction(there[-2]) - exact)
    assert error == 0 or (there[0] == "about" and error <= abs(exact) / 10 ** (DIGITS - 1))


def test_a_result_says_whether_it_is_exact() -> None:
    assert shown(Fraction(1, 8)) == "0.125"
    assert shown(Fraction(-2, 3)) == "about -0.666666666666667"
    assert shown(Fraction(10**15 + 1)) == "about 1000000000000000"
    assert shown(Fraction(0)) == "0"
    assert shown(Fraction(10**40)) == "1E+40"


# Tables.


def test_a_table_gives_the_entry_or_the_nearest_keys() -> None:
    tool = LookupTable("capital", "Gives the capital of a country.", {"France": "Paris", "Finland": "Helsinki"})
    assert tool.call({"key": "France"}) == "Paris"
    assert tool.schema()["function"]["name"] == "capital"
    for key, sentence in [
        ("france", "capital has no entry 'france'; near it are 'France'."),
        ("Finlnd", "capital has no entry 'Finlnd'; near it are 'Finland'."),
        ("Atlantis", "capital has no entry 'Atlantis'."),
    ]:
        with pytest.raises(ToolError) as caught:
            tool.call({"key": key})
        assert str(caught.value) == sentence
        assert "Helsinki" not in str(caught.value)
    with pytest.raises(ToolError, match=r"no entry 'x{100}'\."):
        tool.call({"key": "x" * 100_000})
    with pytest.raises(ValueError, match="200 characters"):
        LookupTable("t", "T.", {"x" * 201: "1"})
