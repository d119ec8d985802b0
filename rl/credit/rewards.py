"""What a credit rule reads: the rewards of an episode, turn by turn. Members of a group stand together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Advantages = NDArray[np.float64]
"""One number per turn of an episode, shape `(turns,)`."""


@dataclass(frozen=True, slots=True)
class EpisodeRewards:
    """The rewards of one episode.

    Raises:
        ValueError: A reward is not finite, or there are states and not one per turn.
    """

    outcome: float | None
    """The strict outcome; None if the episode broke: its advantages are 0, and it takes no part in any mean."""
    process: tuple[float, ...]
    """Per turn, the sum of the process terms that it earned; empty for an episode that never had a turn."""
    states: tuple[str, ...] = ()
    """Per turn, the state before it: equal strings are the same state. Only `step-groups` needs them."""
    terms: Mapping[str, float] = field(default_factory=dict)
    """The process terms by name, summed over the turns; for monitors, no rule reads them."""

    def __post_init__(self) -> None:
        rewards = [*self.process, *self.terms.values(), *([] if self.outcome is None else [self.outcome])]
        if not np.isfinite(rewards).all():
            raise ValueError(f"rewards must be finite: outcome {self.outcome}, process {self.process}")
        if self.states and len(self.states) != len(self.process):
            raise ValueError(f"{len(self.states)} states for {len(self.process)} turns")

    def step_rewards(self, process_weight: float = 1.0) -> Advantages:
        """Return the reward of each turn: its weighted process terms and, on the last one, the outcome.

        An episode that broke has NaN everywhere, which takes no part in a comparison.
        """
        if self.outcome is None:
            return np.full(len(self.process), np.nan)
        rewards = process_weight * np.asarray(self.process, dtype=np.float64)
        rewards[-1:] += self.outcome
        return rewards


def discounted(rewards: Advantages, gamma: float) -> Advantages:
    """Return the discounted sum from each turn on: G_t = r_t + gamma G_(t+1)."""
    returns = np.zeros(len(rewards))
    following = 0.0
    for t in range(len(rewards) - 1, -1, -1):
        following = rewards[t] + gamma * following
        returns[t] = following
    return returns


def spread(per_episode: Advantages, episodes: Sequence[EpisodeRewards]) -> list[Advantages]:
    """Give each turn of an episode the episode's advantage."""
    return [np.full(len(e.process), value) for value, e in zip(per_episode, episodes, strict=True)]
