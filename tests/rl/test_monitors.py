import json
import random
from typing import Any

import numpy as np
import pytest

from palestra.rl.credit import EpisodeRewards
from palestra.rl.monitors import (
    CollapseMonitor,
    HackingMonitor,
    LimitMonitor,
    RepetitionMonitor,
    _effective,
    is_repetitive,
)

MAXIMA = {"calls": 0.4, "format": 0.6, "waste": 0.0}


def episode(outcome: float | None, calls: float = 0.0, form: float = 0.0, waste: float = 0.0) -> EpisodeRewards:
    return EpisodeRewards(outcome, (calls, form + waste), terms={"calls": calls, "format": form, "waste": waste})


def hacking(shares: list[float], **more: Any) -> list[tuple[int, str]]:
    """Run steps of 40 episodes of which a share is hacked by `calls`, and return (step, warning)."""
    monitor = HackingMonitor(MAXIMA, window=2, **more)
    warnings = []
    for step, share in enumerate(shares):
        hacked = round(40 * share)
        batch = [episode(0, calls=0.4, form=0.2)] * hacked + [episode(0, form=0.2)] * (40 - hacked)
        warnings += [(step, text) for text in monitor.update(batch, 1)]
    return warnings


@pytest.mark.parametrize(
    ("rewards", "hacked"),
    [
        (episode(0, calls=0.4, form=0.1), True),  # 0.5 of a declared maximum of 1
        (episode(0, calls=0.4, form=0.09), False),
        (episode(1, calls=0.4, form=0.6), False),
        (episode(0, calls=0.4, form=0.3, waste=-0.3), False),  # a penalty counts against, but not for the maximum
        (episode(None, calls=0.4, form=0.6), False),
    ],
)
def test_what_counts_as_hacked(rewards: EpisodeRewards, hacked: bool) -> None:
    assert HackingMonitor(MAXIMA).is_hacked(rewards) == hacked


def test_nothing_is_hacked_where_nothing_can_be_earned() -> None:
    assert not HackingMonitor({"waste": 0.0}).is_hacked(episode(0))
    assert not HackingMonitor({}).update([episode(0)], 1)


def test_growing_hacking_is_told_once_with_the_term() -> None:
    [(step, text)] = hacking([0, 0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5])
    assert step == 3
    assert text.startswith(
        "50% of the last 80 episodes earned at least 50% of the process reward and failed, up from 0%"
    )
    assert "share solved went from 0% to 0%: 'calls' grew most in failed episodes (0.00 to 0.50 of its" in text


def test_hacking_is_told_again_when_it_grows_again() -> None:
    assert [step for step, _ in hacking([0, 0, 0.4, 0.4, 0.8, 0.8])] == [3, 5]
    assert [step for step, _ in hacking([0.4, 0.4, 0, 0, 0.4, 0.4])] == [5]


def test_slow_growth_is_noticed() -> None:
    # A percent per step: neighbouring blocks never differ by much, but each is compared with the lowest.
    assert hacking([step / 100 for step in range(60)])


def test_growth_under_five_points_or_by_chance_is_no_news() -> None:
    assert not hacking([0.0] * 2 + [0.025] * 8)
    # 3 of 80 against 9 of 80: Fisher's p is 0.065.
    assert not hacking([0.025, 0.05, 0.1, 0.125])


def test_groups_that_agree_count_as_one_episode() -> None:
    # 2 of 8 groups, all of whose members hack, are 16 of 64 episodes: a lot as 64, nothing as 8.
    bad, fine = [episode(0, calls=0.4, form=0.6)] * 16, [episode(0)]
    for group_size, told in ((8, 0), (1, 1)):
        monitor = HackingMonitor(MAXIMA, window=1)
        monitor.update(fine * 64, group_size)
        assert len(monitor.update(bad + fine * 48, group_size)) == told


def test_the_effective_counts_by_hand() -> None:
    # 4 groups of 4 with 4, 2, 0, 2 hits: share 1/2, squared deviations of the counts 4 + 0 + 4 + 0 = 8. The variance
    # of the share is 8 / 16^2 x 4/3 = 1/24, against 1/64 for 16 independent episodes: 6 are as good as these 16.
    monitor = HackingMonitor(MAXIMA)
    for hits in (4, 2, 0, 2):
        monitor._count(hits, 4)
    assert _effective(monitor._block) == (3, 3)


