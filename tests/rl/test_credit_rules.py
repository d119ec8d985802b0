"""Every credit rule against numbers worked out by hand."""

import math
from typing import Any

import numpy as np
import pytest

from palestra.rl.credit import CREDIT_RULES, OPTIONS, EpisodeRewards, group_advantages, singleton_share
from palestra.rl.credit.potential import shaping_terms

ROOT_HALF = 0.5**0.5
"""Sample standard deviation of 0 and 1."""


def episode(outcome: float | None, *process: float, states: str = "") -> EpisodeRewards:
    return EpisodeRewards(outcome, process, tuple(states))


def credit(name: str, episodes: list[EpisodeRewards], group_size: int, **options: Any) -> list[list[float]]:
    return [a.tolist() for a in CREDIT_RULES[name](episodes, group_size, **options)]


def close(*rows: list[float]) -> list[Any]:
    return [pytest.approx(row, abs=1e-12) for row in rows]


def test_the_deviation_is_the_samples_and_not_the_populations() -> None:
    # Rewards 1 0 0 0: mean 1/4, squared deviations 9/16 + 3 x 1/16 = 3/4. Over n - 1 = 3 the deviation is 1/2
    # (torch's and TRL's default), over n = 4 it is sqrt(3)/4 (numpy's default): advantages 15% larger.
    first = group_advantages([1, 0, 0, 0], 4)[0]
    assert first == pytest.approx(0.75 / (0.5 + 1e-4))
    assert first != pytest.approx(0.75 / (3**0.5 / 4 + 1e-4), rel=0.1)
    assert np.std([1, 0, 0, 0], ddof=1) == 0.5
    assert np.std([1, 0, 0, 0]) == pytest.approx(3**0.5 / 4)


def test_outcome_is_the_same_for_every_turn() -> None:
    assert credit("outcome", [episode(1, 0, 0), episode(0, 9)], 2) == close(
        [0.5 / (ROOT_HALF + 1e-4)] * 2, [-0.5 / (ROOT_HALF + 1e-4)]
    )


def test_outcome_adds_weighted_process_terms() -> None:
    # Rewards 1 + 1/2 x 1 = 3/2 and 0 + 1/2 x 2 = 1: deviations +-1/4, standard deviation sqrt(2)/4.
    by_hand = 0.25 / (2**0.5 / 4 + 1e-4)
    assert credit("outcome", [episode(1, 1, 0), episode(0, 1, 1)], 2, weight=0.5) == close(
        [by_hand] * 2, [-by_hand] * 2
    )


def test_outcome_without_deviation_is_centred_only() -> None:
    assert credit("outcome-no-std", [episode(1, 0), episode(0, 0), episode(0, 0), episode(0, 0)], 4) == close(
        [0.75], [-0.25], [-0.25], [-0.25]
    )


def test_turn_normalises_outcome_and_each_turn_separately() -> None:
    # Outcomes +-1/2. Turn 0: 4 against 2, +-1. Turn 1 was reached by one: nothing to compare with.
    outcome, turn = 0.5 / (ROOT_HALF + 1e-4), 1 / (2**0.5 + 1e-4)
    assert credit("turn", [episode(0, 4, 7), episode(1, 2)], 2, weight=0.5) == close(
        [-outcome + 0.5 * turn, -outcome], [outcome - 0.5 * turn]
    )


STEP_GROUP = [episode(1, 0, 0, states="ab"), episode(0, 0, 0, states="ac"), episode(0, 0, 0, states="ab")]


def test_step_groups_compare_returns_from_the_same_state() -> None:
    # gamma 1/2: returns (1/2, 1), (0, 0), (0, 0). Episodes: 2/3, -1/3, -1/3. From a: 1/2 0 0, so 1/3 -1/6 -1/6.
    # From b: 1 and 0, so 1/2 and -1/2. From c: alone, so 0.
    assert credit("step-groups", STEP_GROUP, 3, gamma=0.5, scale=False) == close(
        [2 / 3 + 1 / 3, 2 / 3 + 1 / 2], [-1 / 3 - 1 / 6, -1 / 3], [-1 / 3 - 1 / 6, -1 / 3 - 1 / 2]
    )


