"""Credit assignment: from the rewards of episodes and turns to advantages. Pure functions on arrays."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

EPSILON = 1e-4
"""Added to standard deviations, as TRL does."""


def group_advantages(rewards: Sequence[float | None], group_size: int) -> NDArray[np.float64]:
    """Group-relative advantages (GRPO, arXiv 2402.03300, equation 4): (r - mean) / (std + 1e-4) in each group.

    Args:
        rewards: One per episode; the members of a group stand together. None marks an episode without a
            reward: it gets advantage 0 and takes no part in its group's mean.
        group_size: Episodes per group; the standard deviation is the sample one (n - 1), 0 for one episode.

    Returns:
        Shape `(episodes,)`.

    Raises:
        ValueError: The number of rewards is not a multiple of the group size.
    """
    if len(rewards) % group_size:
        raise ValueError(f"{len(rewards)} rewards do not divide into groups of {group_size}")
    values = np.asarray([np.nan if r is None else r for r in rewards]).reshape(-1, group_size)
    there = ~np.isnan(values)
    count = there.sum(axis=1, keepdims=True)
    centred = values - np.where(there, values, 0.0).sum(axis=1, keepdims=True) / np.maximum(count, 1)
    centred = np.where(there, centred, 0.0)
    deviation = np.sqrt((centred**2).sum(axis=1, keepdims=True) / np.maximum(count - 1, 1))
    return np.asarray(centred / (deviation + EPSILON)).reshape(-1)


def turn_advantages(turn_rewards: Sequence[Sequence[float]], group_size: int) -> list[NDArray[np.float64]]:
    """Turn-level advantages, each turn normalised on its own (MT-GRPO, arXiv 2505.11821).

    The reward of turn t is compared with turn t of those group members that reached it; a turn that only
    one member reached gets 0.

    Args:
        turn_rewards: Per episode, the process reward of each of its turns.
        group_size: Episodes per group; the members of a group stand together.

    Returns:
        Per episode, shape `(turns,)`.
    """
    if len(turn_rewards) % group_size:
        raise ValueError(f"{len(turn_rewards)} episodes do not divide into groups of {group_size}")
    advantages = [np.zeros(len(turns)) for turns in turn_rewards]
    for start in range(0, len(turn_rewards), group_size):
        members = range(start, start + group_size)
        for t in range(max(len(turn_rewards[i]) for i in members)):
            there = [i for i in members if len(turn_rewards[i]) > t]
            if len(there) > 1:
                values = group_advantages([turn_rewards[i][t] for i in there], len(there))
                for i, value in zip(there, values, strict=True):
                    advantages[i][t] = value
    return advantages
