"""Gymnasium's discrete environments as text, played by calls of one tool.

`TextGym` turns an environment whose actions have names and whose states can be said in words into a `TextEnv`;
`Tabular` does the rest where the transitions are a table (`P` of the toy-text environments).

Invariant: what is random in an episode is seeded by its task, and every task can be won: where moves may go astray,
tasks are drawn until the best policy wins. The outcome is the goal of the original; its other rewards (a cost per
step, a fine for a wrong pick-up) are not paid.
"""

import random
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from palestra.envs.core import Demonstration, Reward, Task, TextEnv, Turn
from palestra.envs.tasks.worlds import WorldTool
from palestra.envs.toolcalls import format_tool_call
from palestra.envs.tools.base import ToolError

_DRAWS = 1_000


@dataclass(slots=True)
class Play:
    """An episode of a Gymnasium environment."""

    env: gymnasium.Env[Any, int]
    actions: Sequence[str]
    describe: Callable[[gymnasium.Env[Any, int], float, bool], str]
    won: bool = False
    over: bool = False

    def step(self, name: str) -> str:
        """Take an action by its name and say what is seen then.

        Raises:
            ToolError: The episode is over.
        """
        if self.over:
            raise ToolError("the game is over.")
        _, reward, self.over, _, _ = self.env.step(self.actions.index(name))
        self.won = self.over and float(reward) > 0
        return self.describe(self.env, float(reward), self.over)


class Act(WorldTool):
    """Makes a move of the game.

    Args:
        name: What calls name it.
        description: One sentence for the agent.
        parameter: The name of its only parameter.
        actions: The values of the parameter; none if it is free text.
    """

    def __init__(self, name: str, description: str, parameter: str, actions: Sequence[str] = ()) -> None:
        super().__init__(name)
        self.description = description
        self.actions = tuple(actions)
        schema: dict[str, Any] = {"type": "string", "description": "|".join(actions) or parameter}
        self.parameters = {parameter: {**schema, "enum": list(actions)} if actions else schema}

    def act(self, world: Any, **arguments: Any) -> str:
        """Take the action."""
        (action,) = arguments.values()
        seen: str = world.step(action)
        return seen


class TextGym(TextEnv):
    """Base of games that are played by calls of one tool; a subclass draws tasks and makes the world."""

    tools: tuple[Act, ...] = ()
    """Exactly one; for a Gymnasium environment, its actions stand in Gymnasium's order."""
    asks_for_answer = False

    @abstractmethod
    def make_world(self, task: Task) -> Any:
        """Return the episode's world: an object with `step(name)`, `over` and `won`."""

    @abstractmethod
    def plan(self, task: Task) -> Sequence[str]:
        """Return actions that win."""

    def begin(self, task: Task) -> Any:
        """Make the world of an episode."""
        return self.make_world(task)

    def judge(self, task: Task, turn: Turn) -> Reward | None:
        """End when the game does; answers do not count."""
        return Reward(float(self.world.won)) if self.world.over else None

    def grade(self, task: Task, answer: str) -> Reward:
        """No answer is asked for."""
        return Reward(0.0)

    def feedback(self, task: Task, turn: Turn) -> str:
        """Say how to play."""
        return f"Play by calling {self.tools[0].name}."

    def solve(self, task: Task) -> Demonstration:
        """Play a plan that wins."""
        return Demonstration(tuple(self._call_of(action) for action in self.plan(task)))

    def random_move(self, rng: random.Random) -> str:
        """Draw a legal move."""
        return rng.choice(self.actions)

    def guess(self, task: Task, rng: random.Random) -> str:
        """A move, as a word: answers do not count."""
        return self.random_move(rng)

    def random_action(self, rng: random.Random) -> str:
        """Make any move."""
        return self._call_of(self.random_move(rng))

    @property
    def actions(self) -> tuple[str, ...]:
        """The names of the actions."""
        return self.tools[0].actions

    def _call_of(self, action: str) -> str:
        (parameter,) = self.tools[0].parameters
        return format_tool_call(self.tools[0].name, {parameter: action})