def test_step_groups_divide_each_state_by_its_own_deviation() -> None:
    # Episodes and state a: deviation 3^-1/2 and half of it. State b: 2^-1/2.
    a_e, a_a, a_b = 3**-0.5 + 1e-4, 3**-0.5 / 2 + 1e-4, ROOT_HALF + 1e-4
    first, _, _ = credit("step-groups", STEP_GROUP, 3, weight=2, gamma=0.5)
    assert first == pytest.approx([2 / 3 / a_e + 2 / 3 / a_a, 2 / 3 / a_e + 1 / a_b])


def test_step_groups_read_process_terms_unless_told_otherwise() -> None:
    # Equal outcomes, so only step returns differ: 1 + 1 against 1 from state a.
    episodes = [episode(1, 1, states="a"), episode(1, 0, states="a")]
    assert credit("step-groups", episodes, 2, scale=False) == close([0.5], [-0.5])
    assert credit("step-groups", episodes, 2, scale=False, process_weight=0) == close([0], [0])


def test_long_episodes_weigh_no_more_in_step_groups() -> None:
    # A mean over steps would be 9/10, and the long episode's advantage 1/10.
    episodes = [episode(1, *[0] * 9, states="abcdefghi"), episode(0, 0, states="z")]
    assert credit("step-groups", episodes, 2, scale=False) == close([0.5] * 9, [-0.5])


def test_two_visits_of_one_episode_to_a_state_are_two_steps() -> None:
    # Returns 1/2 and 1 from the same state: mean 3/4.
    assert credit("step-groups", [episode(1, 0, 0, states="aa")], 1, gamma=0.5, scale=False) == close([-0.25, 0.25])


def test_states_of_different_groups_are_not_compared() -> None:
    episodes = [episode(1, 0, states="a"), episode(0, 0, states="a")]
    assert credit("step-groups", episodes, 1) == close([0], [0])


def test_step_groups_need_states() -> None:
    with pytest.raises(ValueError, match="without states"):
        CREDIT_RULES["step-groups"]([episode(1, 0)], 1)


def test_share_of_states_that_nobody_shares() -> None:
    assert singleton_share(STEP_GROUP, 3) == pytest.approx(1 / 6)
    assert singleton_share(STEP_GROUP, 1) == 1
    assert singleton_share([episode(None, 0, states="a")], 1) == 1


def test_return_to_go_credits_what_follows() -> None:
    # gamma 1/2, weight 2: rewards (2, 1) give returns (5/2, 1); the other episode has (0).
    turn = 1.25 / (2.5 * ROOT_HALF + 1e-4)
    assert credit("return-to-go", [episode(1, 1, 0), episode(0, 0)], 2, weight=2, gamma=0.5) == close(
        [turn, 0], [-turn]
    )


def test_potential_is_the_outcome_less_what_was_collected() -> None:
    # Phi before the turns: 0, 1/4 and 0, 3/4. Returns with shaping: 1, 1 - 1/4 and 0, -3/4.
    first, second = 0.5 / (ROOT_HALF + 1e-4), 0.75 / (1.5 * ROOT_HALF + 1e-4)
    assert credit("potential", [episode(1, 0.25, 0.5), episode(0, 0.75, 0)], 2) == close(
        [first, second], [-first, -second]
    )


def test_potential_without_trace_credits_the_gain_of_a_turn() -> None:
    # Shaping terms 1/4, -1/4 and 3/4, -3/4; the outcome 1 on the last turn of the first: 1/4, 3/4 and 3/4, -3/4.
    first, second = 0.25 / (0.5 * ROOT_HALF + 1e-4), 0.75 / (1.5 * ROOT_HALF + 1e-4)
    assert credit("potential", [episode(1, 0.25, 0.5), episode(0, 0.75, 0)], 2, trace=0) == close(
        [-first, second], [first, -second]
    )


