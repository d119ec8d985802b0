"""A second opinion on an answer that was paid, independent of the environment's own grader.

`same_answer` knows what an answer may be written like without being another one: spacing, case and marks around it,
equal numbers, equal JSON, and arithmetic expressions over the same numbers with the same value. It evaluates no text:
expressions are parsed and computed with exact fractions.
"""

import ast
import json
import re
import unicodedata
from fractions import Fraction

_NUMBER = re.compile(r"([+-]?)(?=\.?\d)(\d{0,60})(?:\.(\d{0,60}))?(?:e([+-]?\d{1,3}))?(?:/(\d{1,60}))?")
_GROUPED = re.compile(r"[+-]?\d{1,3}(?:[,_ ]\d{3})+")
_FRAC = re.compile(r"([+-]?)\\[dt]?frac\{(\d{1,60})\}\{(\d{1,60})\}")
_LEADING_ZEROS = re.compile(r"(?<![\w.])0+(?=\d)")
_MARKS = " \t\r\n*$°\"'`()[]{}|:;,!\\\u200b"
_LONGEST = 2_000


def same_answer(canonical: str, answer: str) -> bool:
    """Whether `answer` is `canonical` written in another way."""
    if canonical == answer:
        return True
    if len(canonical) > _LONGEST or len(answer) > _LONGEST:
        return _plain(canonical) == _plain(answer)
    ours, theirs = _plain(canonical), _plain(answer)
    if ours == theirs:
        return True
    number = _number(ours)
    if number is not None:
        return number == _number(theirs.rsplit("=", 1)[-1])
    return _same_json(canonical, answer) or _same_expression(canonical, answer)


def rounded(canonical: str, answer: str) -> bool:
    """Whether both are decimals no further apart than 5 %: a grader may let pass what was rounded."""
    ours, theirs = _number(_plain(canonical)), _number(_plain(answer))
    if ours is None or theirs is None or not set(".e") & set(canonical + answer):
        return False
    return abs(ours - theirs) <= abs(ours) / 20


def _plain(text: str) -> str:
    folded = _FRAC.sub(r"\1\2/\3", unicodedata.normalize("NFKC", text).casefold()).strip(_MARKS)
    folded = folded.rstrip(".")
    return re.sub(r"\s*([^\w\s])\s*", r"\1", re.sub(r"\s+", " ", folded))


def _number(text: str) -> Fraction | None:
    text = text.strip(_MARKS).rstrip(".")
    if _GROUPED.fullmatch(text):
        text = re.sub("[,_ ]", "", text)
    match = _NUMBER.fullmatch(text)
    if match is None or (match[5] and int(match[5]) == 0):
        return None
    sign, whole, part, exponent, bottom = match.groups()
    return Fraction(f"{sign}{whole or '0'}.{part or '0'}e{exponent or '0'}") / int(bottom or 1)


def _same_json(one: str, other: str) -> bool:
    try:
        return bool(json.loads(one) == json.loads(other))
    except (ValueError, RecursionError):
        return False


def _same_expression(one: str, other: str) -> bool:
    ours, theirs = _expression(one), _expression(other)
    return ours is not None and ours == theirs


def _expression(text: str) -> tuple[Fraction, tuple[int, ...]] | None:
    """Return the value of an arithmetic expression and the numbers it uses; None for anything else."""
    text = (
        unicodedata.normalize("NFKC", text)
        .split("=", 1)[0]
        .strip(" \t\r\n$`\"'")
        .replace("×", "*")
        .replace("÷", "/")
        .replace("−", "-")
        .replace("^", "**")
    )
    numbers: list[int] = []
    try:
        value = _value(ast.parse(_LEADING_ZEROS.sub("", text), mode="eval").body, numbers)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None
    return value, tuple(sorted(numbers))


def _value(node: ast.expr, numbers: list[int]) -> Fraction:
    match node:
        case ast.Constant(value=int() as number) if not isinstance(number, bool):
            numbers.append(number)
            return Fraction(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, numbers)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand, numbers)
        case ast.BinOp(left=left, op=operator, right=right):
            a, b = _value(left, numbers), _value(right, numbers)
            match operator:
                case ast.Add():
                    return a + b
                case ast.Sub():
                    return a - b
                case ast.Mult():
                    return a * b
                case ast.Div():
                    return a / b
    raise ValueError("no arithmetic")
