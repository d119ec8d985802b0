import math
from typing import Any

import numpy as np
import pytest
import scipy.stats

from palestra.eval.stats.passk import pass_at_k, pass_at_k_variance, sampling_variance
from palestra.eval.stats.plan import (
    detectable_difference,
    plan,
    problems_needed,
    samples_for_variance,
    sampling_variance_at,
    seeds_needed,
    variance_parts,
)


def pilot(m: int = 400, n: int = 64, seed: int = 0) -> tuple[int, Any, Any]:
    rng = np.random.default_rng(seed)
    p = rng.beta(0.5, 2.0, m)
    return n, rng.binomial(n, np.cbrt(p)), rng.binomial(n, p)


@pytest.mark.parametrize("k", [1, 5, 10])
def test_planned_variance_equals_the_measured_one_at_the_same_n(k: int) -> None:
    c = np.arange(21)
    assert sampling_variance_at(20, c, k, 20) == pytest.approx(np.asarray(pass_at_k_variance(20, c, k)), abs=1e-13)


@pytest.mark.parametrize("new_n", [6, 9, 20, 200])
@pytest.mark.parametrize("p", [0.0, 0.05, 0.6, 1.0])
def test_planned_variance_is_unbiased_for_any_n(new_n: int, p: float) -> None:
    n, k = 12, 6
    chance = scipy.stats.binom.pmf(np.arange(n + 1), n, p)
    planned = chance @ sampling_variance_at(n, np.arange(n + 1), k, new_n)
    assert planned == pytest.approx(float(sampling_variance(p, new_n, k)), abs=1e-12)


def test_parts_tell_problems_from_luck() -> None:
    rng = np.random.default_rng(0)
    p = rng.beta(2.0, 2.0, 5000)
    parts = variance_parts(32, rng.binomial(32, p**0.5), rng.binomial(32, p), 4)
    truth = np.var((1 - (1 - p**0.5) ** 4) - (1 - (1 - p) ** 4))
    assert parts.between == pytest.approx(truth, rel=0.05)


def test_two_copies_differ_by_luck_alone() -> None:
    rng = np.random.default_rng(0)
    p = rng.beta(2.0, 2.0, 5000)
    parts = variance_parts(32, rng.binomial(32, p), rng.binomial(32, p), 4)
    assert parts.between < 0.1 * parts.sampling


def test_minimum_detectable_effect_of_the_specification() -> None:
    # sd = 0.25 and delta = 0.05 at 80 % power: m = 197.
    assert problems_needed(0.25, 0.05) == 197
    assert detectable_difference(0.25, 197) == pytest.approx(0.05, rel=0.005)


def test_samples_needed_just_reach_the_target() -> None:
    n, c_rl, c_base = pilot()
    parts = variance_parts(n, c_rl, c_base, 8)
    target = parts.between + parts.sampling / 3
    found = samples_for_variance(n, c_rl, c_base, 8, target)
    assert found is not None

    def reached(new_n: int) -> float:
        luck = sampling_variance_at(n, c_rl, 8, new_n).mean() + sampling_variance_at(n, c_base, 8, new_n).mean()
        return parts.between + float(luck)

    assert reached(found) <= target < reached(found - 1)


def test_a_pilot_of_equal_problems_shows_nothing_to_plan_from() -> None:
    for successes in (3, 5):  # 0.3 has no exact float, and a variance of 1e-33
        found = plan(10, [successes] * 20, None, k=1, delta=0.05)
        assert (found.problems, found.samples) == (None, None)


def test_no_number_of_samples_replaces_problems() -> None:
    n, c_rl, c_base = pilot()
    between = variance_parts(n, c_rl, c_base, 8).between
    assert samples_for_variance(n, c_rl, c_base, 8, 0.9 * between) is None
    assert samples_for_variance(n, c_rl, c_base, 8, 10.0) == 16


def test_seeds_needed_grow_with_their_spread() -> None:
    found = [seeds_needed(sd, 0.05) for sd in (0.01, 0.02, 0.05, 0.1)]
    assert found == sorted(found)  # type: ignore[type-var]
    # The textbook number for a two-sample t test with effect size 1 is 17 a side.
    assert seeds_needed(0.05, 0.05) == 17
    assert seeds_needed(1.0, 0.001) is None


def test_plan_from_a_pilot() -> None:
    n, c_rl, c_base = pilot()
    found = plan(n, c_rl, c_base, k=8, delta=0.05, seed_sd=0.05)
    assert found.problems == problems_needed(found.parts.total**0.5, 0.05)
    assert found.samples is not None
    assert found.samples >= 16
    assert found.seeds == 17
    assert found.discovery_samples == 1107
    assert plan(n, c_rl, c_base, k=8, delta=0.001).samples is None
    assert plan(n, c_rl, c_base, k=8, delta=0.05).seeds is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: variance_parts(4, [1, 2], [1, 2], 3), "needs at least 6 samples"),
        (lambda: variance_parts(4, [1], [1], 2), "at least 2 of them"),
        (lambda: variance_parts(4, [1, 2], [1, 2, 3], 2), "same problems twice"),
        (lambda: sampling_variance_at(4, [1], 2, 1), r"\[1, 1\]"),
        (lambda: problems_needed(0.1, 0.0), "delta > 0"),
        (lambda: problems_needed(0.1, 0.1, power=1.0), "power"),
        (lambda: detectable_difference(0.1, 0), "at least 1"),
        (lambda: seeds_needed(0.0, 0.1), "> 0"),
        (lambda: plan(8, [1, 2], None, k=1, delta=math.inf), "delta must lie in"),
        (lambda: plan(8, [1, 2], None, k=1, delta=math.nan), "delta must lie in"),
    ],
)
def test_misuse_is_refused_in_a_sentence(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.slow
def test_planned_problems_have_the_power_asked_for() -> None:
    rng = np.random.default_rng(5)
    n, k, shift = 32, 4, 0.05

    def draw(m: int) -> tuple[Any, Any]:
        p = rng.beta(2.0, 3.0, m)
        return rng.binomial(n, np.minimum(p + shift * rng.random(m) * 2, 1)), rng.binomial(n, p)

    big = draw(200_000)
    values = [np.asarray(pass_at_k(n, c, k)) for c in big]
    truth = float((values[0] - values[1]).mean())
    m = plan(n, *(c[:2000] for c in big), k=k, delta=truth).problems
    assert m is not None
    found = 0
    for _ in range(400):
        first, second = (np.asarray(pass_at_k(n, c, k)) for c in draw(m))
        found += scipy.stats.ttest_rel(first, second).pvalue < 0.05
    assert 0.74 <= found / 400 <= 0.87