def test_shaping_terms_by_hand() -> None:
    # Phi: 0, 1, 3, and 0 at the end, where 4 had been collected.
    assert shaping_terms([1, 2, 1], 0.5).tolist() == [0.5, 0.5, -3]
    assert shaping_terms([], 0.5).tolist() == []


def test_monte_carlo_credits_the_change_of_the_chance() -> None:
    episodes = [episode(1, 0, 0), episode(0, 0)]
    values = [[0.25, 0.5, 1], [0.25, 0]]
    assert credit("monte-carlo", episodes, 2, values=values) == close([0.25, 0.5], [-0.25])
    size = (0.375 / 3) ** 0.5 + 1e-4  # root mean square: (1/16 + 1/4 + 1/16) / 3
    assert credit("monte-carlo", episodes, 2, values=values, scale=True) == close(
        [0.25 / size, 0.5 / size], [-0.25 / size]
    )


def test_monte_carlo_does_not_explode_where_all_turns_changed_as_much() -> None:
    # Their standard deviation is 0; their root mean square is not.
    result = credit("monte-carlo", [episode(1, 0), episode(1, 0)], 2, values=[[0.5, 1], [0.5, 1]], scale=True)
    assert result == close([0.5 / 0.5001], [0.5 / 0.5001])


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([[0.5, 0]], "values for 1 of 2"),
        ([[0.5, 1], [0]], "1 values for 1 turns"),
        ([[1.5, 1], [0.5, 0]], "chances"),
        ([[math.nan, 1], [0.5, 0]], "chances"),
        ([[0.5, 0.9], [0.5, 0]], "is the outcome 1"),
    ],
)
def test_monte_carlo_refuses_values_that_cannot_be(values: list[list[float]], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        CREDIT_RULES["monte-carlo"]([episode(1, 0), episode(0, 0)], 2, values=values)


def test_two_phase_is_dense_then_strict() -> None:
    # The failed episode collected more: it is ahead until the switch.
    episodes = [episode(1, 0, 0), episode(0, 1, 0)]
    ahead = 0.5 / (ROOT_HALF + 1e-4)
    assert credit("two-phase", episodes, 2, step=9, dense_steps=10) == close([-ahead] * 2, [ahead] * 2)
    assert credit("two-phase", episodes, 2, step=10, dense_steps=10) == close([ahead] * 2, [-ahead] * 2)


def test_a_rule_takes_its_own_options_out_of_all() -> None:
    every = {name: 1 for name in OPTIONS} | {"values": [[0.5, 1]]}
    for rule in CREDIT_RULES.values():
        assert rule.options <= OPTIONS.keys()
        assert len(rule([episode(1, 0, states="a")], 1, **every)[0]) == 1
        assert "\n" not in rule.description
        assert len(rule.description) < 90


def test_options_are_not_misspelt_in_silence() -> None:
    with pytest.raises(TypeError, match="no rule takes wait"):
        CREDIT_RULES["outcome"]([], 1, wait=1)
    with pytest.raises(TypeError, match="missing: dense_steps, step"):
        CREDIT_RULES["two-phase"]([], 1)


@pytest.mark.parametrize("name", CREDIT_RULES)
def test_rules_refuse_broken_groups(name: str) -> None:
    with pytest.raises(ValueError, match="do not divide into groups of 2"):
        CREDIT_RULES[name]([episode(1, 0, states="a")] * 3, 2, values=[[0, 1]] * 3, step=0, dense_steps=1)
    with pytest.raises(ValueError, match="do not divide into groups of 0"):
        CREDIT_RULES[name]([episode(1, 0, states="a")], 0, values=[[0, 1]], step=0, dense_steps=1)


def test_rewards_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        EpisodeRewards(math.nan, (0.0,))
    with pytest.raises(ValueError, match="finite"):
        EpisodeRewards(0.0, (math.inf,))
    with pytest.raises(ValueError, match="1 states for 2 turns"):
        EpisodeRewards(0.0, (0.0, 0.0), ("a",))
