"""Comparing what a program gave with what was expected: strictly, on the host, without trusting either side.

Nothing here calls code of the values compared: they are JSON, or text.
"""

import json
import math
import re
from typing import Any

_MAX_DEPTH = 100
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_INTEGER = re.compile(r"[+-]?[0-9]+")


def check_tolerance(tolerance: float | None) -> None:
    """Refuse a tolerance that would accept anything.

    Raises:
        ValueError: It is not in [0, 1).
    """
    if tolerance is not None and not 0 <= tolerance < 1:
        raise ValueError(f"a tolerance is a number from 0 on and below 1, not {tolerance}")


def to_json(value: Any) -> str:
    """Write a value as JSON that reads back as the same value, but for tuples, which become lists.

    Raises:
        ValueError: It holds something that JSON has no word for (a key that is no string, a set, an object), an
            integer of more than 4,300 digits, or is nested more than 100 deep.
    """
    _check(value, 0)
    return json.dumps(value)


def from_json(text: str) -> Any:
    """Read what a program wrote as one JSON value.

    Raises:
        ValueError: It is not exactly one JSON value, names a key twice, or nests too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def equal_values(expected: Any, got: Any, tolerance: float | None = None) -> bool:
    """Compare two JSON values by type and value.

    `true` is not 1, and 1 is not 1.0: a program has to give the type that is expected. NaN equals NaN here, since
    a test that expects it means it. With a tolerance, a float that is expected may be met by any number, integer
    or float, within the tolerance, relative or absolute; everything else stays exact.
    """
    if isinstance(expected, list):
        return (
            isinstance(got, list)
            and len(expected) == len(got)
            and all(equal_values(e, g, tolerance) for e, g in zip(expected, got, strict=True))
        )
    if isinstance(expected, dict):
        return (
            isinstance(got, dict)
            and expected.keys() == got.keys()
            and all(equal_values(e, got[key], tolerance) for key, e in expected.items())
        )
    if isinstance(expected, float) and tolerance is not None and type(got) in (int, float):
        return _close(expected, got, tolerance)
    if type(expected) is not type(got):
        return False
    return bool(expected == got) or (isinstance(expected, float) and math.isnan(expected) and math.isnan(got))


def equal_tokens(expected: str, got: str, tolerance: float | None = None) -> bool:
    """Compare two texts word by word: how they are spaced and broken into lines does not count, case does.

    With a tolerance, a word that is expected and is a number with a point or an exponent may be met by any number
    within it, relative or absolute.
    """
    words, others = expected.split(), got.split()
    return len(words) == len(others) and all(
        word == other or _close_words(word, other, tolerance) for word, other in zip(words, others, strict=True)
    )


def _close_words(expected: str, got: str, tolerance: float | None) -> bool:
    if tolerance is None or _INTEGER.fullmatch(expected):
        return False
    # A pattern first: float() also takes "nan", "1_0" and digits of other scripts.
    if not (_NUMBER.fullmatch(expected) and _NUMBER.fullmatch(got)):
        return False
    return _close(float(expected), float(got), tolerance)


def _close(expected: float, got: float, tolerance: float) -> bool:
    if math.isnan(expected):
        return math.isnan(got)
    try:
        return math.isclose(expected, got, rel_tol=tolerance, abs_tol=tolerance)
    except OverflowError:  # an integer beyond all floats
        return False


def _check(value: Any, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError(f"a value of a test is nested more than {_MAX_DEPTH} deep")
    if isinstance(value, list | tuple):
        for item in value:
            _check(item, depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"the keys of a test's dict must be strings, not {key!r}: JSON has no others")
            _check(item, depth + 1)
    elif value is not None and not isinstance(value, bool | int | float | str):
        raise ValueError(f"a value of a test is JSON (None, bool, int, float, str, list, dict), not {value!r}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found
