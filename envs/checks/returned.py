"""Types: what an author's methods return is what everything else counts on.

Checked first, because a wrong type makes nearly every other check fail, each in its own words.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from types import NoneType
from typing import Any

from palestra.envs.checks.base import Problem, Subject
from palestra.envs.core import TextEnv
from palestra.envs.episode import Demonstration, Reward, Task
from palestra.envs.errors import MissingPrerequisiteError

_METHODS: dict[str, tuple[type, ...]] = {
    "grade": (Reward,),
    "judge": (Reward, NoneType),
    "process": (Mapping,),
    "feedback": (str,),
    "anchor": (str,),
    "guess": (str, NoneType),
}
_WRONG = "<answer>no idea</answer>"


class _WrongTypeError(Exception):
    """The message says what must be returned."""


def types_are_right(subject: Subject) -> Iterator[Problem]:
    """Draw a task, solve it, and answer wrongly, with an eye on what the author's methods return."""
    env = subject.make()
    for name, kinds in _METHODS.items():
        setattr(env, name, _watched(name, getattr(env, name), kinds))
    try:
        _look(subject, env)
    except _WrongTypeError as error:
        yield Problem("types", f"{error}.")


def _look(subject: Subject, env: TextEnv) -> None:
    task = subject.ask(env.sample, random.Random(0))
    _require("`sample`", task, (Task,))
    for field in ("prompt", "answer", "key"):
        _require(f"`sample`: {field} of a task", getattr(task, field), (str,), verb="must be")
    if not task.prompt.strip():
        raise _WrongTypeError("`sample`: the prompt of a task is empty; the agent must be told what to do")
    solved = subject.ask(env.solve, task)
    _require("`solve`", solved, (Demonstration,))
    turns: object = solved.turns
    if not isinstance(turns, tuple | list) or not all(isinstance(turn, str) for turn in turns):
        raise _WrongTypeError('`solve`: turns of a demonstration must be a tuple of texts, such as ("one turn",)')
    try:
        for turns in (solved.turns, [_WRONG] * env.max_turns, env.example_actions()):
            subject.reset(env, 0)
            for turn in turns:
                if any(subject.step(env, turn)[2:4]):
                    break
            env.anchor()
        env.guess(task, random.Random(0))
    except (_WrongTypeError, MissingPrerequisiteError):
        raise
    except Exception:
        return  # for the checks that follow, which say more about it
    finally:
        env.end_episode()


def _watched(name: str, method: Callable[..., Any], kinds: tuple[type, ...]) -> Callable[..., Any]:
    def watched(*arguments: Any) -> Any:
        result = method(*arguments)
        _require(f"`{name}`", result, kinds)
        if isinstance(result, Reward):
            _require(f"`{name}`: outcome of a Reward", result.outcome, (int, float), verb="must be")
            _require(f"`{name}`: process of a Reward", result.process, (Mapping,), verb="must be")
        return result

    return watched


def _require(what: str, value: object, kinds: tuple[type, ...], verb: str = "must return") -> None:
    if not isinstance(value, kinds):
        wanted = " or ".join("None" if kind is NoneType else kind.__name__ for kind in kinds)
        raise _WrongTypeError(f"{what} {verb} {wanted}, not {type(value).__name__}")
