import pytest
from hypothesis import given
from hypothesis import strategies as st
from trl.rewards import get_soft_overlong_punishment

from palestra.agents.trajectory import Trajectory, TurnSpan
from palestra.envs import TaskId
from palestra.rl.overlong import is_cut, overlong_punishment

END = 9


@pytest.mark.parametrize(
    ("length", "punishment"),
    [
        # The paper's own lengths: 16,384 tokens are free, 4,096 more are the ramp.
        (0, 0.0),
        (16_384, 0.0),
        (16_385, -1 / 4096),
        (18_432, -0.5),
        (20_480, -1.0),
        (20_481, -1.0),
        (10**9, -1.0),
    ],
)
def test_punishment_by_hand(length: int, punishment: float) -> None:
    assert overlong_punishment(length, 20_480, 4096) == punishment


@given(st.integers(0, 300), st.integers(1, 200), st.data())
def test_punishment_equals_trls(length: int, limit: int, data: st.DataObject) -> None:
    cache = data.draw(st.integers(0, limit))
    [theirs] = get_soft_overlong_punishment(limit, cache)([[0] * length])
    assert overlong_punishment(length, limit, cache) == pytest.approx(theirs)


def test_without_a_ramp_only_what_is_beyond_the_limit_is_punished() -> None:
    assert [overlong_punishment(n, 10, 0) for n in (10, 11)] == [0.0, -1.0]


def test_a_ramp_longer_than_the_limit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cache \(11\) must be between 0 and the limit \(10\)"):
        overlong_punishment(3, 10, 11)


def trajectory(stop: str, *turns: list[int]) -> Trajectory:
    t = Trajectory(TaskId("e/E-v0", "train", 0), "k", [1], stop=stop)
    for turn in turns:
        t.turns.append(TurnSpan(len(t.completion_ids), len(t.completion_ids) + len(turn)))
        t.completion_ids += [*turn, 0]  # the environment's token follows each turn
    return t


@pytest.mark.parametrize(
    ("episode", "cut"),
    [
        (trajectory("answer", [5, END]), False),
        (trajectory("answer", [5, 5]), True),  # a grader saw half a turn
        (trajectory("turns", [5, END], [5, END]), False),  # the environment's rule: a failure like any other
        (trajectory("turns", [5, END], [5, 5]), True),
        (trajectory("turns", [5, 5], [5, END]), False),  # cut once, and went on
        (trajectory("length", [5, END]), True),
        (trajectory("length"), True),
        (trajectory("error", [5, 5]), False),
    ],
)
def test_filtering_masks_what_the_token_limits_ended(episode: Trajectory, cut: bool) -> None:
    assert is_cut(episode, {END}) == cut
