"""Operations on strings that language models get wrong because they read tokens: counting, reversing, finding.

Positions count code points from 0, as in Python; a text longer than `MAX_LENGTH` is refused.
"""

from collections.abc import Callable, Mapping
from typing import Any

from palestra.envs.tools.base import Tool, ToolError

MAX_LENGTH = 10_000
"""Longest text, and longest result, in code points."""
_NEEDED: Mapping[str, tuple[str, ...]] = {
    "length": (),
    "words": (),
    "reverse": (),
    "upper": (),
    "lower": (),
    "sort": (),
    "count": ("part",),
    "index": ("part",),
    "replace": ("part", "by"),
    "slice": ("start", "end"),
}
_SIMPLE: Mapping[str, Callable[[str], str]] = {
    "length": lambda text: str(len(text)),
    "words": lambda text: str(len(text.split())),
    "reverse": lambda text: text[::-1],
    "upper": str.upper,
    "lower": str.lower,
    "sort": lambda text: "".join(sorted(text)),
}


class TextTool(Tool):
    """One operation on a text: its length or number of words, reversed, sorted, in capitals, counted, searched, cut.

    `count` counts occurrences that do not overlap, `index` gives the first one's position.
    """

    name = "text"
    description = "Does one operation on a text, exactly; positions count from 0."
    parameters = {
        "operation": {"type": "string", "enum": list(_NEEDED), "description": f"one of {', '.join(_NEEDED)}"},
        "text": {"type": "string", "description": "the text"},
        "part": {"type": "string", "description": "for count, index and replace: what to look for"},
        "by": {"type": "string", "description": "for replace: what to put in its place"},
        "start": {"type": "integer", "description": "for slice: first position"},
        "end": {"type": "integer", "description": "for slice: the position behind the last one"},
    }
    required = ("operation", "text")

    def __call__(self, **arguments: Any) -> str:
        """Return the result as text.

        Raises:
            ToolError: An argument that the operation needs is missing or one that it does not take is given, the
                text or the result is too long, `part` is empty or, for `index`, does not occur.
        """
        operation, text = arguments.pop("operation"), arguments.pop("text")
        _check_arguments(operation, arguments)
        if len(text) > MAX_LENGTH:
            raise ToolError(f"the text is longer than {MAX_LENGTH} characters.")
        if operation in _SIMPLE:
            result = _SIMPLE[operation](text)
        elif operation == "slice":
            result = text[arguments["start"] : arguments["end"]]
        else:
            result = _search(operation, text, **arguments)
        if len(result) > MAX_LENGTH:
            raise ToolError(f"the result is longer than {MAX_LENGTH} characters.")
        return result


def _check_arguments(operation: str, given: Mapping[str, Any]) -> None:
    needed = _NEEDED[operation]
    for name in needed:
        if name not in given:
            raise ToolError(f"the operation '{operation}' needs the argument '{name}'.")
    for name in given:
        if name not in needed:
            raise ToolError(f"the operation '{operation}' does not take the argument '{name}'.")


def _search(operation: str, text: str, part: str, by: str = "") -> str:
    if not part:
        raise ToolError("the argument 'part' must not be empty.")
    if operation == "count":
        return str(text.count(part))
    if operation == "replace":
        # The length first: a text of one letter replaced by a long one would take the square of the limit.
        if len(text) + text.count(part) * (len(by) - len(part)) > MAX_LENGTH:
            raise ToolError(f"the result is longer than {MAX_LENGTH} characters.")
        return text.replace(part, by)
    position = text.find(part)
    if position < 0:
        raise ToolError(f"'{part[:100]}' does not occur in the text.")
    return str(position)
