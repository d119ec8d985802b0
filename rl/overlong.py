"""What DAPO (arXiv 2503.14476, section 3.4) does with episodes that ran out of tokens. Pure.

Lengths count the tokens that the model wrote. What the environment wrote is not the model's to shorten.
"""

from collections.abc import Collection

from palestra.agents.trajectory import Trajectory


def overlong_punishment(length: int, limit: int, cache: int) -> float:
    """Soft overlong punishment (equation 13): 0 up to limit - cache, then falling to -1 at the limit.

    It is a reward to be added to the outcome, not a process term: it says nothing about the task.

    Args:
        length: Tokens that the model wrote.
        limit: Most tokens that go without the whole punishment.
        cache: Width of the ramp below the limit; 0 punishes only what is beyond it.

    Raises:
        ValueError: The cache is not within 0 and the limit.
    """
    if not 0 <= cache <= limit:
        raise ValueError(f"the overlong cache ({cache}) must be between 0 and the limit ({limit})")
    if length <= limit - cache:
        return 0.0
    if length > limit:
        return -1.0
    return (limit - cache - length) / cache


def is_cut(trajectory: Trajectory, stop_ids: Collection[int]) -> bool:
    """Whether overlong filtering masks an episode: the token limits ended it, and not the model or the task.

    That is so if the next turn would not have fitted into the context, or if the last turn was cut off in the
    middle. An episode that used up its turns was judged by the environment's own rule and is not masked; one
    that broke is masked anyway and not counted here.

    Args:
        trajectory: A finished episode.
        stop_ids: Ids that end a turn.
    """
    if trajectory.stop == "error":
        return False
    if trajectory.stop == "length":
        return True
    return bool(trajectory.turns) and trajectory.completion_ids[trajectory.turns[-1].end - 1] not in stop_ids
