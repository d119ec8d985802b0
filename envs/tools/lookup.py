"""A table that an author gives, looked up by exact key; a near miss is told the nearest keys, never their values."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from palestra.envs.tools.base import Tool, ToolError

_MAX_KEY = 200
_SUGGESTIONS = 3


class LookupTable(Tool):
    """Gives the entry of a table under a key."""

    parameters = {"key": {"type": "string", "description": "the exact key"}}

    def __init__(self, name: str, description: str, table: Mapping[str, str]) -> None:
        """Create the tool.

        Args:
            name: The tool's name.
            description: What the table holds, and what its keys look like.
            table: Key -> entry.

        Raises:
            ValueError: A key is longer than 200 characters, so that no call could ask for it.
        """
        if long := next((key for key in table if len(key) > _MAX_KEY), None):
            raise ValueError(f"a key may have {_MAX_KEY} characters, and '{long[:20]}...' has {len(long)}")
        self.name = name
        self.description = description
        self.table = dict(table)
        self._folded = {key.casefold(): key for key in self.table}

    def __call__(self, **arguments: Any) -> str:
        """Return the entry under `key`.

        Raises:
            ToolError: There is none; names up to three keys that are close, letter case aside.
        """
        key = arguments["key"]
        if key in self.table:
            return self.table[key]
        close = get_close_matches(key[:_MAX_KEY].casefold().strip(), self._folded, n=_SUGGESTIONS, cutoff=0.6)
        hint = f"; near it are {', '.join(repr(self._folded[k]) for k in close)}" if close else ""
        raise ToolError(f"{self.name} has no entry '{key[:100]}'{hint}.")
