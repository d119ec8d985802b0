"""Arithmetic that models write, read exactly: a bounded grammar parsed here, never evaluated as code.

`evaluate` is the calculator's grammar; `parse_formula` is the narrower one of number games, which also reports the
literals used; `parse_fraction` reads a single number. Whatever the text, each returns an exact value or reports an
error: numbers, length and nesting are bounded, so no text costs more than microseconds to read.
"""

import re
from fractions import Fraction
from math import gcd
from typing import NamedTuple

_TOKEN = re.compile(
    r"\s*(?:(?P<number>[0-9]+(?:\.[0-9]+)?)|(?P<sign>\*\*|\\times|\\cdot|\\div|\\[dt]?frac(?![a-z])|[-+*/^(){}]))"
)
_CHARACTERS = str.maketrans(
    dict.fromkeys("×·∗⋅∙•✕✖⨯", "*") | dict.fromkeys("÷∕⁄", "/") | dict.fromkeys("−–‐‑﹣－", "-") | {"[": "(", "]": ")"}
)
_FORMULA_SIGNS = str.maketrans({"x": "*", "X": "*", ":": "/", "∶": "/"})
_SIGNS = {"**": "^", r"\times": "*", r"\cdot": "*", r"\div": "/", r"\dfrac": r"\frac", r"\tfrac": r"\frac"}
_SIGNS |= {"{": "(", "}": ")"}
_SIZES = re.compile(r"\\(?:left|right)(?![a-z])")

MAX_LENGTH = 1_000
MAX_DEPTH = 50
MAX_BITS = 4_096
MAX_EXPONENT = 1_000
MAX_FORMULA = 200
"""Longest formula of a number game; it holds a handful of numbers."""

_MAX_DIGITS = 40
_INTEGER = re.compile(r"[+-]?[0-9]{1,40}")
_LATEX = re.compile(r"([+-]?)\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]{1,40}|[0-9]{1,3}(?:,[0-9]{3}){1,12}|(?=\.))(?:\.[0-9]{1,40})?")
_NUMBER_SIGNS = str.maketrans(dict.fromkeys("÷∕⁄", "/") | dict.fromkeys("−–‐‑﹣－", "-"))
_THOUSANDS = re.compile(r"(?<=[0-9])(?:\{,\}|\\,)(?=[0-9]{3})")
_EQUALS = re.compile("(?<![<>])=")
_MAX_SIDES = 4
_MAX_NAME = 40
"""Longest text before an equals sign that names the value behind it."""


class ExpressionError(ValueError):
    """The text is no expression of the grammar, divides by zero, or exceeds a bound; the message says which."""


class Formula(NamedTuple):
    """A formula as it was read."""

    value: Fraction
    numbers: tuple[int, ...]
    """The literals, in the order in which they stand."""


def evaluate(expression: str) -> Fraction:
    """Evaluate `+ - * / ^` and parentheses on integers and decimals, LaTeX included, exactly.

    Raises:
        ExpressionError: The expression is malformed, divides by zero, is longer than 1,000 characters, nested
            deeper than 50, or has exponents beyond 1,000 or numbers beyond 4,096 bits.
    """
    if len(expression) > MAX_LENGTH:
        raise ExpressionError(f"the expression is longer than {MAX_LENGTH} characters.")
    return _Parser(_tokens(expression)).parse()


def parse_formula(text: str) -> Formula:
    """Read a formula over integers with `+ - * /` and parentheses, and which integers it uses.

    A multiplication may also be written as `x`, a division as `:`. Of an equation, the first side that is more than
    a number counts, so `= 24` may stand behind the formula or `24 =` before it. Dollar signs and the like around it
    are ignored.

    Raises:
        ExpressionError: The text is no such formula, is longer than 200 characters, or divides by zero.
    """
    if len(text) > MAX_FORMULA:
        raise ExpressionError(f"the formula is longer than {MAX_FORMULA} characters.")
    sides = [side.strip() for side in unwrap(text).split("=")]
    side = next((side for side in sides if not _DECIMAL.fullmatch(side)), sides[0])
    tokens = _tokens(side.translate(_FORMULA_SIGNS))
    for token in tokens:
        if token == "^" or "." in token:
            raise ExpressionError(f"'{token}' is not allowed: only integers, + - * / and parentheses are.")
    parser = _Parser(tokens)
    value = parser.parse()
    return Formula(value, tuple(int(number) for number in parser.literals))


def parse_fraction(text: str) -> Fraction | None:
    """Read `a/b`, an integer, a decimal, or a LaTeX fraction as an exact value; None for anything else.

    Dollar signs, LaTeX and bold marks, parentheses around it, a final full stop and a leading `P =` do not count.
    """
    if text.isdecimal() and text.isascii() and len(text) <= _MAX_DIGITS:  # as most are
        return Fraction(int(text))
    return _value(bare_value(text))


def in_lowest_terms(text: str) -> bool:
    """Return whether the number that `parse_fraction` reads is no fraction that can be reduced."""
    parts = _parts(bare_value(text))
    return parts is not None and gcd(*parts) == 1


def bare_value(text: str) -> str:
    """Strip what people wrap around a number, `P =` or equal numbers before it included."""
    return named_value(text)[1]


def named_value(text: str) -> tuple[str, str]:
    """Return what stands before an equals sign, and the bare value; an equal number before it is no name but ""."""
    text = unwrap(text)
    sides = [unwrap(side) for side in _EQUALS.split(text)] if "=" in text else []
    if not 2 <= len(sides) <= _MAX_SIDES or len(sides[0]) > _MAX_NAME:
        return "", text
    first, *values = map(_value, sides)
    if len(set(values)) > 1:
        return "", text
    if first is None and (values[0] is not None or len(values) == 1):
        return sides[0], sides[-1]
    return ("", sides[-1]) if first is not None and first == values[0] else ("", text)


