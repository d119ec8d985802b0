"""What holds of every credit rule, whatever the episodes."""

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palestra.rl.credit import CREDIT_RULES, Advantages, EpisodeRewards, group_advantages
from palestra.rl.credit.potential import shaping_terms
from palestra.rl.credit.rewards import discounted

SIZE = 3
OPTIONS: dict[str, dict[str, Any]] = {
    "outcome": {"weight": 0.5},
    "outcome-no-std": {"weight": 0.5},
    "turn": {"weight": 0.5},
    "step-groups": {"gamma": 0.9},
    "return-to-go": {"gamma": 0.9},
    "potential": {"gamma": 0.9, "trace": 0.5},
    "monte-carlo": {"scale": True},
    "two-phase": {"step": 0, "dense_steps": 1},
}
few = settings(max_examples=25, deadline=None)
every_rule = pytest.mark.parametrize("name", OPTIONS)


class Case(NamedTuple):
    rewards: EpisodeRewards
    values: list[float]


eighths = st.integers(-16, 16).map(lambda n: n / 8)


@st.composite
def cases(draw: st.DrawFn, broken: bool = True) -> Case:
    outcome = draw(st.sampled_from([0.0, 1.0, None] if broken else [0.0, 1.0]))
    process = tuple(draw(st.lists(eighths, min_size=0 if broken else 1, max_size=4)))
    states = tuple(draw(st.text("abc", min_size=len(process), max_size=len(process))))
    values = [draw(st.sampled_from([0.0, 0.25, 0.5, 1.0])) for _ in process] + [outcome or 0.0]
    return Case(EpisodeRewards(outcome, process, states), values)


groups = st.lists(cases(), min_size=SIZE, max_size=SIZE)
whole_groups = st.lists(cases(broken=False), min_size=SIZE, max_size=SIZE)


def credit(name: str, cases: list[Case], size: int = SIZE, **more: Any) -> list[Advantages]:
    return CREDIT_RULES[name](
        [case.rewards for case in cases], size, **{**OPTIONS[name], "values": [case.values for case in cases], **more}
    )


def same(left: list[Advantages], right: list[Advantages], tolerance: float = 1e-9) -> None:
    assert [len(a) for a in left] == [len(a) for a in right]
    assert np.concatenate([[0], *left]) == pytest.approx(np.concatenate([[0], *right]), abs=tolerance)


def changed(case: Case, shift: float = 0, factor: float = 1) -> EpisodeRewards:
    e = case.rewards
    assert e.outcome is not None
    return EpisodeRewards(factor * e.outcome + shift, tuple(factor * p for p in e.process), e.states)


def test_every_rule_is_here() -> None:
    assert OPTIONS.keys() == CREDIT_RULES.keys()


@every_rule
@few
@given(cases=groups)
def test_there_is_a_finite_number_per_turn_and_nothing_for_a_broken_episode(name: str, cases: list[Case]) -> None:
    for case, advantages in zip(cases, credit(name, cases), strict=True):
        assert advantages.shape == (len(case.rewards.process),)
        assert np.isfinite(advantages).all()
        assert case.rewards.outcome is not None or not advantages.any()


@every_rule
@few
@given(first=groups, second=groups)
def test_groups_do_not_see_each_other(name: str, first: list[Case], second: list[Case]) -> None:
    same(credit(name, first + second), credit(name, first) + credit(name, second))


@every_rule
@few
@given(cases=groups, order=st.permutations(range(SIZE)))
def test_the_order_of_members_does_not_matter(name: str, cases: list[Case], order: list[int]) -> None:
    advantages = credit(name, cases)
    same(credit(name, [cases[i] for i in order]), [advantages[i] for i in order])


@every_rule
@few
@given(cases=groups, process=st.lists(eighths, max_size=3))
def test_a_broken_member_changes_nothing_for_the_others(name: str, cases: list[Case], process: list[float]) -> None:
    broken = Case(EpisodeRewards(None, tuple(process), tuple("a" * len(process))), [])
    same(credit(name, [*cases, broken], SIZE + 1)[:SIZE], credit(name, cases))


@every_rule
@few
@given(case=cases(broken=False))
def test_equal_members_have_exactly_no_advantage(name: str, case: Case) -> None:
    if name not in ("step-groups", "monte-carlo"):  # which compare steps inside an episode
        assert not any(a.any() for a in credit(name, [case] * SIZE))


