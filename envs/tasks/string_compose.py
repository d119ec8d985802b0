"""StringCompose: does an agent that knows f and g alone compute f(g(x))?

The task of "From f(x) and g(x) to f(g(x))" (arXiv 2509.25123), repaired: the level is the number of functions
applied (the original's is tree depth); no literals, so every answer depends on the input; no inert
operations: input, intermediate strings and answer all differ; no semantic twins across the split; strings
stay within 2 to 8 letters, so depth is not confounded with length.
"""

import random
from collections.abc import Sequence
from typing import Any

from palestra.envs.core import Demonstration, ProcessTerm, Reward, Task, TextEnv, Turn
from palestra.envs.registry import register
from palestra.envs.tasks.string_functions import (
    ALPHABET,
    FUNCTIONS,
    HELD_OUT_FUNCTIONS,
    TRAIN_FUNCTIONS,
    apply_function,
    definitions,
)
from palestra.envs.toolcalls import format_tool_call
from palestra.envs.tools.base import Tool, ToolError

TRAIN, HELD_OUT, ALL = "".join(TRAIN_FUNCTIONS), "".join(HELD_OUT_FUNCTIONS), "".join(FUNCTIONS)
LENGTHS = (2, 8)
"""Fewest and most letters of any string in a task."""


class Apply(Tool):
    """Applies one function to one string."""

    name = "apply"
    description = "Applies one named function to a string."
    parameters = {
        "function": {"type": "string", "description": "function name"},
        "string": {"type": "string", "description": "input string"},
    }

    def __call__(self, **arguments: Any) -> str:
        """Return function(string).

        Raises:
            ToolError: No such function, or a string that is not 1 to 16 letters a-h.
        """
        function, text = arguments["function"], arguments["string"]
        if function not in FUNCTIONS:
            raise ToolError(f"there is no function '{function[:20]}'; functions: {', '.join(FUNCTIONS)}.")
        if not 1 <= len(text) <= 16 or set(text) - set(ALPHABET):
            raise ToolError(f"the string must be 1 to 16 letters {ALPHABET[0]}-{ALPHABET[-1]}.")
        return apply_function(function, text)


@register(
    "palestra/StringCompose-v0",
    variants={
        "train": {},
        "test": {},
        "atoms": {"level": 1, "functions": ALL},
        "level-3": {"level": 3},
        "level-4": {"level": 4},
        "mixed": {"functions": ALL, "both_families": True},
        "held-out": {"functions": HELD_OUT},
        "held-out-3": {"functions": HELD_OUT, "level": 3},
        "train-atoms": {"level": 1, "functions": ALL},
        "train-held-out": {"functions": HELD_OUT},
        "train-held-out-3": {"functions": HELD_OUT, "level": 3},
        "train-mixed": {"functions": ALL, "both_families": True},
        "train-defined": {"defined": True},
        "test-defined": {"defined": True},
        "train-tool": {"tools": (Apply(),), "max_turns": 4},
        "test-tool": {"tools": (Apply(),), "max_turns": 4},
    },
)
class StringCompose(TextEnv):
    """Nested named string functions: recall each one and compose them, e.g. A(C(abfd)) = ?"""

    max_turns = 1
    instructions = (
        "Compute the nested string functions, innermost first: write the expression after each step on a line "
        "of its own, then the resulting string as your answer."
    )
    process_terms = {
        "steps": ProcessTerm(
            0.0, 1.0, "nothing known: each step must be the right one, in order; the answer may be wrong"
        ),
    }

    level: int = 2
    """How many functions are applied."""
    functions: str = TRAIN
    """The functions to draw from."""
    both_families: bool = False
    """Whether a training function and a held-out one must both occur."""
    defined: bool = False
    """Whether the prompt defines the functions; without it the agent must know them."""

    def sample(self, rng: random.Random) -> Task:
        """Draw functions and an input until no application is inert."""
        while True:
            names = [rng.choice(self.functions) for _ in range(self.level)]
            text = "".join(rng.choice(ALPHABET) for _ in range(rng.randint(3, 5)))
            states = [text]
            for name in names:
                states.append(apply_function(name, states[-1]))
            if self._effective(names, states):
                break
        expressions = [_expression(names[i:], state) for i, state in enumerate(states)]
        prompt = f"{expressions[0]} = ?"
        return Task(
            prompt=f"{definitions()} {prompt}" if self.defined else prompt,
            answer=states[-1],
            key=expressions[0],
            data={"names": names, "states": states, "expressions": expressions},
        )

    def grade(self, task: Task, answer: str) -> Reward:
        """The exact string; quotes, blanks and a full stop around it do not count."""
        return Reward(float(answer.strip().rstrip(".").strip("'\"") == task.answer))

    def process(self, task: Task, turns: Sequence[Turn]) -> dict[str, float]:
        """Pay each right intermediate step, in order: written on its own line, or computed by the tool."""
        if self.level < 2:
            return {}
        if not self.tools:
            wanted = task.data["expressions"][1:-1]
            lines = [line.strip() for line in turns[-1].action.splitlines()]
            right = sum(line == want for line, want in zip(lines, wanted, strict=False))
            return {"steps": right / len(wanted)}
        before, now = _applied(task, turns[:-1]), _applied(task, turns)
        return {"steps": (now - before) / self.level} if now > before else {}

    def solve(self, task: Task) -> Demonstration:
        """Rewrite the innermost call until a string is left, or call the tool for each."""
        final = f"<answer>{task.answer}</answer>"
        if not self.tools:
            return Demonstration(("\n".join([*task.data["expressions"][1:-1], final]),))
        calls = [
            format_tool_call("apply", {"function": name, "string": state})
            for name, state in zip(task.data["names"], task.data["states"], strict=False)
        ]
        return Demonstration((*calls, final))

    def guess(self, task: Task, rng: random.Random) -> str:
        """A random string of the right length: far above what a guesser knows, and still hopeless."""
        return "".join(rng.choice(ALPHABET) for _ in task.answer)

    def _effective(self, names: Sequence[str], states: Sequence[str]) -> bool:
        if self.both_families and not (set(names) & set(TRAIN) and set(names) & set(HELD_OUT)):
            return False
        return len(set(states)) == len(states) and all(LENGTHS[0] <= len(s) <= LENGTHS[1] for s in states)


def _expression(names: Sequence[str], text: str) -> str:
    for name in names:
        text = f"{name}({text})"
    return text


def _applied(task: Task, turns: Sequence[Turn]) -> int:
    """Count how many of the needed applications the tool calls so far have done, in order."""
    done = 0
    for turn in turns:
        for call, result in zip(turn.calls, turn.results, strict=False):  # calls beyond the limit were not run
            names, states = task.data["names"], task.data["states"]
            needed = {"function": names[done], "string": states[done]} if done < len(names) else None
            if call.name == Apply.name and call.arguments == needed and result == states[done + 1]:
                done += 1
    return done
