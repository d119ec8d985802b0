"""Comparison within groups: of whole episodes, and of the same turn of several episodes.

A group without contrast gets exactly 0, so that dynamic sampling can tell it by `not advantages.any()`.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

EPSILON = 1e-4
"""Added to standard deviations, as TRL does."""


def group_advantages(rewards: Sequence[float | None], group_size: int, *, scale: bool = True) -> NDArray[np.float64]:
    """Group-relative advantages (GRPO, arXiv 2402.03300, section 4.1.2): (r - mean) / (std + 1e-4) in each group.

    Args:
        rewards: One per episode; the members of a group stand together. None or NaN marks an episode without
            a reward: it gets advantage 0 and takes no part in its group's mean.
        group_size: Episodes per group; the standard deviation is the sample one (n - 1), 0 for one episode.
        scale: Whether to divide; Dr. GRPO (arXiv 2503.20783) does not.

    Returns:
        Shape `(episodes,)`.

    Raises:
        ValueError: The number of rewards is not a multiple of the group size.
    """
    if group_size < 1 or len(rewards) % group_size:
        raise ValueError(f"{len(rewards)} rewards do not divide into groups of {group_size}")
    values = np.asarray([np.nan if r is None else r for r in rewards], dtype=np.float64).reshape(-1, group_size)
    there = ~np.isnan(values)
    first = np.take_along_axis(values, there.argmax(axis=1, keepdims=True), axis=1)
    values = np.where(there, values - first, 0.0)  # from the first one: equal rewards have a mean of exactly 0
    count = there.sum(axis=1, keepdims=True)
    centred = np.where(there, values - values.sum(axis=1, keepdims=True) / np.maximum(count, 1), 0.0)
    if not scale:
        return centred.reshape(-1)
    deviation = np.sqrt((centred**2).sum(axis=1, keepdims=True) / np.maximum(count - 1, 1))
    return np.asarray(centred / (deviation + EPSILON)).reshape(-1)


def turn_advantages(
    turn_rewards: Sequence[Sequence[float] | NDArray[np.float64]], group_size: int
) -> list[NDArray[np.float64]]:
    """Turn-level advantages, each turn normalised on its own (MT-GRPO, arXiv 2505.11821).

    The reward of turn t is compared with turn t of those group members that reached it; a turn that only
    one member reached gets 0.

    Args:
        turn_rewards: Per episode, the reward of each of its turns; NaN takes no part.
        group_size: Episodes per group; the members of a group stand together.

    Returns:
        Per episode, shape `(turns,)`.

    Raises:
        ValueError: The number of episodes is not a multiple of the group size.
    """
    if group_size < 1 or len(turn_rewards) % group_size:
        raise ValueError(f"{len(turn_rewards)} episodes do not divide into groups of {group_size}")
    advantages = [np.zeros(len(turns)) for turns in turn_rewards]
    for start in range(0, len(turn_rewards), group_size):
        members = range(start, start + group_size)
        for t in range(max(len(turn_rewards[i]) for i in members)):
            there = [i for i in members if len(turn_rewards[i]) > t]
            values = group_advantages([turn_rewards[i][t] for i in there], len(there))
            for i, value in zip(there, values, strict=True):
                advantages[i][t] = value
    return advantages
