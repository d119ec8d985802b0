"""The second opinion on paid answers: what is the same in other words, and what is not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palestra.envs.checks.regrade import rounded, same_answer

SAME = [
    ("5/12", "5/12."),
    ("5/12", "10/24"),
    ("5/12", r"\frac{5}{12}"),
    ("5/12", "P = 5/12"),
    ("1/2", "0.5"),
    ("0.375", ".375"),
    ("136.22°", "136.22"),
    ("1.5e+3", "1500"),
    ("1234", "1,234"),
    ("1234", "1_234"),
    ("-3", "-3.0"),
    ("abc", ' "ABC" '),
    ("a, b", "a ,b"),
    ("9", "９"),
    ("(8/(3-8/3))*3", "3*(8/(3-8/3))"),
    ("1+3+10+10", "1++3+10+10"),
    ("(11-3)*(9-6)", "(11-3)*(+9-6)"),
    ("(10-2)*(10-7)", "$--(10-2)*(10-7)$"),
    ("32*2", "032 * 2 = 64"),
    ("(1+2)*3", "3 × (2+1)"),
    ("[1, 2]", "[1,2]"),
    ('{"a": 1, "b": 2}', '{"b": 2, "a": 1}'),
]
DIFFERENT = [
    ("5/12", "5/1"),
    ("5/12", "5/120"),
    ("5/12", "0.41666667"),
    ("5/12", ""),
    ("12", "1 2"),
    ("abc", "abcd"),
    ("abc", "not abc"),
    ("8*3", "24"),
    ("8*3", "4*6"),
    ("8*3", "8*3*1"),
    ("2", "2/0"),
    ("(1+2)*3", "__import__('os').getpid()"),
    ("[1, 2]", "[2, 1]"),
    ("1+1", "9**9**9"),
]


@pytest.mark.parametrize(("canonical", "answer"), SAME)
def test_the_same_in_other_words(canonical: str, answer: str) -> None:
    assert same_answer(canonical, answer)


@pytest.mark.parametrize(("canonical", "answer"), DIFFERENT)
def test_another_answer(canonical: str, answer: str) -> None:
    assert not same_answer(canonical, answer)


@pytest.mark.parametrize(
    ("canonical", "answer", "wanted"),
    [
        ("0.375", "0.37", True),
        ("0.375", "0.3", False),
        ("375", "376", False),
        ("3/8", "0.38", True),
        ("1.2345e+20", "1.234e+20", True),
        ("1.2345e+20", "1.2345e+2", False),
        ("a.b", "a.c", False),
    ],
)
def test_rounding(canonical: str, answer: str, *, wanted: bool) -> None:
    assert rounded(canonical, answer) == wanted


@given(st.text(), st.text())
def test_any_text_is_judged_and_equal_texts_are_the_same(canonical: str, answer: str) -> None:
    assert same_answer(canonical, canonical)
    same_answer(canonical, answer)


@given(st.integers(), st.integers(min_value=1), st.integers(min_value=1, max_value=10**6))
def test_a_multiple_of_a_fraction_is_the_same(top: int, bottom: int, factor: int) -> None:
    assert same_answer(f"{top}/{bottom}", f"{top * factor}/{bottom * factor}")
    assert not same_answer(f"{top}/{bottom}", f"{top + 1}/{bottom}")
