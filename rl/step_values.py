"""Monte-Carlo values of the states that episodes went through: the share of rollouts from there that succeed."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from palestra.agents.rollout import Episode
from palestra.agents.trajectory import Trajectory

Run = Callable[[Iterable[Episode]], Iterator[tuple[Episode, Trajectory]]]


def step_values(
    trajectories: Sequence[Trajectory], seeds: Sequence[int], rollouts: int, run: Run
) -> tuple[list[list[float]], int]:
    """Estimate the chance to succeed before each turn of each episode (VinePPO, arXiv 2410.01679).

    The value before the first turn is that of the task, estimated once per task and shared by its episodes. The
    value after the last turn is the outcome itself.

    Args:
        trajectories: Finished episodes.
        seeds: One per episode; rollouts from its states are seeded by it.
        rollouts: Rollouts per state.
        run: Runs episodes.

    Returns:
        Per episode, `turns + 1` numbers in [0, 1] (an episode that broke: none); and the tokens that were sampled.
    """
    origin: dict[Episode, tuple[int, int]] = {}
    first_of_task: dict[str, int] = {}
    for i, (t, seed) in enumerate(zip(trajectories, seeds, strict=True)):
        if t.stop == "error":
            continue
        turns = [tuple(t.completion_ids[turn.start : turn.end]) for turn in t.turns]
        for k in range(len(turns)):
            if k == 0 and first_of_task.setdefault(str(t.task), i) != i:
                continue
            for n in range(rollouts):
                # Weyl increments keep the seeds of one episode apart; the episode's own seed is spread already.
                episode = Episode(t.task.index, (seed + (k * rollouts + n + 1) * 0xD1B54A32D192ED03) % 2**64)
                origin[Episode(episode.index, episode.seed, tuple(turns[:k]))] = (i, k)
    successes: dict[tuple[int, int], list[float]] = {}
    tokens = 0
    for episode, t in run(list(origin)):
        if t.stop != "error":
            successes.setdefault(origin[episode], []).append(t.outcome)
            tokens += t.sampled - sum(map(len, episode.prefix))
    values: list[list[float]] = []
    for i, t in enumerate(trajectories):
        if t.stop == "error":
            values.append([])
            continue
        places = [(first_of_task[str(t.task)], 0), *((i, k) for k in range(1, len(t.turns)))][: len(t.turns)]
        found = [successes.get(place, [t.outcome]) for place in places]
        values.append([*(sum(s) / len(s) for s in found), t.outcome])
    return values, tokens