def _value(text: str) -> Fraction | None:
    parts = _parts(text)
    return Fraction(*parts) if parts else None


def _parts(text: str) -> tuple[int, int] | None:
    """Return the numerator and the denominator that are written."""
    text = _in_parentheses(_THOUSANDS.sub("", _SIZES.sub("", text.translate(_NUMBER_SIGNS))))
    if _DECIMAL.fullmatch(text):
        return Fraction(text.replace(",", "")).as_integer_ratio()
    match = _LATEX.fullmatch(text)
    sign, *sides = match.groups() if match else ("", *text.split("/"))
    if len(sides) != 2:
        return None
    top, bottom = map(_in_parentheses, sides)
    if not _INTEGER.fullmatch(top) or not _INTEGER.fullmatch(bottom) or int(bottom) <= 0:
        return None
    return int(top) * (-1 if sign == "-" else 1), int(bottom)


def _in_parentheses(text: str) -> str:
    text = text.strip()
    inside = text[1:-1]
    return inside.strip() if text == f"({inside})" and not set(inside) & set("()") else text


def unwrap(text: str) -> str:
    """Strip a final full stop and the marks of LaTeX, bold and code around a text."""
    text = text.strip().rstrip(".").strip()
    for opening, closing in (("**", "**"), ("`", "`"), ("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        if text.startswith(opening) and text.endswith(closing) and len(text) >= len(opening + closing):
            text = text[len(opening) : -len(closing)].strip()
    return text


def _tokens(text: str) -> list[str]:
    text = _SIZES.sub("", text.translate(_CHARACTERS)).rstrip()
    tokens, position = [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ExpressionError(f"unexpected '{text[position:].strip()[:1]}' in the expression.")
        sign = match["sign"]
        tokens.append(match["number"] if sign is None else _SIGNS.get(sign, sign))
        position = match.end()
    return tokens


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise ExpressionError(f"a number in the expression exceeds {MAX_BITS} bits.")
    return value


class _Parser:
    """Recursive descent: sum := product (+- product)*; product := signed (*/ signed)*; power binds tighter."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.position = 0
        self.literals: list[str] = []

    def parse(self) -> Fraction:
        value = self.sum(0)
        if self.peek() is not None:
            raise ExpressionError(f"unexpected '{self.peek()}' in the expression.")
        return value

    def peek(self) -> str | None:
        return self.tokens[self.position] if self.position < len(self.tokens) else None

    def take(self) -> str:
        token = self.peek()
        if token is None:
            raise ExpressionError("the expression ends too early.")
        self.position += 1
        return token

    def sum(self, depth: int) -> Fraction:
        if depth > MAX_DEPTH:
            raise ExpressionError(f"the expression is nested deeper than {MAX_DEPTH}.")
        value = self.product(depth)
        while self.peek() in ("+", "-"):
            if self.take() == "+":
                value = _bounded(value + self.product(depth))
            else:
                value = _bounded(value - self.product(depth))
        return value

    def product(self, depth: int) -> Fraction:
        value = self.signed(depth)
        while self.peek() in ("*", "/"):
            if self.take() == "*":
                value = _bounded(value * self.signed(depth))
                continue
            value = _divide(value, self.signed(depth))
        return value

    def signed(self, depth: int) -> Fraction:
        sign = 1
        while self.peek() in ("+", "-"):
            sign = -sign if self.take() == "-" else sign
        return sign * self.power(depth)

    def power(self, depth: int) -> Fraction:
        base = self.atom(depth)
        if self.peek() != "^":
            return base
        self.take()
        if depth >= MAX_DEPTH:
            raise ExpressionError(f"the expression is nested deeper than {MAX_DEPTH}.")
        negative = self.peek() == "-"
        if negative:
            self.take()
        exponent = self.power(depth + 1)
        if exponent.denominator != 1 or abs(exponent) > MAX_EXPONENT:
            raise ExpressionError(f"exponents must be integers of at most {MAX_EXPONENT}.")
        exponent = -exponent if negative else exponent
        if base == 0 and exponent < 0:
            raise ExpressionError("division by zero.")
        size = max(base.numerator.bit_length(), base.denominator.bit_length())
        if size * abs(exponent) > 2 * MAX_BITS:
            raise ExpressionError(f"a number in the expression exceeds {MAX_BITS} bits.")
        return _bounded(base ** int(exponent))

    def atom(self, depth: int) -> Fraction:
        token = self.take()
        if token == "(":
            return self.group(depth)
        if token == r"\frac":
            parts = []
            for _ in range(2):
                if self.take() != "(":
                    raise ExpressionError(r"\frac must be followed by two groups in braces.")
                parts.append(self.group(depth))
            return _divide(*parts)
        if token[0].isdigit():
            self.literals.append(token)
            return _bounded(Fraction(token))
        raise ExpressionError(f"unexpected '{token}' in the expression.")

    def group(self, depth: int) -> Fraction:
        value = self.sum(depth + 1)
        if self.take() != ")":
            raise ExpressionError("a closing parenthesis is missing.")
        return value


def _divide(value: Fraction, divisor: Fraction) -> Fraction:
    if divisor == 0:
        raise ExpressionError("division by zero.")
    return _bounded(value / divisor)