Table = Mapping[int, Mapping[int, Sequence[tuple[float, int, float, bool]]]]
"""State -> action -> (probability, next state, reward, end): `P` of Gymnasium's tabular environments."""


def shortest_plan(table: Table, start: int) -> list[int] | None:
    """Return the fewest actions to a state that ends with a positive reward, where nothing is random."""
    before: dict[int, tuple[int, int] | None] = {start: None}
    queue = deque([start])
    while queue:
        state = queue.popleft()
        for action, outcomes in table[state].items():
            ((_, after, reward, end),) = outcomes
            if end and reward > 0:
                plan = [action]
                while (step := before[state]) is not None:
                    state, action = step
                    plan.append(action)
                return plan[::-1]
            if not end and after not in before:
                before[after] = (state, action)
                queue.append(after)
    return None


def best_policy(table: Table, discount: float = 0.99) -> list[int]:
    """Return the best action of each state by policy iteration (Howard 1960)."""
    moves, gains = _arrays(table)
    states = np.arange(len(table))
    policy = np.zeros(len(table), dtype=np.int64)
    while True:
        values = np.linalg.solve(np.eye(len(table)) - discount * moves[states, policy], gains[states, policy])
        worth = gains + discount * moves @ values
        best = worth.argmax(axis=1)
        better = worth[states, best] > worth[states, policy] + 1e-9
        if not better.any():
            return [int(action) for action in policy]
        policy = np.where(better, best, policy)


def _arrays(table: Table) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The chance of going on by state, action and next state, and the expected reward by state and action."""
    moves = np.zeros((len(table), len(table[0]), len(table)))
    gains = np.zeros(moves.shape[:2])
    for state, row in table.items():
        for action, cell in row.items():
            for chance, after, reward, end in cell:
                moves[state, action, after] += chance * (not end)
                gains[state, action] += chance * reward
    return moves, gains


class Tabular(TextGym):
    """An environment whose transitions are a table; a subclass draws, makes and describes it."""

    chancy: bool = False
    """Whether moves may go astray."""

    @abstractmethod
    def draw(self, rng: random.Random) -> dict[str, Any]:
        """Draw what a task consists of besides the seed of what goes astray."""

    @abstractmethod
    def make_env(self, data: Mapping[str, Any]) -> Any:
        """Return the environment, not yet reset."""

    @abstractmethod
    def see(self, env: Any, reward: float, over: bool) -> str:
        """Say what is seen after a move."""

    def first(self, data: Mapping[str, Any]) -> str:
        """Say what is seen at the start."""
        return self.see(self._start(data), 0.0, False)

    def policy(self, env: Any) -> Sequence[int]:
        """Return the best action of each state."""
        return best_policy(env.P)

    def make_world(self, task: Task) -> Play:
        """Return the environment at its start."""
        return Play(self._start(task.data), self.actions, self.see)

    def plan(self, task: Task) -> Sequence[str]:
        """Return the fewest actions, or where moves go astray those of the best policy."""
        env = self._start(task.data)
        found = self._win(env) if self.chancy else shortest_plan(env.P, int(env.s))
        return [self.actions[action] for action in found or ()]

    def sample(self, rng: random.Random) -> Task:
        """Draw a task; where moves go astray, one in which the best policy wins in time.

        Raises:
            RuntimeError: No draw fits: the parameters ask for the impossible.
        """
        for _ in range(_DRAWS):
            data = {"seed": rng.randrange(2**32), **self.draw(rng)}
            seen = self.first(data)
            # What is another variant's is drawn again anyway, before the best policy is looked for.
            if not self.chancy or not self.owns(seen) or self._win(self._start(data)) is not None:
                return Task(seen, "", seen, data)
        raise RuntimeError(f"no task found in {_DRAWS} draws; allow more turns")

    def _start(self, data: Mapping[str, Any]) -> Any:
        env = self.make_env(data)
        env.reset(seed=data["seed"])
        return env

    def _win(self, env: Any) -> list[int] | None:
        policy = self.policy(env)
        actions = []
        for _ in range(self.max_turns):
            actions.append(policy[int(env.s)])
            _, reward, over, _, _ = env.step(actions[-1])
            if over:
                return actions if reward > 0 else None
        return None
