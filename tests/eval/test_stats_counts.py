"""Figures of one model's counts: variance, reliability, diversity, bounds, chance, exact probabilities."""

from fractions import Fraction
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from palestra.eval.stats.bounds import lower_bound, rate_within, unseen_rate, upper_bound
from palestra.eval.stats.chance import chance_curve, chance_limit, permutation_chance, skill_at_k, valid_k
from palestra.eval.stats.diversity import answer_entropy, chao2, distinct_at_k, good_turing_slope
from palestra.eval.stats.exact import attempts_to_reach, theta, theta_curve
from palestra.eval.stats.extrapolation import BetaBinomial, beta_binomial_pass_at_k, fit_beta_binomial
from palestra.eval.stats.passk import (
    fixed_benchmark_se,
    k_grid,
    overlap_weights,
    pass_at_k,
    pass_at_k_curve,
    pass_at_k_variance,
    pass_at_k_variance_plugin,
    sampling_variance,
)
from palestra.eval.stats.reliability import cover_at_tau, g_pass_at_k, majority_at_k, pass_hat_k

answer_counts = st.lists(st.integers(0, 5), min_size=1, max_size=5).filter(any)


@st.composite
def draws(draw: st.DrawFn, max_n: int = 40) -> tuple[int, int, int]:
    n = draw(st.integers(1, max_n))
    return n, draw(st.integers(0, n)), draw(st.integers(1, n))


def binomial(n: int, p: float) -> Any:
    return scipy.stats.binom.pmf(np.arange(n + 1), n, p)


# The variance of pass@k.


@pytest.mark.parametrize(("n", "k"), [(1, 1), (8, 3), (12, 12), (40, 20), (40, 33)])
@pytest.mark.parametrize("p", [0.0, 0.03, 0.5, 1.0])
def test_sampling_variance_equals_the_sum_over_counts(n: int, k: int, p: float) -> None:
    values = np.asarray(pass_at_k(n, np.arange(n + 1), k))
    truth = binomial(n, p) @ values**2 - (1 - (1 - p) ** k) ** 2
    assert sampling_variance(p, n, k) == pytest.approx(truth, abs=1e-13)


@given(draws())
def test_overlap_of_two_draws_is_hypergeometric(case: tuple[int, int, int]) -> None:
    n, _, k = case
    shared, weight = overlap_weights(n, k)
    assert weight == pytest.approx(scipy.stats.hypergeom.pmf(shared, n, k, k), abs=1e-13)


def test_variance_is_small_and_positive_for_many_samples() -> None:
    assert 0 < sampling_variance(1e-9, 10_000, 5_000) < 1e-5
    assert np.isfinite(pass_at_k_variance_plugin(10_000, [0, 1, 10_000], 9_999)).all()


def test_plugin_variance_is_near_the_unbiased_one_where_both_exist() -> None:
    assert pass_at_k_variance_plugin(400, [200], 2)[0] == pytest.approx(
        float(np.asarray(pass_at_k_variance(400, [200], 2))[0]), rel=0.02
    )


def test_fixed_benchmark_error_by_hand() -> None:
    # v(8, 2, 3) = 9/98 for each of 4 problems: sqrt(4 * 9/98) / 4.
    assert fixed_benchmark_se(8, [2, 2, 2, 2], 3) == pytest.approx((4 * 9 / 98) ** 0.5 / 4)


@pytest.mark.parametrize("k_max", [1, 2, 3, 17, 512, 1000])
def test_grid_is_increasing_and_holds_both_ends(k_max: int) -> None:
    grid = k_grid(k_max)
    assert grid[0] == 1
    assert grid[-1] == k_max
    assert np.all(np.diff(grid) > 0)
    assert np.all(grid[1:] <= np.maximum(grid[:-1] * 1.2, grid[:-1] + 1))


# Reliability.


@given(draws())
def test_pass_hat_k_is_under_pass_at_1_and_pass_at_k_above(case: tuple[int, int, int]) -> None:
    n, c, k = case
    assert pass_hat_k(n, [c], k)[0] <= c / n + 1e-12
    assert pass_hat_k(n, [c], k)[0] == pytest.approx(comb(c, k) / comb(n, k), abs=1e-12)
    assert np.asarray(pass_at_k(n, [c], k))[0] >= c / n - 1e-12


