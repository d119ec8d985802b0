"""Policies that need no model: the oracle, a guesser, a script, and a person at the terminal."""

import random
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from palestra.agents.trajectory import Trajectory, TurnSpan
from palestra.envs.core import TextEnv


class Policy(Protocol):
    """Chooses an assistant turn."""

    def act(self, env: TextEnv, observation: str) -> str:
        """Return the next action, given the environment in its present state."""
        ...


class OraclePolicy:
    """Plays the environment's own demonstration: the upper bound."""

    def act(self, env: TextEnv, observation: str) -> str:
        """Return the demonstration's turn at this point of the episode."""
        assert env.task is not None
        return env.demonstrate(env.task).turns[len(env.turns)]


class RandomPolicy:
    """Plays as someone who does not think would (`TextEnv.random_action`): the chance rate."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def act(self, env: TextEnv, observation: str) -> str:
        """Return a random turn."""
        return env.random_action(self._rng)


class ScriptedPolicy:
    """Plays given turns one after the other, and the last one again once they are used up."""

    def __init__(self, turns: Sequence[str]) -> None:
        self._turns = list(turns)

    def act(self, env: TextEnv, observation: str) -> str:
        """Return the next turn of the script."""
        return self._turns[min(len(env.turns), len(self._turns) - 1)]


class HumanPolicy:
    """Asks a person.

    Args:
        show: Prints text, e.g. `rich.print`.
        ask: Reads one turn, e.g. `input`; it may raise EOFError to end the session.
    """

    def __init__(self, show: Callable[[str], None], ask: Callable[[], str]) -> None:
        self._show = show
        self._ask = ask

    def act(self, env: TextEnv, observation: str) -> str:
        """Show the observation and read the person's turn."""
        self._show(observation)
        return self._ask()


def play(
    env: TextEnv, policy: Policy, index: int, watch: Callable[[dict[str, Any]], None] = lambda info: None
) -> Trajectory:
    """Play one episode of `env` with a policy; the trajectory holds messages and rewards, no tokens.

    `watch` is given the info of each step.
    """
    observation, _ = env.reset(options={"index": index})
    assert env.task_id is not None
    assert env.task is not None
    trajectory = Trajectory(env.task_id, env.task.key, messages=[{"role": "user", "content": observation}])
    while not trajectory.stop:
        action = policy.act(env, observation)
        observation, _, terminated, truncated, info = env.step(action)
        watch(info)
        trajectory.messages.append({"role": "assistant", "content": action})
        trajectory.turns.append(TurnSpan(0, 0, dict(info["reward"]["process"])))
        trajectory.outcome = info["reward"]["outcome"]
        if observation:
            trajectory.messages.append({"role": info["role"], "content": observation})
        if terminated or truncated:
            trajectory.stop = "answer" if terminated else "turns"
    return trajectory
