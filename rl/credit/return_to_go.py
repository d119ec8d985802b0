"""Discounted return-to-go, compared turn by turn: GRPO with process supervision (arXiv 2402.03300)."""

from collections.abc import Sequence

from palestra.rl.credit.normalise import turn_advantages
from palestra.rl.credit.rewards import Advantages, EpisodeRewards, discounted


def return_to_go_credit(
    episodes: Sequence[EpisodeRewards], group_size: int, *, weight: float = 1.0, gamma: float = 1.0
) -> list[Advantages]:
    """Reward that follows a turn: G_t = sum over k >= t of gamma^(k-t) r_k (arXiv 2402.03300, section 4.1.3).

    r_k is weight x the process terms of turn k, and the outcome on the last turn. G_t is compared with that of
    the group members that reached turn t. The paper normalises rewards over all steps of a group first and then
    sums them, so that an episode with more steps has a larger sum; here sums of the same turn are compared.

    A turn is credited with what follows, so a term that leads nowhere counts less than under `turn`, but the
    optimum is still that of outcome + weight x process. Late turns are compared among those that got so far:
    few, and not the same as all.

    Args:
        episodes: Members of a group stand together.
        group_size: Episodes per group.
        weight: Of the process terms.
        gamma: Discount per turn.

    Returns:
        Per episode, shape `(turns,)`.

    Raises:
        ValueError: The number of episodes is not a multiple of the group size.
    """
    return turn_advantages([discounted(e.step_rewards(weight), gamma) for e in episodes], group_size)
