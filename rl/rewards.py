"""What counts as an episode's reward when advantages are made: the strict outcome, or a placebo, less overlong turns.

A placebo tells nothing about the task. What a model gains under one is no effect of learning the task: `random`
pays by the toss of a coin (the control of arXiv 2506.10947), `format` pays for ending with an answer.
"""

import random
from collections.abc import Callable

from palestra.agents.trajectory import Trajectory
from palestra.rl.overlong import overlong_punishment

RewardRule = Callable[[Trajectory, int], float]
"""(episode, its seed) -> reward; never called for an episode that broke."""


def strict_outcome(trajectory: Trajectory, seed: int) -> float:
    """Return the outcome, 0 or 1."""
    return trajectory.outcome


def nothing(trajectory: Trajectory, seed: int) -> float:
    """Return 0: process terms are all that counts."""
    return 0.0


def coin(trajectory: Trajectory, seed: int) -> float:
    """Return 0 or 1 by chance, the same for the same episode."""
    return float(random.Random(f"coin|{seed}").random() < 0.5)


def well_formed(trajectory: Trajectory, seed: int) -> float:
    """Return 1 for an episode that ends with an answer and has no malformed turn, be the answer right or wrong."""
    return float(trajectory.stop == "answer" and all(turn.kind != "malformed" for turn in trajectory.turns))


REWARDS: dict[str, RewardRule] = {
    "outcome": strict_outcome,
    "both": strict_outcome,
    "process": nothing,
    "random": coin,
    "format": well_formed,
}
"""By the name that `--reward` takes; `both` and `process` count process terms besides."""


def with_overlong_punishment(rule: RewardRule, limit: int, cache: int) -> RewardRule:
    """Return the rule less DAPO's soft punishment of the longest turn.

    Args:
        rule: The reward without it.
        limit: Most tokens of a turn.
        cache: Width of the ramp below the limit.
    """

    def punished(trajectory: Trajectory, seed: int) -> float:
        longest = max((turn.end - turn.start for turn in trajectory.turns), default=0)
        return rule(trajectory, seed) + overlong_punishment(longest, limit, cache)

    return punished