@given(draws(), st.floats(0, 1))
def test_g_pass_lies_between_pass_hat_k_and_pass_at_k(case: tuple[int, int, int], tau: float) -> None:
    n, c, k = case
    value = g_pass_at_k(n, [c], k, tau)[0]
    assert pass_hat_k(n, [c], k)[0] - 1e-12 <= value <= np.asarray(pass_at_k(n, [c], k))[0] + 1e-12
    assert g_pass_at_k(n, [c], k, 0.0)[0] == pytest.approx(pass_at_k(n, c, k), abs=1e-12)
    assert g_pass_at_k(n, [c], k, 1.0)[0] == pytest.approx(pass_hat_k(n, [c], k)[0], abs=1e-12)


def test_g_pass_asks_for_exactly_tau_k_where_that_is_whole() -> None:
    # 0.07 * 100 rounds to just over 7.
    assert g_pass_at_k(100, [7], 100, 0.07)[0] == 1.0
    assert g_pass_at_k(100, [6], 100, 0.07)[0] == 0.0


def majority_by_enumeration(counts: list[int], correct: int, k: int) -> Fraction:
    answers = [a for a, count in enumerate(counts) for _ in range(count)]
    won, total = Fraction(0), 0
    for draw in combinations(answers, k):
        votes = [draw.count(a) for a in range(len(counts))]
        total += 1
        if votes[correct] == max(votes):
            won += Fraction(1, votes.count(max(votes)))
    return won / total


@given(answer_counts, st.data())
@settings(deadline=None, max_examples=50)
def test_majority_equals_enumeration(counts: list[int], data: st.DataObject) -> None:
    counts = counts[:4]
    if not any(counts):
        counts[0] = 1
    k, correct = data.draw(st.integers(1, min(sum(counts), 7))), data.draw(st.integers(0, len(counts) - 1))
    exact = float(majority_by_enumeration(counts, correct, k))
    assert majority_at_k(counts, correct, k) == pytest.approx(exact, abs=1e-12)


@given(answer_counts, st.data())
@settings(deadline=None, max_examples=50)
def test_majorities_of_all_answers_add_up_to_one(counts: list[int], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, sum(counts)))
    assert sum(majority_at_k(counts, a, k) for a in range(len(counts))) == pytest.approx(1.0, abs=1e-12)


def test_majority_of_one_vote_is_the_share() -> None:
    assert majority_at_k([3, 5, 2], 1, 1) == pytest.approx(0.5)


def test_majority_of_a_thousand_samples_adds_up_to_one() -> None:
    counts = [400, 380, 200, *[1] * 44]
    assert sum(majority_at_k(counts, a, 256) * (44 if a == 3 else 1) for a in range(4)) == pytest.approx(1, abs=1e-10)


def test_cover_at_tau_counts_lower_bounds() -> None:
    # 19 of 20 has a lower bound of 0.784; c/n would count it at tau = 0.9.
    assert cover_at_tau(20, [19, 20, 0], 0.75).tolist() == [1.0, 1.0, 0.0]
    assert cover_at_tau(20, [19, 20, 0], 0.9).tolist() == [0.0, 0.0, 0.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5), st.integers(1, 30))
def test_pass_at_k_is_a_beta_mix_of_cover(p: list[float], k: int) -> None:
    # The integral of k(1-t)^(k-1) [p >= t] over t is 1-(1-p)^k.
    t = (np.arange(20_000) + 0.5) / 20_000
    mixed = np.mean([(k * (1 - t) ** (k - 1) * (x >= t)).mean() for x in p])
    assert mixed == pytest.approx(theta(p, k).mean(), abs=2e-3)


# Diversity.


@given(answer_counts)
def test_distinct_answers_run_from_one_to_those_seen(counts: list[int]) -> None:
    n, seen = sum(counts), sum(count > 0 for count in counts)
    curve = [distinct_at_k(counts, k) for k in range(1, n + 1)]
    assert curve[0] == pytest.approx(1.0)
    assert curve[-1] == pytest.approx(seen)
    assert np.all(np.diff(curve) >= -1e-12)


@given(answer_counts)
def test_entropies_are_finite_and_the_plugin_is_the_least(counts: list[int]) -> None:
    found = answer_entropy(counts)
    assert 0.0 <= found.plugin <= found.miller_madow
    assert np.isfinite(found.chao_shen)
    assert found.chao_shen >= -1e-12


