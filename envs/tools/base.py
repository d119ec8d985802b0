"""What a tool is, and how the arguments of a call are checked against its schema."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

_JSON_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
}


class ToolError(Exception):
    """The call was wrong (not the program): its message becomes the agent's observation."""


class Tool(ABC):
    """A function that an agent may call by name.

    Subclasses set the class attributes and implement `__call__`, whose keyword arguments are those of
    `parameters`. Tools hold no state of an episode: one object serves every environment of a process.
    """

    name: ClassVar[str]
    """The name that calls use."""
    description: ClassVar[str]
    """One sentence for the agent's instructions."""
    parameters: ClassVar[Mapping[str, Mapping[str, str]]]
    """Name -> JSON-schema property; every parameter is required."""
    blocking: ClassVar[bool] = False
    """Whether a call waits for another process; rollouts run such steps in threads."""

    @abstractmethod
    def __call__(self, **arguments: Any) -> str:
        """Run the tool and return what the agent sees; raise `ToolError` for a wrong call."""

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

    def call(self, arguments: Mapping[str, Any]) -> str:
        """Check `arguments` against `parameters`, then run the tool.

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
        return self(**arguments)
