"""Errors that a user can mend: the command line prints them as one sentence, without a traceback."""

from collections.abc import Iterable
from difflib import get_close_matches


class PalestraError(Exception):
    """Something went wrong that the message explains (exit code 1)."""

    exit_code = 1


class UsageError(PalestraError):
    """The request itself is wrong: an unknown name, a bad value, an unusable path (exit code 2)."""

    exit_code = 2


class MissingPrerequisiteError(PalestraError):
    """Something that must be installed or switched on is missing; the message says how (exit code 5)."""

    exit_code = 5


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
