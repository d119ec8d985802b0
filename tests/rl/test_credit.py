import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palestra.rl.credit import group_advantages, turn_advantages


def test_group_advantages_by_hand() -> None:
    # mean 1/4, sample standard deviation sqrt((9/16 + 3/16) / 3) = 1/2
    assert group_advantages([1, 0, 0, 0], 4) == pytest.approx([0.75 / 0.5001, *[-0.25 / 0.5001] * 3])
    assert group_advantages([1, 1, 0, 2], 2) == pytest.approx([0, 0, -1 / (2**0.5 + 1e-4), 1 / (2**0.5 + 1e-4)])


def test_turn_advantages_by_hand() -> None:
    # Turn 0 is compared among all three, turn 1 between the two that reached it, turn 2 with nobody.
    result = turn_advantages([[1, 0, 5], [0, 1], [0]], 3)
    third, half = 3**-0.5 + 1e-4, 2**-0.5 + 1e-4
    assert result[0] == pytest.approx([(2 / 3) / third, -0.5 / half, 0])
    assert result[1] == pytest.approx([(-1 / 3) / third, 0.5 / half])
    assert result[2] == pytest.approx([(-1 / 3) / third])


@given(st.lists(st.lists(st.floats(-5, 5), min_size=4, max_size=4), min_size=1, max_size=5), st.floats(-9, 9))
def test_advantages_are_centred_and_ignore_shifts(groups: list[list[float]], shift: float) -> None:
    rewards = np.array(groups).reshape(-1)
    advantages = group_advantages(list(rewards), 4)
    assert advantages.reshape(-1, 4).sum(1) == pytest.approx(0, abs=1e-6)
    assert group_advantages(list(rewards + shift), 4) == pytest.approx(advantages, abs=1e-4)


def test_groups_without_contrast_have_no_advantage() -> None:
    assert not group_advantages([1, 1, 1, 0, 0, 0], 3).any()


def test_broken_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="5 rewards do not divide into groups of 2"):
        group_advantages([0] * 5, 2)
    with pytest.raises(ValueError, match="3 episodes do not divide"):
        turn_advantages([[0.0]] * 3, 2)


def test_episodes_without_a_reward_take_no_part() -> None:
    assert not group_advantages([1, 1, None, None], 4).any()
    with_gap, without = group_advantages([1, 0, None, 0], 4), group_advantages([1, 0, 0], 3)
    assert with_gap[[0, 1, 3]] == pytest.approx(without)
    assert with_gap[2] == 0
    assert not group_advantages([None, None], 2).any()
