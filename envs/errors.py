"""Errors that a user can mend: the command line prints them as one sentence, without a traceback."""

from collections.abc import Iterable
from difflib import get_close_matches
from unicodedata import category


class PalestraError(Exception):
    """Something went wrong that the message explains (exit code 1)."""

    exit_code = 1


class UsageError(PalestraError):
    """The request itself is wrong: an unknown name, a bad value, an unusable path (exit code 2)."""

    exit_code = 2


class MissingPrerequisiteError(PalestraError):
    """Something that must be installed or switched on is missing; the message says how (exit code 5)."""

    exit_code = 5


_JOINERS = "\n\t\u200c\u200d"
"""Invisible as well, and part of ordinary text."""
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode's categories of what is no visible character."""


def visible(text: str) -> str:
    """Show control characters instead of sending them: a model's text must not steer a terminal.

    So are those that turn the order of the characters around or take no room: they would show another text.
    """
    return "".join(c if c in _JOINERS or category(c) not in _UNSEEN else f"\\x{ord(c):02x}" for c in text)


_FEW = 30
"""As many names are listed in full."""


def unknown_name(kind: str, name: str, known: Iterable[str], listed_by: str = "") -> UsageError:
    """Build the error for a name that is not among `known`, naming the nearest valid ones.

    Args:
        kind: What the name stands for, e.g. `"environment"`.
        name: What the user wrote.
        known: All valid names.
        listed_by: The command that lists them, for when there are many.
    """
    names = sorted(known)
    by_folded = {n.lower(): n for n in names}
    close = [n for folded, n in by_folded.items() if len(name) > 2 and name.lower() in folded][:3]
    close = close or [by_folded[n] for n in get_close_matches(name.lower(), by_folded, n=1)]
    if close:
        hint = f"did you mean {' or '.join(map(repr, close))}?"
    elif len(names) > _FEW and listed_by:
        hint = f"`{listed_by}` lists the {len(names)} that there are."
    else:
        hint = f"valid are: {', '.join(names) or 'none'}."
    return UsageError(f"unknown {kind} '{name}'; {hint}")
