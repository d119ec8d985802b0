"""What a tool is, what it may keep during an episode, and how arguments are checked against its schema."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from contextlib import ExitStack
from typing import Any, Protocol, TypeVar

_JSON_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
}


class ToolError(Exception):
    """The call was wrong (not the program): its message becomes the agent's observation."""


class Closable(Protocol):
    """Something to be released."""

    def close(self) -> None:
        """Release it; closing twice is fine."""
        ...


_Kept = TypeVar("_Kept", bound=Closable)


class EpisodeState:
    """What the tools of one environment keep from call to call (interpreters, folders, connections).

    The environment closes it when the episode ends, is abandoned or begins anew; then it is empty again.
    """

    def __init__(self) -> None:
        self.world: Any = None
        """What `TextEnv.begin` returned for this episode: the world that its tools look at and change."""
        self._kept: dict[Hashable, Any] = {}
        self._closing = ExitStack()

    def keep(self, key: Hashable, make: Callable[[], _Kept]) -> _Kept:
        """Return what is kept under `key`, made now if it is the first call; tools share by using one key."""
        if key not in self._kept:
            self._kept[key] = make()
            self._closing.callback(self._kept[key].close)
        kept: _Kept = self._kept[key]
        return kept

    def close(self) -> None:
        """Close everything, the newest first; if one of them fails, the others are closed all the same."""
        self.world = None
        self._kept.clear()
        self._closing.close()


class Tool(ABC):
    """A function that an agent may call by name.

    Subclasses set the attributes and implement `__call__`, whose keyword arguments are those of `parameters`.
    Tools hold no state of an episode, since one object serves every environment of a process; a tool that
    remembers overrides `in_episode` and keeps what it needs there.
    """

    name: str
    """The name that calls use."""
    description: str
    """One sentence for the agent's instructions."""
    parameters: Mapping[str, Mapping[str, str]]
    """Name -> JSON-schema property; every parameter is required."""
    blocking: bool = False
    """Whether a call waits for another process; rollouts run such steps in threads."""

    @abstractmethod
    def __call__(self, **arguments: Any) -> str:
        """Run the tool and return what the agent sees; raise `ToolError` for a wrong call."""

    def in_episode(self, state: EpisodeState, /, **arguments: Any) -> str:
        """Run the tool as part of an episode; the same as `__call__` unless the tool remembers something."""
        return self(**arguments)

    def schema(self) -> dict[str, Any]:
        """Return the tool as a function schema in the form that chat templates take."""
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.description,
                "parameters": {
                    "type": "object",
                    "properties": {k: dict(v) for k, v in self.parameters.items()},
                    "required": list(self.parameters),
                },
            },
        }

    def call(self, arguments: Mapping[str, Any], state: EpisodeState | None = None) -> str:
        """Check `arguments` against `parameters`, then run the tool.

        Args:
            arguments: As the agent wrote them.
            state: Of the episode that the call is part of; None for a call on its own, which leaves nothing.

        Raises:
            ToolError: A parameter is missing, unknown, or has the wrong type, or the tool refuses it.
        """
        missing = [k for k in self.parameters if k not in arguments]
        if missing:
            raise ToolError(f"{self.name} needs the argument '{missing[0]}'.")
        for key, value in arguments.items():
            if key not in self.parameters:
                raise ToolError(f"{self.name} has no argument '{key[:100]}'; it takes {', '.join(self.parameters)}.")
            wanted = self.parameters[key]["type"]
            if not isinstance(value, _JSON_TYPES[wanted]) or (wanted != "boolean" and isinstance(value, bool)):
                raise ToolError(f"the argument '{key}' of {self.name} must be of type {wanted}.")
        return self(**arguments) if state is None else self.in_episode(state, **arguments)