def test_one_answer_has_no_entropy() -> None:
    assert answer_entropy([7]) == pytest.approx((0.0, 0.0, 0.0, True), abs=1e-12)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8))
def test_good_turing_is_the_last_step_of_the_curve(c: list[int]) -> None:
    curve = pass_at_k_curve(9, c).mean(axis=0)
    assert good_turing_slope(9, c) == pytest.approx(curve[-1] - curve[-2], abs=1e-12)
    assert chao2(9, c) >= sum(count > 0 for count in c)


# Bounds.


@given(draws(200), st.sampled_from([0.01, 0.05, 0.2]))
def test_bounds_equal_clopper_pearson(case: tuple[int, int, int], alpha: float) -> None:
    n, c, _ = case
    exact = scipy.stats.binomtest(c, n).proportion_ci(1 - 2 * alpha, method="exact")
    assert lower_bound(n, c, alpha) == pytest.approx(exact.low, abs=1e-9)
    assert upper_bound(n, c, alpha) == pytest.approx(exact.high, abs=1e-9)


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5])
def test_bounds_hold_as_often_as_they_say(p: float) -> None:
    n = 50
    highs, lows = upper_bound(n, np.arange(n + 1)), lower_bound(n, np.arange(n + 1))
    assert binomial(n, p) @ (highs >= p) >= 0.95
    assert binomial(n, p) @ (lows <= p) >= 0.95


def test_rate_within_inverts_theta_and_unseen_rate_is_three_over_n() -> None:
    assert theta(rate_within(256, 0.5), 256) == pytest.approx(0.5, abs=1e-12)
    assert unseen_rate(1000) == pytest.approx(1 - 0.05 ** (1 / 1000), abs=1e-12)


# Chance and verifier noise.


def test_skill_of_a_guesser_is_zero_in_expectation() -> None:
    n, g = 20, 0.25
    for k in (1, 4, 9):
        assert binomial(n, g) @ skill_at_k(n, np.arange(n + 1), g, k) == pytest.approx(0.0, abs=1e-12)


def test_skill_curve_is_unbiased() -> None:
    n, g, s, k = 16, 0.1, 0.3, 5
    p = g + (1 - g) * s
    assert binomial(n, p) @ skill_at_k(n, np.arange(n + 1), g, k) == pytest.approx(1 - (1 - s) ** k, abs=1e-12)


def test_chance_limit_is_where_guessing_passes_five_percent() -> None:
    assert chance_limit([0.0, 0.0], 128) == 128
    assert chance_limit([0.01], 128) == 5
    assert chance_curve([0.01], [5, 6]).tolist() == pytest.approx([1 - 0.99**5, 1 - 0.99**6])
    assert chance_limit([0.25], 128) == 0
    assert chance_limit([1.0, *[0.0] * 99], 128) == 0


def test_chance_limit_stops_where_the_correction_blows_up() -> None:
    # One problem of 100 with g = 0.9: chance is under 5 %, but (1-g)^-k passes 10 after k = 1.
    assert chance_limit([0.9, *[0.0] * 99], 128) == 1


def test_verifier_audit_limits_k() -> None:
    assert valid_k(0, 50) == 0
    assert valid_k(0, 1000) == 16
    assert valid_k(0, 1000, accepted_share=0.1) == 167
    assert valid_k(3, 1000) < valid_k(0, 1000)


def test_permutation_chance_counts_matches_with_other_problems() -> None:
    answers = [["a", "b"], ["a", "a"], ["c", "b"]]
    # "a" elsewhere: 1 of [a, a], 0 of [c, b] -> (1 + 0) / 2; "b": 1/2 and 1/2; "z": never.
    assert permutation_chance(answers, ["a", "b", "z"]).tolist() == pytest.approx([0.5, 0.5, 0.0])


# Exact success probabilities, and models beyond n.


def test_theta_keeps_its_digits_for_tiny_rates_and_many_attempts() -> None:
    assert theta(1e-12, 1000) == pytest.approx(1e-9, rel=1e-9)
    assert theta([0.0, 1.0], 10**9).tolist() == [0.0, 1.0]


