"""What a tool is, what it may keep during an episode, and how arguments are checked against its schema."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Protocol, TypeVar

from palestra.envs.syntax.coercion import coerce

_JSON_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": type(None),
}
_MAX_DEPTH = 20


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
        if self._kept:
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
    parameters: Mapping[str, Mapping[str, Any]]
    """Name -> JSON-schema property. Checked are `type`, `enum`, `items`, `properties` and `required`; what other
    keywords ask for, the tool checks itself."""
    required: Sequence[str] | None = None
    """The parameters that a call must give; None for all of them."""
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
                    "required": list(self.parameters if self.required is None else self.required),
                },
            },
        }

    def call(self, arguments: Mapping[str, Any], state: EpisodeState | None = None) -> str:
        """Check `arguments` against `parameters`, then run the tool.

        Args:
            arguments: As the agent wrote them.
            state: Of the episode that the call is part of; None for a call on its own, which leaves nothing.

        Raises:
            ToolError: As for `check`, or the tool refuses the call.
            TypeError: The tool returns something else than a text.
        """
        arguments = {key: self._read(key, value) for key, value in arguments.items()}
        self.check(arguments)
        result = self(**arguments) if state is None else self.in_episode(state, **arguments)
        if not isinstance(result, str):
            raise TypeError(f"the tool '{self.name}' must return a text, not {type(result).__name__}")
        return result

    def _read(self, key: str, value: Any) -> Any:
        """Take "3" for 3 where a text will not do: models write it, and the places in a prompt look like it."""
        schema = self.parameters.get(key)
        return coerce(value, schema) if isinstance(value, str) and find_fault(schema, value, key) else value

    def example(self) -> dict[str, Any]:
        """Return arguments that `check` lets pass."""
        return {key: example_of(schema) for key, schema in self.parameters.items()}

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Check `arguments` against `parameters`.

        Raises:
            ToolError: A parameter is missing, unknown, or has a value that its schema excludes.
        """
        for key in self.parameters if self.required is None else self.required:
            if key not in arguments:
                raise ToolError(f"{self.name} needs the argument '{key}'.")
        for key, value in arguments.items():
            if key not in self.parameters:
                takes = ", ".join(self.parameters) or "none"
                raise ToolError(f"{self.name} has no argument '{key[:100]}'; it takes {takes}.")
            if (fault := find_fault(self.parameters[key], value, key)) is not None:
                where, what = fault
                raise ToolError(f"the argument '{where}' of {self.name} must {what}.")


def example_of(schema: Any) -> Any:
    """Return a value that a JSON-schema property allows."""
    if not isinstance(schema, Mapping):
        return "1"
    if isinstance(choices := schema.get("enum"), Sequence) and choices:
        return choices[0]
    kind = schema.get("type")
    match kind if isinstance(kind, str) or not kind else kind[0]:
        case "integer" | "number":
            return 1
        case "boolean":
            return True
        case "null":
            return None
        case "array":
            return [example_of(schema.get("items"))]
        case "object":
            fields = schema.get("properties") or {}
            return {key: example_of(fields.get(key)) for key in schema.get("required") or ()}
        case _:
            return "1"


def find_fault(schema: Any, value: Any, where: str, depth: int = 0) -> tuple[str, str] | None:
    """Return where in `value` the schema is not met and what must be so there, or None if it is met.

    Args:
        schema: A JSON-schema property; of its keywords, those named in `Tool.parameters` count.
        value: What JSON holds there.
        where: The name of the value; the names of its parts are made from it, like `points[2].x`.
        depth: How deep in the argument it stands.
    """
    if depth > _MAX_DEPTH:
        return where[:100], f"be nested at most {_MAX_DEPTH} deep"
    if not isinstance(schema, Mapping):  # `true` is a schema too
        return None
    wanted = schema.get("type")
    kinds = [kind for kind in ([wanted] if isinstance(wanted, str) else wanted or ()) if isinstance(kind, str)]
    if kinds and not any(_is_a(kind, value) for kind in kinds):
        return where, f"be of type {' or '.join(kinds)}"
    # JSON tells true from 1, Python does not.
    choices = schema.get("enum")
    if isinstance(choices, Sequence) and not any(
        value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in choices
    ):
        return where, f"be one of {', '.join(map(str, choices))}"
    if isinstance(value, list) and isinstance(items := schema.get("items"), Mapping):
        parts = [(items, item, f"{where}[{i}]") for i, item in enumerate(value)]
    elif isinstance(value, dict):
        known = schema.get("properties") or {}
        for key in schema.get("required") or ():
            if key not in value:
                return where, f"have the field '{key}'"
        parts = [(known[key], value[key], f"{where}.{key}") for key in known if key in value]
    else:
        return None
    return next((fault for part in parts if (fault := find_fault(*part, depth + 1)) is not None), None)


def _is_a(kind: str, value: Any) -> bool:
    # A type of a foreign schema that nobody knows excludes nothing.
    number = kind in ("integer", "number")
    return isinstance(value, _JSON_TYPES.get(kind, object)) and not (number and isinstance(value, bool))
