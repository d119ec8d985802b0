"""Qwen3-Coder, Qwen3.5 and later, and Nemotron 3: a `<function=...>` with `<parameter=...>` tags; `xml` reads it."""

from collections.abc import Mapping
from typing import Any

from palestra.envs.syntax.coercion import as_text


def write(name: str, arguments: Mapping[str, Any]) -> str:
    """Write a call."""
    lines = [f"<parameter={key}>\n{as_text(value)}\n</parameter>\n" for key, value in arguments.items()]
    return f"<tool_call>\n<function={name}>\n{''.join(lines)}</function>\n</tool_call>"
