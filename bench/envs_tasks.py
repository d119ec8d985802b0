"""The small tasks that `bench/envs.py` times, in our environments and bare.

`guess`: a number from 1 to 1000 and ten guesses, told higher or lower after each; the guesses are 1 to 10, so that
nearly every episode has ten steps. `sum`: one question, one answer. `retry`: the same with five attempts, of which
none is right. `item`: an item of reasoning-gym, made and scored.
"""

import contextlib
import json
import random
import re
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

LOW, HIGH, GUESSES = 1, 1000, 10
ATTEMPTS = 5
GROUP = 8
"""Episodes of one task in a row, in the rows that say so: what group-relative training does."""
NUMBERS = tuple(range(LOW, LOW + GUESSES))
TAGGED = tuple(f"<answer>{n}</answer>" for n in NUMBERS)
BOXED = tuple(rf"\boxed{{{n}}}" for n in NUMBERS)
BRACKETED = tuple(f"[{n}]" for n in NUMBERS)
PROMPT = f"Guess a number from {LOW} to {HIGH}. After each guess you are told whether it is higher or lower."
ITEM = "chain_sum"
TAG = re.compile(r"<answer>\s*(\d{1,9})\s*</answer>")


class Played(NamedTuple):
    """What one call of a contender did."""

    episodes: int
    steps: int
    cpu_s: float | None = None
    """Only where the worker's own clock would count what is not the contender's."""


Play = Callable[[], Played]


def steps_of(reset: Callable[[], Any], step: Callable[[str], bool], actions: tuple[str, ...], episodes: int) -> Play:
    """Play episodes whose actions are given, until `step` says that one is over."""

    def play() -> Played:
        steps = 0
        for _ in range(episodes):
            reset()
            for action in actions:
                steps += 1
                if step(action):
                    break
        return Played(episodes, steps)

    return play


def palestra_envs() -> tuple[type, type]:
    """Return our two environments, the guessing game and the sum."""
    from palestra.envs import Demonstration, Reward, Task, TextEnv, register

    @register("bench/Guess-v0", variants={"train": {}, "test": {}})
    class Guess(TextEnv):
        """Guess a number, told higher or lower."""

        max_turns = attempts = GUESSES

        def sample(self, rng: random.Random) -> Task:
            number = rng.randint(LOW, HIGH)
            return Task(PROMPT, str(number), str(number), {"number": number})

        def grade(self, task: Task, answer: str) -> Reward:
            return Reward(1.0 if answer == task.answer else 0.0)

        def feedback(self, task: Task, turn: Any) -> str:
            if not turn.answer.isdecimal():
                return "That is no number."
            hint = "lower" if int(turn.answer) > task.data["number"] else "higher"
            return f"The number is {hint} than {turn.answer}."

        def solve(self, task: Task) -> Demonstration:
            return Demonstration((f"<answer>{task.answer}</answer>",))

    @register("bench/Sum-v0", variants={"train": {}, "test": {}})
    class Sum(TextEnv):
        """Add two numbers."""

        max_turns = 1

        def sample(self, rng: random.Random) -> Task:
            a, b = rng.randint(0, 999), rng.randint(0, 999)
            return Task(f"What is {a} + {b}?", str(a + b), f"{a}+{b}")

        def grade(self, task: Task, answer: str) -> Reward:
            return Reward(1.0 if answer == task.answer else 0.0)

        def solve(self, task: Task) -> Demonstration:
            return Demonstration((f"<answer>{task.answer}</answer>",))

    return Guess, Sum


