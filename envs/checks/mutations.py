"""Malformed turns: right ones damaged, tool calls with wrong arguments, hostile text, bombs.

What comes out is a function of the generator's seed and the seeds it was given.
"""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from palestra.envs.core import TextEnv
from palestra.envs.toolcalls import SYNTAXES
from palestra.envs.tools.base import example_of

TOKENS = (
    "\x00", "\ud800", "\u202e", "\u200b", "\u2028", "𝟗", "½", "٣", "９", "İ", "ß", "é", "\r\n", "\t", "🎲", "−",
    "<answer>", "</answer>", "<ANSWER>", "<tool_call>", "</tool_call>", "```python\n", "```", "\\boxed{",
    "\\frac{", "<|im_end|>", "<|im_start|>assistant\n", "</s>", "<think>", "</think>", "<function=", "</function>",
    "<parameter=", "<tool name=", "<invoke name=", "<|python_tag|>", "{", "}", "[", "]", "(", ")", '"', "'", "\\",
    "\\u0000", "%s", "{0}", "$", "/", "//", "*", "**", "^", "+", "-", "--", "=", ",", ";", ":", "0", "1", "9",
    "99999999999999999999", "1e999", "1e-999", "0x10", "0b1", "NaN", "Infinity", "-0", "null", "true", "None",
    "yes", "no", "not ", "or", "and", "__class__", "import os", "1/0", "9**9**9", '{"answer": "', '"answer": ',
    '{"name": "', '"arguments": {',
)  # fmt: skip

_SYNTAXES = tuple(SYNTAXES)
_SUBMIT: tuple[str, Mapping[str, Any]] = "submit", {"answer": {"type": "string"}}

BOMBS: tuple[Callable[[random.Random], str], ...] = (
    lambda rng: "[" * rng.randint(1, 100_000),
    lambda rng: '{"a":' * rng.randint(1, 20_000),
    lambda rng: f"<tool_call>{'[' * 50_000}{']' * 50_000}</tool_call>",
    lambda rng: f'<tool_call>{{"name": "submit", "arguments": {{"answer": {"9" * 50_000}}}}}</tool_call>',
    lambda rng: f'{{"answer": {"9" * rng.randint(1, 5_000)}}}',
    lambda rng: "<answer>" * rng.randint(1, 20_000),
    lambda rng: "<tool_call>" * rng.randint(1, 2_000),
    lambda rng: f"<answer>{'9' * rng.randint(1, 20_000)}</answer>",
    lambda rng: f"<answer>{'(' * rng.randint(1, 9_000)}</answer>",
    lambda rng: f"<answer>1/{'0' * rng.randint(1, 9_000)}1</answer>",
    lambda rng: f"\\boxed{{{'{' * rng.randint(1, 50_000)}",
    lambda rng: "\\boxed{" * rng.randint(1, 20_000),
    lambda rng: rng.choice(TOKENS) * rng.randint(1, 10_000),
    lambda rng: f"<answer>{rng.choice(TOKENS) * rng.randint(1, 2_000)}</answer>",
    lambda rng: f"<answer>{rng.choice('1a( ,') * rng.randint(24, 40)}x</answer>",  # what nested repeats never end on
)


class TurnMaker:
    """Makes malformed turns for one environment.

    Args:
        env: Whose tools are called with wrong arguments.
        rng: Decides everything.
    """

    def __init__(self, env: TextEnv, rng: random.Random) -> None:
        self._rng = rng
        self._tools = [(tool.name, tool.parameters) for tool in env.tools]
        self._examples = env.example_actions()

    def make(self, right: str, others: Sequence[str]) -> str:
        """Make a turn.

        Args:
            right: What the oracle would say now, to be damaged.
            others: What it would say elsewhere, to be mixed in.
        """
        rng = self._rng
        kind = rng.random()
        if kind < 0.7:
            return self._damage(right, others)
        if kind < 0.8:
            return self._call() if rng.random() < 0.6 else self._damage(self._call(), others)
        if kind < 0.9:
            return "".join(rng.choices(TOKENS, k=int(rng.random() * 12)))
        if kind < 0.95:
            return f"<answer>{''.join(rng.choices(TOKENS, k=1 + int(rng.random() * 4)))}</answer>"
        if kind < 0.998:
            return self._damage(rng.choice(self._examples), others)
        return rng.choice(BOMBS)(rng)

    def _damage(self, text: str, others: Sequence[str]) -> str:
        rng = self._rng
        for _ in range(1 + int(rng.random() * 3)):
            length = len(text)
            start = int(rng.random() * (length + 1))
            end = min(length, start + 1 + int(rng.random() * 6))
            kind = int(rng.random() * 9)
            if kind == 0:
                text = text[:start] + text[end:]
            elif kind <= 2:
                text = text[:start] + rng.choice(TOKENS) + text[start:]
            elif kind == 3:
                text = text[:start] + rng.choice(TOKENS) + text[end:]
            elif kind == 4:
                text = text[:end] + text[start:]
            elif kind == 5:
                text = text[:start] + text[start:end][::-1] + text[end:]
            elif kind == 6:
                other = rng.choice(others)
                text = text[:start] + other[int(rng.random() * (len(other) + 1)) :]
            elif kind == 7:
                text = text[:start] + text[start:end].swapcase() + text[end:]
            else:
                text = text[:start]
        return text

    def _call(self) -> str:
        rng = self._rng
        name, parameters = rng.choice(self._tools) if self._tools else _SUBMIT
        fitting = rng.random() < 0.5
        arguments = {
            parameter: self._fitting(schema) if fitting else self._value(2)
            for parameter, schema in parameters.items()
            if rng.random() < 0.9
        }
        if rng.random() < 0.2:
            arguments[rng.choice(TOKENS)] = self._value(1)
        if rng.random() < 0.5:
            text = SYNTAXES[rng.choice(_SYNTAXES)](name, arguments)
        else:
            call = {"name": name if rng.random() < 0.9 else self._value(1), "arguments": arguments}
            text = f"<tool_call>{json.dumps(call, ensure_ascii=rng.random() < 0.5)}</tool_call>"
        return text * (1 + int(rng.random() * rng.random() * 12))

    def _fitting(self, schema: Any) -> object:
        """Make a value of the type that a tool's parameter has: odd, but not refused."""
        rng = self._rng
        match example_of(schema):
            case bool():
                return rng.random() < 0.5
            case int():
                return rng.choice((0, 1, -1, 2, 3, 7, 10, 100, 2**31, -(2**63), 10**30))
            case str() if isinstance(schema, Mapping) and schema.get("enum"):
                return rng.choice(schema["enum"])
            case str():
                return rng.choice(("", str(int(rng.random() * 100)), "".join(rng.choices(TOKENS, k=3))))
            case other:
                return other

    def _value(self, depth: int) -> object:
        rng = self._rng
        match int(rng.random() * 9):
            case 0:
                return "".join(rng.choices(TOKENS, k=int(rng.random() * 5)))
            case 1:
                return int((rng.random() - 0.5) * 10 ** int(rng.random() * 25))
            case 2:
                return rng.choice((0.5, -0.0, 1e308, float("nan"), float("inf")))
            case 3:
                return rng.choice((None, True, False))
            case 4 if depth:
                return [self._value(depth - 1) for _ in range(int(rng.random() * 4))]
            case 5 if depth:
                return {rng.choice(TOKENS): self._value(depth - 1)}
            case 6:
                return rng.choice(TOKENS) * int(rng.random() * 500)
            case _:
                return str(int(rng.random() * 100))
