"""Episodes as the checks play them: every step written down, so that two of them can be compared byte by byte."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

from palestra.envs.checks.base import Problem, Subject
from palestra.envs.core import TextEnv


class Step(NamedTuple):
    """One turn and what came of it."""

    action: str
    observation: str
    outcome: float
    process: tuple[tuple[str, float], ...]
    ended: str
    """`terminated`, `truncated`, or nothing if the episode goes on."""


@dataclass(slots=True)
class Episode:
    """An episode, or the beginning of one."""

    index: int
    prompt: str
    steps: list[Step] = field(default_factory=list)
    planned: int = field(default=0, compare=False)
    """Turns of the demonstration, if it is one."""

    @property
    def outcome(self) -> float:
        """The outcome of the last step."""
        return self.steps[-1].outcome if self.steps else 0.0

    @property
    def ended(self) -> str:
        """How the episode ended, or nothing."""
        return self.steps[-1].ended if self.steps else ""

    @property
    def process(self) -> dict[str, float]:
        """Process terms summed over the steps."""
        total: dict[str, float] = {}
        for step in self.steps:
            for name, value in step.process:
                total[name] = total.get(name, 0.0) + value
        return total


class EndlessEpisodeError(Exception):
    """An episode goes on after its last turn."""


def begin(subject: Subject, env: TextEnv, index: int) -> Episode:
    """Reset to a task."""
    return Episode(index, subject.reset(env, index))


def advance(subject: Subject, env: TextEnv, episode: Episode, action: str) -> Step:
    """Play one turn and write it down.

    Raises:
        EndlessEpisodeError: The environment's turns are used up and it has not ended the episode.
    """
    observation, _, terminated, truncated, info = subject.step(env, action)
    reward = info["reward"]
    ended = "terminated" if terminated else "truncated" if truncated else ""
    step = Step(action, observation, reward["outcome"], tuple(sorted(reward["process"].items())), ended)
    episode.steps.append(step)
    if not ended and len(episode.steps) >= env.max_turns:
        raise EndlessEpisodeError(f"{env.task_id} goes on after its {env.max_turns} turns")
    return step


def play(subject: Subject, env: TextEnv, index: int, turns: Sequence[str]) -> Episode:
    """Play given turns until they or the episode end."""
    episode = begin(subject, env, index)
    _continue(subject, env, episode, turns)
    return episode


def play_oracle(subject: Subject, env: TextEnv, index: int) -> Episode:
    """Play the environment's own demonstration."""
    episode = begin(subject, env, index)
    assert env.task is not None
    turns = subject.demonstrate(env, env.task)
    episode.planned = len(turns)
    _continue(subject, env, episode, turns)
    return episode


def play_random(subject: Subject, env: TextEnv, index: int) -> Episode:
    """Play as someone would who does not think."""
    rng = random.Random(f"{subject.settings.seed}|{env.env_id}|{env.variant}|{index}")
    return play_until_end(subject, env, index, lambda: subject.ask(env.random_action, rng))


def play_until_end(subject: Subject, env: TextEnv, index: int, act: Callable[[], str]) -> Episode:
    """Ask for turns until the episode ends."""
    episode = begin(subject, env, index)
    while not advance(subject, env, episode, act()).ended:
        pass
    return episode


def outside_bounds(subject: Subject, episode: Episode, player: str) -> Iterator[Problem]:
    """Yield a problem for each process term whose sum leaves its bounds, once per term."""
    terms = subject.env.process_terms
    for name, value in episode.process.items():
        term = terms.get(name)
        if (term is None or not term.low <= value <= term.high) and name not in subject.out_of_bounds:
            subject.out_of_bounds.add(name)
            declared = "which is not declared" if term is None else f"outside [{term.low:g}, {term.high:g}]"
            yield Problem(
                "bounds",
                f"the process term '{name}' adds up to {value:g} in a {player} episode (task {episode.index}), "
                f"{declared}; bounds are per episode: pay less, or declare them in `process_terms`.",
            )


def describe(subject: Subject, env: TextEnv, index: int) -> dict[str, str]:
    """Return digests of everything that an episode consists of, by name, in the order in which it comes about."""
    task = subject.ask(env.task_at, index)
    parts = {
        "prompt": task.prompt,
        "key": task.key,
        "answer": task.answer,
        "system prompt": env.system_prompt(),
        "demonstration": subject.demonstrate(env, task),
        "oracle episode": play_oracle(subject, env, index),
        "random episode": play_random(subject, env, index),
    }
    return {name: _digest(repr(value)) for name, value in parts.items()}


def first_difference(one: dict[str, str], other: dict[str, str]) -> str | None:
    """Return the name of the first part that differs."""
    return next((name for name in one if one[name] != other.get(name)), None)


def _continue(subject: Subject, env: TextEnv, episode: Episode, turns: Sequence[str]) -> None:
    for turn in turns:
        if advance(subject, env, episode, turn).ended:
            break
    env.end_episode()


def _digest(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
