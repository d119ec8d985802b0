"""JSON as models write it: also with trailing commas, single quotes, Python's literals and raw line breaks.

Invariant: what is JSON is read as JSON; anything else is read only where it has one sensible meaning, and raises
`ValueError` otherwise, never anything else. Time is linear in what is read.
"""

import json
import re
from math import isfinite
from typing import Any, NoReturn

_MAX_DEPTH = 50
_MAX_LENIENT = 100_000
_SPACE = re.compile(r"\s*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?(?![\w.])")
_WORD = re.compile(r"(?:true|True|false|False|null|None)\b")
_WORDS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}
_STRINGS = {
    '"': re.compile(r'"([^"\\]*+(?:\\.[^"\\]*+)*+)"', re.DOTALL),
    "'": re.compile(r"'([^'\\]*+(?:\\.[^'\\]*+)*+)'", re.DOTALL),
}
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\n": ""}


def decode(text: str, start: int = 0) -> tuple[Any, int]:
    """Read the value that begins at `start`, blanks before it skipped; return it and where it ends.

    Raises:
        ValueError: There is no value, or not clearly one.
    """
    start = skip_space(text, start)
    try:
        return _STRICT.raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        if len(text) - start > _MAX_LENIENT:
            raise ValueError("too long to be read leniently") from error
        return _value(text, start, 0)


def decode_unclosed(text: str) -> Any:
    """Read an object that lacks one or two closing braces at its end.

    Raises:
        ValueError: It lacks something else, or a brace might belong elsewhere (an argument holds a container).
    """
    for closers in ("}", "}}"):
        try:
            value, end = decode(text + closers)
        except ValueError:
            continue
        inner = [v for v in value.values() if isinstance(v, dict)] if isinstance(value, dict) else []
        if end == len(text) + len(closers) and not any(isinstance(v, dict | list) for d in inner for v in d.values()):
            return value
    raise ValueError("more than closing braces is missing")


def skip_space(text: str, start: int) -> int:
    """Return where the next character stands that is no blank."""
    match = _SPACE.match(text, start)
    assert match is not None
    return match.end()


def refuse(name: str) -> NoReturn:
    """Refuse `NaN` and `Infinity`, which Python's JSON would take; always raises `ValueError`."""
    raise ValueError(f"{name[:30]} is no number in JSON")


def finite(text: str) -> float:
    """Read a number that is not too large for a float, as JSON must be.

    Raises:
        ValueError: It is.
    """
    value = float(text)
    return value if isfinite(value) else refuse(text)


_STRICT = json.JSONDecoder(strict=False, parse_constant=refuse, parse_float=finite)


def _value(text: str, at: int, depth: int) -> tuple[Any, int]:
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    opening = text[at : at + 1]
    if opening == "{":
        return _object(text, at + 1, depth + 1)
    if opening == "[":
        return _array(text, at + 1, depth + 1)
    if opening in _STRINGS and opening:
        return _string(text, at)
    if word := _WORD.match(text, at):
        return _WORDS[word[0]], word.end()
    if number := _NUMBER.match(text, at):
        whole = number[1] is None and number[2] is None
        return (int if whole else finite)(number[0]), number.end()
    raise ValueError("no value")


def _object(text: str, at: int, depth: int) -> tuple[dict[str, Any], int]:
    found: dict[str, Any] = {}
    while True:
        at = skip_space(text, at)
        if text.startswith("}", at):
            return found, at + 1
        key, at = _string(text, at)
        at = skip_space(text, at)
        if not text.startswith(":", at):
            raise ValueError("no colon after a key")
        found[key], at = _value(text, skip_space(text, at + 1), depth)
        at = _after_item(text, at, "}")


def _array(text: str, at: int, depth: int) -> tuple[list[Any], int]:
    found: list[Any] = []
    while True:
        at = skip_space(text, at)
        if text.startswith("]", at):
            return found, at + 1
        item, at = _value(text, at, depth)
        found.append(item)
        at = _after_item(text, at, "]")


def _after_item(text: str, at: int, closer: str) -> int:
    at = skip_space(text, at)
    if text.startswith(",", at):
        return at + 1
    if not text.startswith(closer, at):
        raise ValueError("no comma between items")
    return at


def _string(text: str, at: int) -> tuple[str, int]:
    pattern = _STRINGS.get(text[at : at + 1])
    match = pattern.match(text, at) if pattern else None
    if match is None:
        raise ValueError("no string, or one without an end")
    value = _ESCAPE.sub(_unescape, match[1])
    if any("\ud800" <= c <= "\udfff" for c in value):  # halves of one character, if they are two
        value = value.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    return value, match.end()


def _unescape(match: re.Match[str]) -> str:
    """A backslash before anything that JSON does not know is a backslash: models write regular expressions."""
    escaped = match[1]
    if len(escaped) == 5:
        return chr(int(escaped[1:], 16))
    return _ESCAPES.get(escaped, escaped if escaped in "\"'\\/" else f"\\{escaped}")
