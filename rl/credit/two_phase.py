"""Dense first, strict afterwards: the two-phase reward of DELTA, arXiv 2509.21016."""

from collections.abc import Sequence

from palestra.rl.credit.normalise import group_advantages
from palestra.rl.credit.outcome import outcome_credit
from palestra.rl.credit.rewards import Advantages, EpisodeRewards, spread


def two_phase_credit(
    episodes: Sequence[EpisodeRewards], group_size: int, *, step: int, dense_steps: int
) -> list[Advantages]:
    """Process terms until `dense_steps`, then the strict outcome alone (DELTA, arXiv 2509.21016).

    In the dense phase A_i is the group-relative sum of the process terms, without the outcome; afterwards it is
    `outcome`. For tasks that are never solved at first: there the outcome has no contrast, and the dense phase
    has to bring the first success. The dense phase is as gameable as the terms are, and a policy that it drove
    into a corner where nothing is solved stays there: watch the hacking monitor at the switch.

    Args:
        episodes: Members of a group stand together.
        group_size: Episodes per group.
        step: Optimiser steps done so far.
        dense_steps: First step of the strict phase.

    Returns:
        Per episode, shape `(turns,)`, all equal.

    Raises:
        ValueError: The number of episodes is not a multiple of the group size.
    """
    if step >= dense_steps:
        return outcome_credit(episodes, group_size)
    collected = [None if e.outcome is None else sum(e.process) for e in episodes]
    return spread(group_advantages(collected, group_size), episodes)