def _ours(env: Any, actions: tuple[str, ...], group: int, episodes: int) -> Play:
    count = 0

    def reset() -> None:
        nonlocal count
        env.reset(options={"index": count // group})
        count += 1

    def step(action: str) -> bool:
        _, _, terminated, truncated, _ = env.step(action)
        return bool(terminated or truncated)

    return steps_of(reset, step, actions, episodes)


@contextlib.contextmanager
def palestra_guess(group: int = 1) -> Iterator[Play]:
    """A new number each episode, or each `group`."""
    guess, _ = palestra_envs()
    yield _ours(guess(), TAGGED, group, 200)


@contextlib.contextmanager
def palestra_unsplit_guess() -> Iterator[Play]:
    """A new number each episode; nothing is held out for tests, as in the others' games."""
    from palestra.envs import register

    guess, _ = palestra_envs()
    whole = register("bench/Unsplit-v0", variants={"train": {}})(type("Unsplit", (guess,), {"__module__": __name__}))
    yield _ours(whole(), TAGGED, 1, 200)


@contextlib.contextmanager
def palestra_sum(group: int = 1) -> Iterator[Play]:
    """A new question each episode, or each `group`."""
    _, add = palestra_envs()
    yield _ours(add(), TAGGED[:1], group, 1_000)


def sums() -> list[dict[str, str]]:
    """Return questions with their answers: the rows of whoever plays rows that were made before."""
    rng = random.Random(0)
    pairs = [(rng.randint(0, 999), rng.randint(0, 999)) for _ in range(2_000)]
    return [{"question": f"What is {a} + {b}?", "answer": str(a + b)} for a, b in pairs]


@contextlib.contextmanager
def palestra_rows(attempts: int = 1) -> Iterator[Play]:
    """The sums from rows that were made before, a row per episode."""
    from palestra.envs import QuestionEnv, register

    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".jsonl") as file:
        file.writelines(json.dumps(row) + "\n" for row in sums())
        file.flush()
        limits = {"max_turns": attempts, "attempts": attempts}
        variants = {"train": {"rows": file.name, **limits}}
        made = register("bench/Rows-v0", variants=variants)(type("Rows", (QuestionEnv,), {"__module__": __name__}))
        yield _ours(made(), TAGGED[:1] * attempts, 1, 1_000)


@contextlib.contextmanager
def palestra_item() -> Iterator[Play]:
    """Reasoning-gym's task through our adapter."""
    import reasoning_gym  # noqa: F401  (so that a missing package is said here)

    import palestra.envs.adapters.reasoning_gym  # noqa: F401  (registers)
    from palestra.envs import make

    yield _ours(make(f"palestra/rg/{ITEM}-v0"), TAGGED[:1], 1, 200)


# The bare task, without a framework, and with Gymnasium's.


class Numbers:
    """The guessing game and nothing else."""

    def __init__(self) -> None:
        self.count = 0

    def reset(self) -> str:
        """Draw a number: reproducible, so from a seed of its own."""
        self.count += 1
        self.number = random.Random(self.count).randint(LOW, HIGH)
        self.left = GUESSES
        return PROMPT

    def step(self, action: str) -> tuple[str, float, bool]:
        """Judge a guess."""
        self.left -= 1
        match = TAG.search(action)
        guess = int(match[1]) if match else 0
        if guess == self.number:
            return "", 1.0, True
        return f"The number is {'lower' if guess > self.number else 'higher'} than {guess}.", 0.0, self.left == 0


@contextlib.contextmanager
def bare_guess() -> Iterator[Play]:
    """A class with reset and step."""
    game = Numbers()
    yield steps_of(game.reset, lambda action: game.step(action)[2], TAGGED, 200)


@contextlib.contextmanager
def gymnasium_guess() -> Iterator[Play]:
    """The bare task as a `gymnasium.Env`, made by `gymnasium.make`."""
    import gymnasium

    class Guess(gymnasium.Env[str, str]):
        action_space = observation_space = gymnasium.spaces.Text(200)

        def __init__(self) -> None:
            self.game = Numbers()

        def reset(self, *, seed: Any = None, options: Any = None) -> tuple[str, dict[str, Any]]:
            super().reset(seed=seed)
            return self.game.reset(), {}

        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            observation, reward, done = self.game.step(action)
            return observation, reward, done, False, {}

    gymnasium.register("bench/Guess-v1", entry_point=Guess)  # type: ignore[arg-type]
    env = gymnasium.make("bench/Guess-v1", disable_env_checker=True)
    yield steps_of(env.reset, lambda action: any(env.step(action)[2:4]), TAGGED, 200)
