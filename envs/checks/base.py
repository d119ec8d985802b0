"""What the checks share: settings, what they find, and the environment under test with its time limits.

Invariant: a check sees an environment only through a `Subject`, whose calls into the author's code are limited in
time; whatever that code does, the check ends.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from math import sqrt
from typing import Any, TypeVar

from palestra.envs.checks.limits import TimeLimits
from palestra.envs.core import Task, TextEnv
from palestra.envs.registry import make, spec

_Item = TypeVar("_Item")

BLOCKING_STEP_S = RESET_S = 60.0
"""Seconds that a step of a blocking environment, and everything else of an environment, may take."""
BLOCKING_SHARE = 10
"""How many times fewer malformed actions a blocking environment is given."""
LUCK = 0.001
"""Share of sound environments that a judgement of rates may fail by luck: thousands of rates are judged."""
GUESSABLE, COPY, FEW_TASKS, LENIENT = "guessable", "copy", "few-tasks", "lenient"
"""Flags of an environment that the checks heed: chance solves more of it than it may elsewhere, a part of the prompt
is a right answer, there are fewer tasks than there should be, a foreign grader takes more than the answer in full.
What they excuse is still measured."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is played, and what is tolerated."""

    episodes: int = 200
    """Oracle episodes, and as many random ones, per variant."""
    fuzz: int = 2_000
    """Malformed actions per variant; a tenth of it where steps wait for another process."""
    seed: int = 0
    """Seeds random and malformed actions; the tasks are always those of the first indices."""
    max_chance: float = 0.1
    """Share of random episodes that may be solved, unless the environment declares more."""
    draws: int = 500
    """Tasks drawn per variant to compare the keys of variants."""
    probed: int = 40
    """Tasks that the reward-hacking probes are played on."""
    replayed: int = 12
    """Tasks that are played again, in this and in another process."""
    budget_s: float = 30.0
    """Seconds after which the episodes of one check on one variant are cut short (fuzzing is not)."""
    step_s: float = 5.0
    """Seconds that a step may take, unless the environment declares that it blocks."""
    sandbox: str = "local"
    """Where tools run code."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong with an environment."""

    check: str
    """The check that found it."""
    message: str
    """What was seen, and what to do about it."""

    def __str__(self) -> str:
        return f"{self.check}: {self.message}"


@dataclass(slots=True)
class Report:
    """What the checks found out about one variant of one environment."""

    env: str
    variant: str
    problems: list[Problem] = field(default_factory=list)
    not_run: str | None = None
    """Why it could not be checked; None if it was."""
    measures: dict[str, Any] = field(default_factory=dict)
    """Numbers by name: `oracle_rate`, `chance_rate`, `chance_interval`, `step_us` and more."""

    @property
    def status(self) -> str:
        """`passed`, `failed` or `not run`."""
        return "failed" if self.problems else "not run" if self.not_run else "passed"


class Subject:
    """One variant under test.

    Args:
        env_id: Registered environment.
        variant: One of its variants.
        settings: How much is played.
        limits: Time limits of this process.
    """

    def __init__(self, env_id: str, variant: str, settings: Settings, limits: TimeLimits) -> None:
        self.env_id = env_id
        self.variant = variant
        self.settings = settings
        self.limits = limits
        self.measures: dict[str, Any] = {}
        self.step_ns: list[int] = []
        """How long each step took."""
        self.out_of_bounds: set[str] = set()
        """Process terms already reported."""
        self.described: list[dict[str, str]] = []
        """Digests of the first tasks and episodes, to be compared with those of another process."""
        self.interrupted = False
        """Whether a call was cut off: nothing that is seen afterwards in this process can be trusted."""
        self.tell: Callable[[str], None] = lambda doing: None
        """Reports what is being done."""
        self.flags = spec(env_id).flags
        self.env = self.make()
        self.fuzz = settings.fuzz // BLOCKING_SHARE if self.env.blocking else settings.fuzz
        self._step_s = BLOCKING_STEP_S if self.env.blocking else settings.step_s

    @property
    def allowed_chance(self) -> float:
        """Share of episodes that may be solved by chance."""
        return 1.0 if GUESSABLE in self.flags else self.settings.max_chance

    @property
    def chance_limit(self) -> float:
        """Upper end of what chance was measured to solve."""
        return float(self.measures.get("chance_interval", (0.0, self.allowed_chance))[1])

    def make(self) -> TextEnv:
        """Make another instance of the environment."""
        return self.limits.call(RESET_S, make, self.env_id, self.variant)

    def reset(self, env: TextEnv, index: int) -> str:
        """Start an episode and return the first observation."""
        return self.ask(env.reset, options={"index": index})[0]

    def step(self, env: TextEnv, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play a turn; an exception names the turn in a note."""
        began = time.perf_counter_ns()
        try:
            result = self.limits.call(self._step_s, env.step, action)
        except BaseException as error:
            error.add_note(f"at the turn {shorten(action)} of {env.task_id}")
            raise
        self.step_ns.append(time.perf_counter_ns() - began)
        return result

    def demonstrate(self, env: TextEnv, task: Task) -> tuple[str, ...]:
        """Return the oracle's turns."""
        return self.ask(env.demonstrate, task).turns

    def ask(self, call: Callable[..., _Item], *arguments: Any, **named: Any) -> _Item:
        """Call something else of the environment."""
        return self.limits.call(RESET_S, call, *arguments, **named)

    def within_budget(self, items: Iterable[_Item], what: str, share: float = 1.0) -> Iterator[_Item]:
        """Yield items until that share of the budget is spent, and note how many that were if they were cut short."""
        end = time.perf_counter() + share * self.settings.budget_s
        for count, item in enumerate(items, start=1):
            yield item
            if time.perf_counter() > end:
                self.measures.setdefault("cut", {})[what] = count
                return


def judged_by_text(env: TextEnv) -> bool:
    """Whether nothing but the final answer decides the outcome: no world, no judgement of the author's own."""
    return type(env).judge is TextEnv.judge and type(env).begin is TextEnv.begin


def surely_above(hits: int, count: int, limit: float) -> bool:
    """Whether a rate is above a limit beyond what luck explains.

    By the binomial distribution itself: an approximate interval is too sure of 2 successes in 3 trials.
    """
    if hits == 0 or limit >= 1:
        return False
    from scipy.special import betainc

    return bool(betainc(hits, count - hits + 1, limit) < LUCK)  # P(X >= hits) at the limit


def shorten(text: str, length: int = 100) -> str:
    """Return text as a Python literal of bounded length, on one line."""
    return repr(text) if len(text) <= length else f"{text[:length]!r}... ({len(text):,} characters)"


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Return the 95 % score interval of a proportion (Wilson 1927)."""
    if count == 0:
        return 0.0, 1.0
    z = 1.959963984540054
    centre = (hits + z * z / 2) / (count + z * z)
    half = z * sqrt(hits * (count - hits) / count + z * z / 4) / (count + z * z)
    return max(0.0, centre - half), min(1.0, centre + half)
