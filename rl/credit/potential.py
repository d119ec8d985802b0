"""Potential-based shaping (Ng, Harada and Russell, ICML 1999): dense rewards that leave the optimum where it was."""

from collections.abc import Sequence

import numpy as np

from palestra.rl.credit.normalise import turn_advantages
from palestra.rl.credit.rewards import Advantages, EpisodeRewards, discounted


def potential_credit(
    episodes: Sequence[EpisodeRewards],
    group_size: int,
    *,
    weight: float = 1.0,
    gamma: float = 1.0,
    trace: float = 1.0,
) -> list[Advantages]:
    """Return-to-go of outcome + weight x F, with F = gamma Phi(s') - Phi(s), compared turn by turn.

    Phi is the process reward collected so far, and 0 once the episode is over. With trace 1 the shaping terms
    telescope to -weight x Phi(s_t): a baseline that depends on the state only, which changes the variance of
    the gradient and not its expectation. Nothing can be gamed, and nothing is learned from a group without a
    success but noise. With a trace below 1 (the lambda of generalised advantage estimation, arXiv 1506.02438,
    equation 16, with weight x Phi for the value) a turn is credited with the potential that it gains, so dense
    feedback is back, and with it bias: at 0, a turn that collects a term and leads nowhere gains by it, and the
    last turn of a failed episode pays for all that was collected.

    Args:
        episodes: Members of a group stand together.
        group_size: Episodes per group.
        weight: Of the shaping terms; best where weight x Phi is near the chance to succeed.
        gamma: Discount per turn.
        trace: How far a turn is credited with what follows: 1 to the end, 0 not beyond itself.

    Returns:
        Per episode, shape `(turns,)`.

    Raises:
        ValueError: The number of episodes is not a multiple of the group size.
    """
    rows = [
        discounted(e.step_rewards(0.0) + weight * shaping_terms(e.process, gamma), gamma * trace) for e in episodes
    ]
    return turn_advantages(rows, group_size)


def shaping_terms(process: Sequence[float], gamma: float) -> Advantages:
    """Return F_t = gamma Phi(s_(t+1)) - Phi(s_t) of each turn; Phi starts and ends at 0.

    Args:
        process: Process reward of each turn; Phi(s_t) is the sum before turn t.
        gamma: Discount per turn.
    """
    potential = np.concatenate([[0.0], np.cumsum(process, dtype=np.float64)])
    potential[-1] = 0.0
    terms: Advantages = gamma * potential[1:] - potential[:-1]
    return terms
