"""Credit from the whole episode: every turn gets the same. GRPO (arXiv 2402.03300) and Dr. GRPO (2503.20783)."""

from collections.abc import Sequence

from palestra.rl.credit.normalise import group_advantages
from palestra.rl.credit.rewards import Advantages, EpisodeRewards, spread


def outcome_credit(episodes: Sequence[EpisodeRewards], group_size: int, *, weight: float = 0.0) -> list[Advantages]:
    """GRPO with outcome supervision (arXiv 2402.03300, section 4.1.2).

    A_(i,t) = (R_i - mean R) / (std R + 1e-4), with R = outcome + weight x summed process terms. With weight 0 it
    cannot be gamed beyond the grader; otherwise a term that is cheaper than solving is collected instead, and
    the division by the standard deviation makes a small process term as large as an outcome wherever all
    outcomes of a group agree.

    Args:
        episodes: Members of a group stand together.
        group_size: Episodes per group.
        weight: Of the process terms; 0 leaves the strict outcome.

    Returns:
        Per episode, shape `(turns,)`, all equal.

    Raises:
        ValueError: The number of episodes is not a multiple of the group size.
    """
    return spread(group_advantages(_rewards(episodes, weight), group_size), episodes)


def unscaled_outcome_credit(
    episodes: Sequence[EpisodeRewards], group_size: int, *, weight: float = 0.0
) -> list[Advantages]:
    """Dr. GRPO (arXiv 2503.20783): R_i - mean R, not divided by the standard deviation.

    The division favours tasks that are nearly always or nearly never solved; without it every task counts by
    how much its outcomes differ. Gamed as `outcome` is.

    Args:
        episodes: Members of a group stand together.
        group_size: Episodes per group.
        weight: Of the process terms; 0 leaves the strict outcome.

    Returns:
        Per episode, shape `(turns,)`, all equal.

    Raises:
        ValueError: The number of episodes is not a multiple of the group size.
    """
    return spread(group_advantages(_rewards(episodes, weight), group_size, scale=False), episodes)


def _rewards(episodes: Sequence[EpisodeRewards], weight: float) -> list[float | None]:
    return [None if e.outcome is None else e.outcome + weight * sum(e.process) for e in episodes]