def test_broken_episodes_count_for_nothing() -> None:
    monitor = HackingMonitor(MAXIMA, window=1)
    monitor.update([episode(0)] * 50, 1)
    assert not monitor.update([episode(None, calls=0.4, form=0.6)] * 50, 1)


def collapse(steps: list[dict[str, float]], window: int = 2) -> list[tuple[int, str]]:
    monitor = CollapseMonitor(window=window)
    usual = {"outcome": 0.3, "deviation": 0.4, "entropy": 1.0, "gradient_norm": 0.1}
    return [(i, text) for i, step in enumerate(steps) for text in monitor.update(**{**usual, **step})]


def test_variance_that_falls_before_the_outcome_is_told_once() -> None:
    [(step, text)] = collapse([{}] * 4 + [{"deviation": 0.15}] * 8)
    assert step == 5
    assert "fell from 0.400 to 0.150 while the outcome went from 30.0% to 30.0%" in text


def test_variance_may_fall_where_tasks_are_solved() -> None:
    assert not collapse([{}] * 4 + [{"outcome": 0.9, "deviation": 0.15}] * 8)


def test_slow_loss_of_variance_is_noticed() -> None:
    # Two percent per step: blocks of 10 lose 18% each, and the fifth is under half of the first (0.98^40).
    assert [step for step, _ in collapse([{"deviation": 0.4 * 0.98**i} for i in range(60)], window=10)] == [49]


def test_entropy_collapse_is_told_once_until_it_recovers() -> None:
    low, usual = {"entropy": 0.1}, dict[str, float]()
    assert [step for step, _ in collapse([usual] * 2 + [low] * 6)] == [3]
    assert [step for step, _ in collapse([usual] * 2 + [low] * 2 + [usual] * 2 + [low] * 2)] == [3, 7]
    assert not collapse([usual] * 2 + [{"entropy": 0.2}] * 6)
    assert not collapse([usual] * 2 + [{"entropy": 0.1, "outcome": 0.96}] * 6)


def test_a_spike_of_the_gradient_is_told_at_once_and_not_every_step() -> None:
    spike = {"gradient_norm": 2.0}
    [(step, text)] = collapse([{}] * 3 + [spike, spike, {}])
    assert step == 3
    assert text == "the gradient's norm is 2, 20 times its usual size: the policy may not recover from this step"
    assert not collapse([spike, {}, {"gradient_norm": 0.9}])
    assert not collapse([{"gradient_norm": 0.0}] * 9 + [{}] * 9), "steps without contrast are no measure"


def test_a_fall_of_the_outcome_is_told_against_the_best_block() -> None:
    better, worse, worst = {"outcome": 0.4}, {"outcome": 0.25}, {"outcome": 0.1}
    [(step, text)] = collapse([{}] * 2 + [better] * 2 + [worse] * 4)
    assert step == 5
    assert text.startswith(
        "the share solved fell from 40.0% to 25.0%: training undoes what the model could do; a lower"
    )
    assert [step for step, _ in collapse([better] * 2 + [worse] * 2 + [worst] * 2)] == [3, 5]
    assert not collapse([better] * 2 + [{"outcome": 0.28}] * 6), "a third is not lost"
    assert not collapse([{"outcome": p} for p in (0.6, 0.2, 0.3, 0.1, 0.35, 0.3, 0.2, 0.1)]), "noise of single steps"


def test_a_limit_that_cuts_many_turns_is_told_once() -> None:
    monitor = LimitMonitor(window=2)
    few, many = [True] * 3 + [False] * 17, [True] * 6 + [False] * 14
    assert [monitor.update(turns, 64) for turns in (few, few, few)] == [[], [], []]
    assert monitor.update(many, 64) == ["--max-tokens 64 cut 22% of the turns of the last 2 steps: raise it"]
    assert not [said for _ in range(6) for said in monitor.update(many, 64)]
    assert not LimitMonitor(window=1).update([], 64)


@pytest.mark.parametrize("norm", [float("nan"), float("inf")])
def test_a_gradient_that_is_no_number_is_told_even_in_the_first_step(norm: float) -> None:
    [(step, text)] = collapse([{"gradient_norm": norm}, {}, {}])
    assert step == 0
    assert f"norm is {norm}" in text


