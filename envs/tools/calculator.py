"""An exact calculator: rational arithmetic on a bounded grammar, parsed here and never evaluated as code."""

import re
from fractions import Fraction
from typing import Any

from palestra.envs.tools.base import Tool, ToolError

_TOKEN = re.compile(r"\s*(?:([0-9]+(?:\.[0-9]+)?)|(\*\*|[-+*/^()]))")
_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-"})

MAX_LENGTH = 1_000
MAX_DEPTH = 50
MAX_BITS = 4_096
MAX_EXPONENT = 1_000


class Calculator(Tool):
    """Evaluates `+ - * / ^` and parentheses on integers and decimals, exactly.

    Results are reduced fractions, so `1/6 + 1/4` is `5/12`. Expressions longer than 1,000 characters,
    nested deeper than 50, with exponents beyond 1,000 or numbers beyond 4,096 bits are refused.
    """

    name = "calculator"
    description = "Evaluates an arithmetic expression (+ - * / ^ and parentheses) exactly, as a reduced fraction."
    parameters = {"expression": {"type": "string", "description": "for example (1+2+3)/36"}}

    def __call__(self, **arguments: Any) -> str:
        """Return the value of `expression` as `"p"` or `"p/q"`.

        Raises:
            ToolError: The expression is malformed, divides by zero, or exceeds a bound.
        """
        return str(evaluate(arguments["expression"]))


def evaluate(expression: str) -> Fraction:
    """Evaluate an arithmetic expression exactly.

    Raises:
        ToolError: As for `Calculator`.
    """
    if len(expression) > MAX_LENGTH:
        raise ToolError(f"the expression is longer than {MAX_LENGTH} characters.")
    parser = _Parser(_tokens(expression.translate(_SIGNS)))
    value = parser.sum(0)
    if parser.peek() is not None:
        raise ToolError(f"unexpected '{parser.peek()}' in the expression.")
    return value


def _tokens(text: str) -> list[str]:
    tokens, position = [], 0
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ToolError(f"unexpected '{text[position:].strip()[:1]}' in the expression.")
        tokens.append("^" if match[2] == "**" else match[1] or match[2])
        position = match.end()
    return tokens


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise ToolError(f"a number in the expression exceeds {MAX_BITS} bits.")
    return value


class _Parser:
    """Recursive descent: sum := product (+- product)*; product := signed (*/ signed)*; power binds tighter."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.position = 0

    def peek(self) -> str | None:
        return self.tokens[self.position] if self.position < len(self.tokens) else None

    def take(self) -> str:
        token = self.peek()
        if token is None:
            raise ToolError("the expression ends too early.")
        self.position += 1
        return token

    def sum(self, depth: int) -> Fraction:
        if depth > MAX_DEPTH:
            raise ToolError(f"the expression is nested deeper than {MAX_DEPTH}.")
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
            divisor = self.signed(depth)
            if divisor == 0:
                raise ToolError("division by zero.")
            value = _bounded(value / divisor)
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
            raise ToolError(f"the expression is nested deeper than {MAX_DEPTH}.")
        negative = self.peek() == "-"
        if negative:
            self.take()
        exponent = self.power(depth + 1)
        if exponent.denominator != 1 or abs(exponent) > MAX_EXPONENT:
            raise ToolError(f"exponents must be integers of at most {MAX_EXPONENT}.")
        exponent = -exponent if negative else exponent
        if base == 0 and exponent < 0:
            raise ToolError("division by zero.")
        size = max(base.numerator.bit_length(), base.denominator.bit_length())
        if size * abs(exponent) > 2 * MAX_BITS:
            raise ToolError(f"a number in the expression exceeds {MAX_BITS} bits.")
        return _bounded(base ** int(exponent))

    def atom(self, depth: int) -> Fraction:
        token = self.take()
        if token == "(":
            value = self.sum(depth + 1)
            if self.take() != ")":
                raise ToolError("a closing parenthesis is missing.")
            return value
        if token[0].isdigit():
            return _bounded(Fraction(token))
        raise ToolError(f"unexpected '{token}' in the expression.")
