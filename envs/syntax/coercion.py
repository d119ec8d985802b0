"""Values that a syntax writes as bare text, and the types that a tool's schema gives them.

Invariant: what does not fit the declared type stays the text it was; the tool then says what it wants.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from palestra.envs.syntax.calls import to_json
from palestra.envs.syntax.lenient_json import decode, finite

_INTEGER = re.compile(r"[+-]?[0-9]{1,300}")
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,300}(?:\.[0-9]{0,300})?|\.[0-9]{1,300})(?:[eE][+-]?[0-9]{1,4})?")


def as_text(value: Any) -> str:
    """Write a value the way `coerce` reads it."""
    return value if isinstance(value, str) else to_json(value)


def coerce(text: str, schema: Any) -> Any:
    """Give `text` the type that `schema` declares; one line break at each end is layout."""
    text = text.removeprefix("\n").removesuffix("\n")
    kinds = _kinds(schema)
    if "string" not in kinds:
        for kind in kinds:
            try:
                return _READERS[kind](text.strip())
            except (ValueError, KeyError):
                continue
    return text


def _kinds(schema: Any) -> list[str]:
    """Return the types that a schema names; it may be any JSON."""
    if not isinstance(schema, Mapping):
        return []
    kind = schema.get("type")
    if kind is None and isinstance(schema.get("anyOf"), list):
        return [kind for part in schema["anyOf"] for kind in _kinds(part)]
    return [str(k) for k in kind] if isinstance(kind, list) else [str(kind)]


def _integer(text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise ValueError("no integer")
    return int(text)


def _number(text: str) -> int | float:
    if _INTEGER.fullmatch(text):
        return int(text)
    if not _NUMBER.fullmatch(text):
        raise ValueError("no number")
    return finite(text)


def _word(words: Mapping[str, Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        return words[text]

    return read


def _container(kind: type) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        value, end = decode(text)
        if end != len(text) or not isinstance(value, kind):
            raise ValueError("not what was declared")
        return value

    return read


_READERS: Mapping[str, Callable[[str], Any]] = {
    "integer": _integer,
    "number": _number,
    "boolean": _word({"true": True, "True": True, "false": False, "False": False}),
    "null": _word({"null": None, "None": None}),
    "array": _container(list),
    "object": _container(dict),
}
