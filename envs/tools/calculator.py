"""An exact calculator: rational arithmetic on a bounded grammar (`palestra.envs.expressions`)."""

from fractions import Fraction
from typing import Any

from palestra.envs import expressions
from palestra.envs.tools.base import Tool, ToolError


class Calculator(Tool):
    """Evaluates `+ - * / ^` and parentheses on integers and decimals, exactly.

    Results are reduced fractions, so `1/6 + 1/4` is `5/12`. Expressions longer than 1,000 characters,
    nested deeper than 50, with exponents beyond 1,000 or numbers beyond 4,096 bits are refused.
    """

    name = "calculator"
    description = "Evaluates an arithmetic expression (+ - * / ^ and parentheses) exactly, as a reduced fraction."
    parameters = {"expression": {"type": "string", "description": "for example (1+2+3)/36"}}

    def __init__(self, name: str | None = None) -> None:
        self.name = name or self.name

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
    try:
        return expressions.evaluate(expression)
    except expressions.ExpressionError as error:
        raise ToolError(str(error)) from None