@given(st.floats(1e-6, 0.9), st.floats(0.01, 0.99))
def test_attempts_to_reach_inverts_theta(p: float, eta: float) -> None:
    attempts = float(attempts_to_reach([p], eta)[0])
    assert attempts == 1.0 or -np.expm1(attempts * np.log1p(-p)) == pytest.approx(eta, rel=1e-6)
    assert np.isinf(attempts_to_reach([0.0], eta)[0])


def test_pass_at_k_of_many_samples_nears_theta() -> None:
    p = np.array([0.0, 0.1, 0.5])
    curve = pass_at_k_curve(10_000, (p * 10_000).astype(np.int64))[:, [0, 3, 15]]
    assert curve == pytest.approx(theta_curve(p, [1, 4, 16]), abs=1e-3)


def test_extrapolation_recovers_its_own_model() -> None:
    rng = np.random.default_rng(0)
    p = np.where(rng.random(4000) < 0.3, 0.0, rng.beta(0.6, 3.0, 4000))
    found = fit_beta_binomial(64, rng.binomial(64, p), zero_inflated=True)
    assert found.zero_share == pytest.approx(0.3, abs=0.05)
    truth = 0.7 * beta_binomial_pass_at_k(BetaBinomial(0.6, 3.0), [1024])[0]
    assert beta_binomial_pass_at_k(found, [1024])[0] == pytest.approx(truth, abs=0.03)
    plain = fit_beta_binomial(64, rng.binomial(64, p))
    assert beta_binomial_pass_at_k(plain, [1024])[0] > truth + 0.02


@pytest.mark.parametrize("n", [1024, 8192])
def test_the_fit_of_thousands_of_samples_does_not_underflow(n: int) -> None:
    rng = np.random.default_rng(1)
    p = np.concatenate([rng.beta(2, 2, 200), np.zeros(50)])
    c = rng.binomial(n, p)
    found, plain = fit_beta_binomial(n, c, zero_inflated=True), fit_beta_binomial(n, c[:200])
    assert (plain.a, plain.b) == pytest.approx((2, 2), abs=0.5)
    assert (found.a, found.b, found.zero_share) == pytest.approx((plain.a, plain.b, 0.2), abs=0.05)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pass_hat_k(4, [5], 1), "between 0 and n"),
        (lambda: g_pass_at_k(4, [1], 2, 1.5), "tau"),
        (lambda: cover_at_tau(4, [1], 0.0), "tau"),
        (lambda: majority_at_k([2, 1], 0, 4), r"\[1, 3\]"),
        (lambda: majority_at_k([2, 1], 2, 1), "index into it"),
        (lambda: distinct_at_k([0, 0], 1), "not all 0"),
        (lambda: answer_entropy([-1, 2]), "not all 0"),
        (lambda: chao2(4, []), "at least 1 problem"),
        (lambda: lower_bound(4, 1, 0.0), "alpha"),
        (lambda: upper_bound(4, 1, 1.0), "alpha"),
        (lambda: lower_bound([4, 5], [1, 2, 3]), "one shape"),
        (lambda: rate_within(0, 0.5), "at least 1"),
        (lambda: theta(1.5, 1), r"\[0, 1\]"),
        (lambda: theta(0.5, 0), "at least 1"),
        (lambda: theta_curve([0.5], [[1]]), "one list"),
        (lambda: attempts_to_reach([0.5], 1.0), "eta"),
        (lambda: chance_curve([], [1]), "at least 1 problem"),
        (lambda: skill_at_k(4, [1], 1.0, 2), "chance rate"),
        (lambda: valid_k(0, 5, accepted_share=0.0), "accepted_share"),
        (lambda: permutation_chance([["a"]], ["a"]), "at least 2 problems"),
        (lambda: sampling_variance(-0.1, 4, 2), r"\[0, 1\]"),
        (lambda: overlap_weights(4, 5), r"\[1, 4\]"),
        (lambda: fixed_benchmark_se(4, [], 2), "at least 1 problem"),
        (lambda: k_grid(0), "k_max"),
        (lambda: fit_beta_binomial(4, [0, 0]), "no distribution"),
        (lambda: fit_beta_binomial(4, [4, 4]), "no distribution"),
        (lambda: beta_binomial_pass_at_k(BetaBinomial(0.0, 1.0), [1]), "no distribution"),
    ],
)
def test_misuse_is_refused_in_a_sentence(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
