"""The expression parser as graders use it; `test_text.py` has the calculator's grammar."""

import contextlib
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palestra.envs.expressions import ExpressionError, evaluate, in_lowest_terms, parse_formula, parse_fraction


@pytest.mark.parametrize(
    ("text", "value", "numbers"),
    [
        ("8/(3-8/3)", 24, (8, 3, 8, 3)),
        ("8 ÷ (3 − 8 ÷ 3) = 24", 24, (8, 3, 8, 3)),
        ("24 = 3*8", 24, (3, 8)),
        ("6*4=12*2=24", 24, (6, 4)),
        ("3 x 8", 24, (3, 8)),
        (r"$\frac{8}{3-\frac{8}{3}}$", 24, (8, 3, 8, 3)),
        (r"8 / \frac{8}{3}", 3, (8, 8, 3)),
        (r"\left(1+2\right) \times 8 \div 1 \cdot 1", 24, (1, 2, 8, 1, 1)),
        ("`(1+2)*8`", 24, (1, 2, 8)),
        ("-(1-9)*3", 24, (1, 9, 3)),
        ("03*8.", 24, (3, 8)),
        ("24", 24, (24,)),
        ("24 = 24", 24, (24,)),
        ("[(1 X 2) ⋅ 8] • 3 : 2", 24, (1, 2, 8, 3, 2)),
        ("$$3 ✕ 8$$", 24, (3, 8)),
        ("30 － 6", 24, (30, 6)),
    ],
)
def test_formulas_are_read_with_their_literals(text: str, value: int, numbers: tuple[int, ...]) -> None:
    assert parse_formula(text) == (Fraction(value), numbers)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "ends too early"),
        ("3+", "ends too early"),
        ("3 8", "unexpected '8'"),
        ("3(8)", "unexpected '('"),
        ("4!", "unexpected '!'"),
        ("K*2", "unexpected 'K'"),
        ("2^3", "'^' is not allowed"),
        ("2**3", "'^' is not allowed"),
        ("1.5*16", "'1.5' is not allowed"),
        ("8/(3-3)", "division by zero"),
        (r"\frac{8}{3-3}", "division by zero"),
        (r"\frac 8 3", "two groups"),
        ("1+" * 100 + "1", "longer than 200"),
        ("(" * 60 + "1" + ")" * 60, "deeper than 50"),
        (r"\frac{" * 30 + "1", "ends too early"),
        ("__import__('os').system('true')", "unexpected '_'"),
        ("٣*٨", "unexpected '٣'"),
    ],
)
def test_what_is_no_formula_is_refused_with_the_reason(text: str, part: str) -> None:
    with pytest.raises(ExpressionError) as error:
        parse_formula(text)
    assert part in str(error.value)


@given(st.text(alphabet="0123456789+-*/()x={}\\frac.^ ×÷$", max_size=250) | st.text(max_size=60))
def test_no_text_raises_anything_else(text: str) -> None:
    parse_fraction(text)
    for read in (parse_formula, evaluate):
        with contextlib.suppress(ExpressionError):
            read(text)


@given(st.fractions(max_denominator=10**6))
def test_every_fraction_is_read_back(value: Fraction) -> None:
    assert parse_fraction(str(value)) == value


@pytest.mark.parametrize(("text", "value"), [("1,234", 1234), ("12,345.5", Fraction(24691, 2)), ("1,23", None)])
def test_thousands_may_be_grouped(text: str, value: int | None) -> None:
    assert parse_fraction(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("(71/220)", Fraction(71, 220)),
        ("$$71/220$$", Fraction(71, 220)),
        ("P(sum >= 3) = $71/220$", Fraction(71, 220)),
        ("142/440 = 71/220", Fraction(71, 220)),
        ("1/2 = 71/220", None),
        ("x = 1 = 71/220", None),
        ("(71)/(220", None),
    ],
)
def test_what_stands_around_a_number_does_not_count_but_another_number_does(text: str, value: Fraction | None) -> None:
    assert parse_fraction(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("−5", -5),
        ("9 ÷ 22", Fraction(9, 22)),
        ("9∕22", Fraction(9, 22)),
        (r"\frac{-1}{2}", Fraction(-1, 2)),
        (r"-\frac{1}{2}", Fraction(-1, 2)),
        (r"-\frac{-1}{2}", Fraction(1, 2)),
        ("(9)/(22)", Fraction(9, 22)),
        ("((9)/(22))", None),
        (r"\left(\frac{9}{22}\right)", Fraction(9, 22)),
        ("1{,}234", 1234),
        (r"12\,345", 12345),
        (".5", Fraction(1, 2)),
        ("-.5", Fraction(-1, 2)),
        (".", None),
        ("P = 18/44 = 9/22", Fraction(9, 22)),
        ("18/44 = 9/22", Fraction(9, 22)),
        ("18/44 = 9/23", None),
        ("P = 1/2 = 0.4", None),
        ("a = b = 3", None),
        ("1/-2", None),
        ("1/0", None),
        ("[3]", None),
        ("3*4", None),
    ],
)
def test_numbers_in_the_notations_of_people(text: str, value: Fraction | int | None) -> None:
    assert parse_fraction(text) == value


@given(st.fractions(max_denominator=10**6), st.integers(1, 50))
def test_what_can_be_reduced_is_told(value: Fraction, factor: int) -> None:
    assert in_lowest_terms(str(value))
    assert in_lowest_terms(f"{value.numerator * factor}/{value.denominator * factor}") == (factor == 1)