@pytest.mark.parametrize(
    ("text", "repetitive"),
    [
        ("!" * 64, True),
        ("!" * 63, False),
        ("let me think about it. " * 6, True),
        ("let me think about it. " * 3, False),
        ("The sum of the two dice is at least 8 in 15 of 36 cases, so the probability is 5/12.", False),
    ],
)
def test_what_counts_as_repetitive(text: str, repetitive: bool) -> None:
    assert is_repetitive(text) == repetitive


def test_growing_repetition_is_told_once() -> None:
    monitor = RepetitionMonitor(window=1)
    fine, echo = [["fine"]] * 80, [["!" * 99]] * 20 + [["fine"]] * 60
    assert not monitor.update(fine)
    assert monitor.update(echo) == [
        "25% of the last 80 turns repeat themselves, up from 0%: the policy may be falling into an echo trap"
    ]
    assert not monitor.update(echo)


def steps(monitor: Any, first: int, last: int) -> list[str]:
    """Feed a monitor random steps that begin to go wrong; a step depends on its number only."""
    said: list[str] = []
    for step in range(first, last):
        rng = random.Random(step)
        bad = step > 11
        if isinstance(monitor, CollapseMonitor):
            said += monitor.update(
                outcome=rng.uniform(0.2, 0.3),
                deviation=rng.uniform(0.1, 0.12) if bad else rng.uniform(0.4, 0.5),
                entropy=0.05 if bad else 1.0,
                gradient_norm=rng.uniform(1, 2) * (30 if step == 17 else 1),
            )
        elif isinstance(monitor, HackingMonitor):
            terms = [0.4, 0.6] if bad else []
            said += monitor.update([episode(0, *(terms if rng.random() < 0.5 else [])) for _ in range(30)], 3)
        elif isinstance(monitor, LimitMonitor):
            said += monitor.update([bad and rng.random() < 0.5 for _ in range(30)], 64)
        else:
            said += monitor.update([["!" * 80 if bad and rng.random() < 0.5 else "fine"] for _ in range(30)])
    return said


@pytest.mark.parametrize(
    "make",
    [
        lambda: HackingMonitor(MAXIMA, window=4),
        lambda: CollapseMonitor(window=4),
        lambda: RepetitionMonitor(window=4),
        lambda: LimitMonitor(window=4),
    ],
)
@pytest.mark.parametrize("at", [0, 7, 13, 18])
def test_a_resumed_monitor_says_what_the_uninterrupted_one_would(make: Any, at: int) -> None:
    whole = make()
    expected = steps(whole, 0, 30)
    first, second = make(), make()
    said = steps(first, 0, at)
    second.restore(json.loads(json.dumps(first.state())))
    assert said + steps(second, at, 30) == expected
    assert expected
    assert second.state() == whole.state()


@pytest.mark.slow
@pytest.mark.parametrize("alike", [(0.5, 1.5), (0.05, 0.95)])
def test_false_alarms_of_hacking_are_rare(alike: tuple[float, float]) -> None:
    """200 runs of 200 steps of 16 groups of 8, in which nothing changes: measured 1 and 2 runs with a warning."""
    rng = np.random.default_rng(0)
    false = 0
    for _ in range(200):
        monitor, said = HackingMonitor(MAXIMA), False
        for _ in range(200):
            for hits in rng.binomial(8, rng.beta(*alike, 16)):
                monitor._count(int(hits), 8)
            said |= monitor._end_step() is not None
        false += said
    assert false <= 10


@pytest.mark.slow
@pytest.mark.parametrize("solved", [(0.05, 4.75), (0.2, 3.8), (0.5, 1.5)])
def test_false_alarms_of_collapse_are_rare(solved: tuple[float, float]) -> None:
    """The same with outcomes, whose deviation is noisy where little is solved: measured at most 3 runs of 200."""
    rng = np.random.default_rng(0)
    false = 0
    for _ in range(200):
        monitor, said = CollapseMonitor(), 0
        for _ in range(200):
            outcomes = (rng.random((16, 8)) < rng.beta(*solved, 16)[:, None]).astype(float)
            said += len(
                monitor.update(
                    outcome=float(outcomes.mean()),
                    deviation=float(outcomes.std(1, ddof=1).mean()),
                    entropy=1.0,
                    gradient_norm=float(np.exp(rng.normal(0, 0.5))),
                )
            )
        false += said > 0
    assert false <= 10
