"""A registered environment for TRL's own multi-turn loop: `GRPOTrainer(environment_factory=...)`, TRL 1.16.

    GRPOTrainer(..., train_dataset=dataset(ID, "train", 1000), environment_factory=environment_factory(ID, "train"))

For those who want TRL's loop; `palestra train` has its own (text protocol, credit per turn). TRL's knows tool calls
only: each tool is a method, made from its schema, and the answer is one more, `submit`. Every call is a turn that goes
through `TextEnv.step`, so that turn limit and grading are those of every other way to play.

Invariant: rows of one index play one task, so that the members of a GRPO group share it. `get_reward` is the strict
outcome, or None (TRL leaves the episode out) if a tool's machinery failed.
"""

import inspect
import json
from collections.abc import Callable, Mapping
from functools import reduce
from operator import or_
from typing import Any

from datasets import Dataset

from palestra.envs.core import TextEnv
from palestra.envs.errors import PalestraError, UsageError
from palestra.envs.registry import make
from palestra.envs.toolcalls import format_tool_call
from palestra.envs.tools.base import Tool

OVER = "The episode is over."
"""What a call gets after the end: TRL's loop goes on until the model calls nothing."""
_TYPES = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": type(None),
}
_TAKEN = ("reset", "get_reward")
_NEEDED = inspect.Parameter.empty


class ToolEnvironment:
    """What TRL sees of an environment; its subclasses, one per environment and variant, add the tools as methods."""

    _make: Callable[[], TextEnv]

    def __init__(self) -> None:
        self._env = type(self)._make()
        self._over = True
        self._outcome: float | None = 0.0

    def reset(self, *, index: int | None = None, **row: Any) -> str:
        """Start the episode that the row's `index` names and return its prompt, which TRL appends to the row's.

        Raises:
            UsageError: The row has no index, or one that is no whole number from 0.
        """
        if index is None:  # with which an environment draws a task, for each member of a group another one
            raise UsageError("a row has no index; its `index` must name the task")
        self._over, self._outcome = False, 0.0
        observation, _ = self._env.reset(options={"index": index})
        return observation

    def get_reward(self) -> float | None:
        """Return the outcome of the episode; None if it broke, which says nothing about the model."""
        return self._outcome

    def _call(self, name: str, arguments: Mapping[str, Any]) -> str:
        if self._over:
            return OVER
        try:
            observation, outcome, terminated, truncated, _ = self._env.step(format_tool_call(name, arguments))
        except PalestraError:
            self._over, self._outcome = True, None
            self._env.end_episode()
            raise
        self._outcome, self._over = outcome, terminated or truncated
        return f"{observation}\n{OVER}".lstrip() if self._over else observation


def environment_factory(env_id: str, variant: str = "train") -> type[ToolEnvironment]:
    """Return a class whose instances are environments for TRL: calling it without arguments makes one.

    TRL logs the reward under the class's name, which is that of the environment's class. The class exists in this
    process only, so it cannot be pickled: TRL's asynchronous trainer does not take it.

    Raises:
        UsageError: No such environment or variant, or a tool whose name TRL needs for itself.
    """
    env = make(env_id, variant)
    methods = {tool.name: _method(tool, env_id) for tool in (_Submit(), *env.tools)}
    return type(
        type(env).__name__, (ToolEnvironment,), {**methods, "_make": staticmethod(lambda: make(env_id, variant))}
    )


def dataset(env_id: str, variant: str = "train", count: int = 1000) -> Dataset:
    """Return a row for each of the first `count` different tasks: the `index` that `reset` takes, and a prompt.

    The prompt holds the instructions; the task's text comes from `reset`.
    """
    env = make(env_id, variant)
    submit = "" if any(tool.name == "submit" for tool in env.tools) else "Give your final answer by calling submit."
    system = f"{env.instructions}\n{submit}".strip()
    prompt = [{"role": "system", "content": system}, {"role": "user", "content": ""}]
    return Dataset.from_list([{"prompt": prompt, "index": index} for index in env.distinct_indices(count)])


def _method(tool: Tool, env_id: str) -> Any:
    """Make a method with the signature, types and docstring that chat templates read a tool's schema from.

    It takes any arguments: wrong ones are the environment's to answer, and cost a turn.
    """
    name, required = tool.name, tool.schema()["function"]["parameters"]["required"]
    if name in _TAKEN or name.startswith("_") or not all(word.isidentifier() for word in (name, *tool.parameters)):
        raise UsageError(f"{env_id}: TRL cannot call the tool '{name}' (its names are taken, or no Python names)")

    def method(self: ToolEnvironment, /, **arguments: Any) -> str:
        return self._call(name, arguments)

    hints = {key: _hint(schema) for key, schema in tool.parameters.items()}
    method.__name__ = name
    method.__doc__ = _docstring(tool)
    method.__annotations__ = {**hints, "return": str}
    method.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)]
        + [
            inspect.Parameter(
                key, inspect.Parameter.KEYWORD_ONLY, default=_NEEDED if key in required else None, annotation=hint
            )
            for key, hint in hints.items()
        ],
        return_annotation=str,
    )
    return method


def _hint(schema: Mapping[str, Any]) -> Any:
    """Return the type from which transformers makes the schema again, as far as types say it."""
    kind = schema.get("type")
    if kind == "array" and "type" in schema.get("items", {}):
        return list[_hint(schema["items"])]  # type: ignore[misc]
    kinds = [kind] if isinstance(kind, str) else list(kind or ())
    return reduce(or_, [_TYPES[k] for k in kinds]) if kinds and set(kinds) <= _TYPES.keys() else Any


def _docstring(tool: Tool) -> str:
    lines = [" ".join(tool.description.split())]
    for key, schema in tool.parameters.items():
        said = " ".join(str(schema.get("description", key)).split())
        if "properties" in schema or "properties" in schema.get("items", {}):
            said += f" (schema: {json.dumps({k: v for k, v in schema.items() if k != 'description'})})"
        if "enum" in schema:
            said += f" (choices: {json.dumps(schema['enum'])})"
        lines += ["", "Args:"] * (len(lines) == 1) + [f"    {key}: {said}"]
    return "\n".join(lines)


class _Submit(Tool):
    """How the answer is given."""

    name = "submit"
    description = "Gives the final answer."
    parameters = {"answer": {"type": "string", "description": "the final answer"}}

    def __call__(self, **arguments: Any) -> str:
        raise NotImplementedError("the environment grades answers itself")