@pytest.mark.parametrize("name", ["outcome", "outcome-no-std", "two-phase"])
@few
@given(cases=whole_groups)
def test_episode_advantages_are_centred(name: str, cases: list[Case]) -> None:
    assert sum(a[0] for a in credit(name, cases)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", ["return-to-go", "potential"])
@few
@given(cases=whole_groups)
def test_turn_advantages_are_centred_over_those_who_reached_the_turn(name: str, cases: list[Case]) -> None:
    advantages = credit(name, cases)
    for t in range(max(map(len, advantages))):
        assert sum(a[t] for a in advantages if len(a) > t) == pytest.approx(0, abs=1e-9)


@few
@given(cases=whole_groups)
def test_step_advantages_are_centred_over_each_state(cases: list[Case]) -> None:
    whole, episodes = credit("step-groups", cases), credit("step-groups", cases, weight=0)
    for state in "abc":
        steps = [
            w - e
            for case, many, few in zip(cases, whole, episodes, strict=True)
            for s, w, e in zip(case.rewards.states, many, few, strict=True)
            if s == state
        ]
        assert sum(steps) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", ["outcome", "outcome-no-std", "turn", "step-groups", "return-to-go", "potential"])
@few
@given(cases=whole_groups, shift=st.floats(-8, 8))
def test_adding_to_every_outcome_changes_nothing(name: str, cases: list[Case], shift: float) -> None:
    moved = [Case(changed(case, shift=shift), case.values) for case in cases]
    undiscounted = {"gamma": 1.0, "trace": 1.0}
    same(credit(name, moved, **undiscounted), credit(name, cases, **undiscounted), 1e-6)


@few
@given(cases=whole_groups, factor=st.sampled_from([0.25, 3.0]))
def test_rules_without_deviation_scale_with_the_rewards(cases: list[Case], factor: float) -> None:
    grown = [Case(changed(case, factor=factor), case.values) for case in cases]
    for name in ("outcome-no-std", "step-groups"):
        same(credit(name, grown, scale=False), [factor * a for a in credit(name, cases, scale=False)])


@few
@given(rewards=st.lists(eighths, min_size=4, max_size=4), factor=st.sampled_from([0.25, 3.0]))
def test_rules_with_deviation_hardly_see_the_scale(rewards: list[float], factor: float) -> None:
    # The smallest deviation of eighths is 1/16; (s + e) / (s + e / f) is 1 to within 4e / s then.
    grown = group_advantages([factor * r for r in rewards], 4)
    assert grown == pytest.approx(group_advantages(rewards, 4), rel=4e-4 * 16)


@few
@given(process=st.lists(eighths, max_size=6), gamma=st.sampled_from([0.0, 0.5, 0.9, 1.0]))
def test_shaping_telescopes_to_the_potential(process: list[float], gamma: float) -> None:
    left = discounted(shaping_terms(process, gamma), gamma)
    assert left == pytest.approx([-sum(process[:t]) for t in range(len(process))])


@few
@given(cases=groups)
def test_rules_meet_where_they_should(cases: list[Case]) -> None:
    outcome = credit("outcome", cases, weight=0)
    same(credit("turn", cases, weight=0), outcome)
    same(credit("step-groups", cases, weight=0), outcome)
    same(credit("two-phase", cases, step=1), outcome)
    strict = credit("return-to-go", cases, weight=0)
    same(credit("potential", cases, weight=0, trace=1), strict)
    alone = [
        Case(
            EpisodeRewards(c.rewards.outcome, c.rewards.process, tuple(f"{i}.{t}" for t in range(len(c.values) - 1))),
            c.values,
        )
        for i, c in enumerate(cases)
    ]
    same(credit("step-groups", alone), outcome)


@few
@given(cases=whole_groups)
def test_one_turn_makes_return_to_go_the_outcome_rule(cases: list[Case]) -> None:
    short = [Case(EpisodeRewards(c.rewards.outcome, c.rewards.process[:1]), []) for c in cases]
    same(credit("return-to-go", short, weight=0.5), credit("outcome", short, weight=0.5))


@few
@given(cases=whole_groups)
def test_monte_carlo_advantages_sum_to_the_outcome_less_the_first_value(cases: list[Case]) -> None:
    for case, advantages in zip(cases, credit("monte-carlo", cases, scale=False), strict=True):
        assert advantages.sum() == pytest.approx(case.values[-1] - case.values[0])
