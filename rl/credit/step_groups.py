"""Same-state step groups: GiGPO, arXiv 2505.10978."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from palestra.rl.credit.normalise import group_advantages
from palestra.rl.credit.rewards import Advantages, EpisodeRewards, discounted, spread


def step_group_credit(
    episodes: Sequence[EpisodeRewards],
    group_size: int,
    *,
    weight: float = 1.0,
    gamma: float = 0.95,
    process_weight: float = 1.0,
    scale: bool = True,
) -> list[Advantages]:
    """GiGPO (arXiv 2505.10978): A_(i,t) = A^E_i + weight x A^S_(i,t).

    A^E is the group-relative outcome. A^S compares the discounted returns of all steps of a group that start
    from the same state, however late and in whichever member; a step whose state no other step shares gets 0.

    Where we follow the paper and the published code differs: A^E is a mean over episodes, while a mean over
    their steps lets long episodes weigh more; and a state that occurs once gets 0, not its raw return. Two
    visits of one episode to a state are two steps, as in the paper.

    Gamed through the process terms in the returns (`process_weight` 0 removes them: then credit is the outcome
    alone), and through states that look alike and are not: an observation that hides what was already done puts
    steps together that should not be compared. Where few states recur, A^S is 0 and this is `outcome`.

    Args:
        episodes: With `states`; members of a group stand together.
        group_size: Episodes per group.
        weight: Of the step advantage; the paper's omega, 1 there.
        gamma: Discount per turn.
        process_weight: Of the process terms in the step rewards; the outcome is the last turn's.
        scale: Whether both parts are divided by standard deviations.

    Returns:
        Per episode, shape `(turns,)`.

    Raises:
        ValueError: The number of episodes is not a multiple of the group size, or an episode has turns and
            no states.
    """
    if any(e.process and not e.states for e in episodes):
        raise ValueError("step groups need the state before each turn; an episode came without states")
    advantages = spread(group_advantages([e.outcome for e in episodes], group_size, scale=scale), episodes)
    returns = [discounted(e.step_rewards(process_weight), gamma) for e in episodes]
    for start in range(0, len(episodes), group_size):
        steps: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for i in range(start, start + group_size):
            if episodes[i].outcome is not None:
                for t, state in enumerate(episodes[i].states):
                    steps[state].append((i, t))
        for same in steps.values():
            values = group_advantages([float(returns[i][t]) for i, t in same], len(same), scale=scale)
            for (i, t), value in zip(same, values, strict=True):
                advantages[i][t] += weight * value
    return advantages


def singleton_share(episodes: Sequence[EpisodeRewards], group_size: int) -> float:
    """Return the share of steps whose state no other step of their group has: these get no step credit.

    Near 1, `step-groups` is `outcome` with another name.
    """
    alone = steps = 0
    for start in range(0, len(episodes), group_size):
        states = [s for e in episodes[start : start + group_size] if e.outcome is not None for s in e.states]
        _, counts = np.unique(np.asarray(states, dtype=object), return_counts=True) if states else ((), np.zeros(0))
        alone += int((counts == 1).sum())
        steps += len(states)
    return alone / steps if steps else 1.0
