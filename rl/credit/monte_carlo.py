"""Monte-Carlo step values: VinePPO (arXiv 2410.01679), with Math-Shepherd's soft estimates (arXiv 2312.08935)."""

from collections.abc import Sequence

import numpy as np

from palestra.rl.credit.normalise import EPSILON
from palestra.rl.credit.rewards import Advantages, EpisodeRewards


def monte_carlo_credit(
    episodes: Sequence[EpisodeRewards],
    group_size: int,
    *,
    values: Sequence[Sequence[float]],
    gamma: float = 1.0,
    scale: bool = False,
) -> list[Advantages]:
    """What a turn changed in the chance to succeed: A_t = gamma V_(t+1) - V_t (arXiv 2410.01679).

    V before a turn is the share of N rollouts from that prefix that succeed (the soft label of arXiv 2312.08935,
    equation 4); V after the last turn is the outcome itself. Process terms are not read. With gamma 1 the
    advantages of an episode sum to outcome - V_0. It is as hard to game as the outcome, unbiased, and costs
    turns x N extra rollouts per episode; with few rollouts it is noisy: sd of V = sqrt(p (1 - p) / N).

    Args:
        episodes: Members of a group stand together.
        group_size: Episodes per group.
        values: Per episode, V before each turn and after the last, so turns + 1 numbers; those of an episode that
            broke are not read.
        gamma: Discount per turn.
        scale: Whether to divide by the root mean square of all advantages of the group (+ 1e-4). Not by the
            standard deviation: nothing is centred here, and equal advantages would be divided by 0.

    Returns:
        Per episode, shape `(turns,)`.

    Raises:
        ValueError: The number of episodes is not a multiple of the group size, or values are missing, outside
            [0, 1], or do not end with the outcome.
    """
    if group_size < 1 or len(episodes) % group_size:
        raise ValueError(f"{len(episodes)} episodes do not divide into groups of {group_size}")
    if len(values) != len(episodes):
        raise ValueError(f"values for {len(values)} of {len(episodes)} episodes")
    advantages = []
    for episode, estimates in zip(episodes, values, strict=True):
        if episode.outcome is None or not episode.process:
            advantages.append(np.zeros(len(episode.process)))
            continue
        v = _checked(episode, estimates)
        advantages.append(gamma * v[1:] - v[:-1])
    if scale:
        for start in range(0, len(episodes), group_size):
            group = slice(start, start + group_size)
            there = [a for a, e in zip(advantages[group], episodes[group], strict=True) if e.outcome is not None]
            every = np.concatenate([np.zeros(0), *there])
            size = np.sqrt((every**2).mean()) if len(every) else 0.0
            advantages[group] = [a / (size + EPSILON) for a in advantages[group]]
    return advantages


def _checked(episode: EpisodeRewards, estimates: Sequence[float]) -> Advantages:
    v = np.asarray(estimates, dtype=np.float64)
    if len(v) != len(episode.process) + 1:
        raise ValueError(f"{len(v)} values for {len(episode.process)} turns: one before each and one after the last")
    if not ((v >= 0) & (v <= 1)).all():
        raise ValueError(f"values are chances to succeed, in [0, 1]: {v.tolist()}")
    if v[-1] != episode.outcome:
        raise ValueError(f"the value after the last turn is the outcome {episode.outcome}, not {v[-1]}")
    return v
