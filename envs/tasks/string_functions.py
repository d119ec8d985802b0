"""The twelve string functions of StringCompose: letters A-L for names, strings over a-h.

Chosen so that no function agrees with another on most strings (tests/envs/test_string_compose.py counts
the agreement over all strings of 3 to 5 letters): the original's held-out set had four semantic twins in
its training set (arXiv 2509.25123, `string_data.py`).
"""

from collections.abc import Callable, Mapping

ALPHABET = "abcdefgh"


def _shift(text: str, by: int) -> str:
    return "".join(ALPHABET[(ALPHABET.index(c) + by) % len(ALPHABET)] for c in text)


def _swap_ends(text: str) -> str:
    return text[-1] + text[1:-1] + text[0] if len(text) > 1 else text


TRAIN_FUNCTIONS: Mapping[str, tuple[Callable[[str], str], str]] = {
    "A": (lambda s: s[::-1], "reverse"),
    "B": (lambda s: s[1:] + s[:1], "move the first letter to the end"),
    "C": (lambda s: s[:-1], "drop the last letter"),
    "D": (lambda s: _shift(s, 1), "replace each letter by the next one (a-h, then a again)"),
    "E": (lambda s: s + s[:1], "append a copy of the first letter"),
    "F": (lambda s: s[1:2] + s[:1] + s[2:], "swap the first two letters"),
}
HELD_OUT_FUNCTIONS: Mapping[str, tuple[Callable[[str], str], str]] = {
    "G": (lambda s: "".join(sorted(s)), "sort the letters a to h"),
    "H": (_swap_ends, "swap the first and the last letter"),
    "I": (lambda s: s[1:], "drop the first letter"),
    "J": (lambda s: s[-1:] + s, "put a copy of the last letter in front"),
    "K": (lambda s: _shift(s, -1), "replace each letter by the one before it (a-h, h before a)"),
    "L": (lambda s: "".join(sorted(s, reverse=True)), "sort the letters h to a"),
}
FUNCTIONS = {**TRAIN_FUNCTIONS, **HELD_OUT_FUNCTIONS}


def apply_function(name: str, text: str) -> str:
    """Apply the function called `name`; raises KeyError for an unknown one."""
    return FUNCTIONS[name][0](text)


def definitions() -> str:
    """Say in words what every function does."""
    return " ".join(f"{name}(s): {words}." for name, (_, words) in FUNCTIONS.items())
