"""Turn-level credit with separate normalisation: MT-GRPO, arXiv 2505.11821."""

import math
from collections.abc import Sequence

from palestra.rl.credit.normalise import group_advantages, turn_advantages
from palestra.rl.credit.rewards import Advantages, EpisodeRewards


def turn_credit(episodes: Sequence[EpisodeRewards], group_size: int, *, weight: float = 1.0) -> list[Advantages]:
    """MT-GRPO (arXiv 2505.11821, first version), for any number of turns.

    A_(i,t) = A^outcome_i + weight x A^process_(i,t): outcomes are compared over the group, the process terms of
    turn t over those members that reached turn t, each divided by its own standard deviation. The paper has two
    turns and gives the process advantage to the first alone; with a process reward on the tool turn only, this
    is the same.

    Gamed by any turn that earns a term and leads nowhere: a turn's credit looks at nothing that follows it, and
    normalisation makes the smallest difference in a term count as much as an outcome.

    Args:
        episodes: Members of a group stand together.
        group_size: Episodes per group.
        weight: Of the process advantage.

    Returns:
        Per episode, shape `(turns,)`.

    Raises:
        ValueError: The number of episodes is not a multiple of the group size.
    """
    outcomes = group_advantages([e.outcome for e in episodes], group_size)
    rows = [[math.nan] * len(e.process) if e.outcome is None else e.process for e in episodes]
    turns = turn_advantages(rows, group_size)
    return [outcome + weight * turn for outcome, turn in zip(outcomes, turns, strict=True)]
