"""Comparisons: paired tests, multiplicity, crossover, coverage, efficiency, training seeds."""

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from palestra.eval.stats.coverage import aa_only, coverage, coverage_sets, excess
from palestra.eval.stats.crossover import crossover, crossover_interval, curves_cross
from palestra.eval.stats.efficiency import efficiency, k_eq, restricted_tries
from palestra.eval.stats.exact import theta
from palestra.eval.stats.intervals import ProblemBootstrap
from palestra.eval.stats.multiplicity import benjamini_hochberg, holm, true_claims
from palestra.eval.stats.paired import cluster_means, mcnemar_p, sign_flip_p, t_interval, variance_saved
from palestra.eval.stats.passk import pass_at_k, pass_at_k_curve
from palestra.eval.stats.seeds import (
    difference_in_differences,
    difference_in_differences_one_seed,
    welch_over_seeds,
)

p_values = st.lists(st.floats(0, 1), min_size=1, max_size=12)
paired_counts = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=10)


# Paired tests of one number per problem.


def test_t_interval_equals_scipy() -> None:
    x = np.random.default_rng(0).normal(0.1, 0.3, 30)
    theirs = scipy.stats.ttest_1samp(x, 0.0).confidence_interval(0.95)
    assert t_interval(x) == pytest.approx((x.mean(), theirs.low, theirs.high))


def test_clustered_t_interval_of_single_problems_is_the_plain_one() -> None:
    x = np.random.default_rng(0).normal(0.1, 0.3, 30)
    assert t_interval(x, clusters=list(range(30))) == pytest.approx(t_interval(x))


def test_few_clusters_have_means_and_no_interval() -> None:
    x, names = [0.0, 1.0, 0.5], ["a", "a", "b"]
    assert cluster_means(x, names) == {"a": 0.5, "b": 0.5}
    with pytest.raises(ValueError, match="2 clusters are too few"):
        t_interval(x, clusters=names)


@given(st.lists(st.integers(-5, 5).map(float), min_size=2, max_size=8))
def test_sign_flip_tries_all_flips_of_few_problems(differences: list[float]) -> None:
    x = np.array(differences)
    theirs = scipy.stats.permutation_test((x,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_p(x) == pytest.approx(theirs.pvalue, abs=1e-12)


def test_sign_flips_that_tie_but_for_rounding_count() -> None:
    assert sign_flip_p([0.1, 0.2, 0.3, -0.6]) == 1.0


def test_sign_flip_agrees_with_scipy_on_many_problems() -> None:
    x = np.random.default_rng(1).normal(0.05, 0.3, 60)
    theirs = scipy.stats.permutation_test(
        (x,), np.mean, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(0)
    )
    assert sign_flip_p(x, resamples=20_000) == pytest.approx(theirs.pvalue, abs=0.02)


def test_sign_flip_of_clusters_flips_whole_clusters() -> None:
    # Two clusters that agree: 2 of the 4 flips reach the sum, however many problems they hold.
    assert sign_flip_p([0.2] * 10, clusters=["a"] * 5 + ["b"] * 5) == 0.5
    assert sign_flip_p([0.2] * 10) == pytest.approx(2 / 2**10)


@given(st.integers(0, 30), st.integers(0, 30))
def test_mcnemar_is_the_binomial_test(first: int, second: int) -> None:
    exact = scipy.stats.binomtest(min(first, second), first + second).pvalue if first + second else 1.0
    assert mcnemar_p(first, second) == pytest.approx(exact, abs=1e-12)


def test_pairing_saves_what_the_models_share() -> None:
    rng = np.random.default_rng(0)
    shared = rng.random(2000)
    assert variance_saved(shared, shared) == 1.0
    assert variance_saved(shared, rng.random(2000)) == pytest.approx(0.0, abs=0.06)
    assert variance_saved([1.0, 1.0], [0.5, 0.5]) == 0.0


# Many claims at once.


@given(p_values)
def test_benjamini_hochberg_equals_scipy(p: list[float]) -> None:
    assert benjamini_hochberg(p) == pytest.approx(scipy.stats.false_discovery_control(p), abs=1e-12)


@given(p_values)
def test_holm_lies_between_the_raw_values_and_bonferroni(p: list[float]) -> None:
    adjusted = holm(p)
    assert np.all(adjusted >= np.array(p) - 1e-12)
    assert np.all(adjusted <= np.minimum(np.array(p) * len(p), 1.0) + 1e-12)
    assert np.all(adjusted >= benjamini_hochberg(p) - 1e-12)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])


def true_claims_by_closed_testing(p: list[float], claimed: np.ndarray, alpha: float) -> int:
    """The definition: all claims, less the most of them that one set of hypotheses kept by its Simes test holds."""
    n = len(p)

    def simes_keeps(members: list[int]) -> bool:
        ordered = np.sort(np.array(p)[members])
        return bool(np.all(ordered * len(members) > alpha * np.arange(1, len(members) + 1)))

    sets = [[i for i in range(n) if mask >> i & 1] for mask in range(1, 2**n)]
    kept = [members for members in sets if simes_keeps(members)]
    most_false = max((sum(bool(claimed[i]) for i in members) for members in kept), default=0)
    return int(claimed.sum()) - most_false


@given(st.lists(st.sampled_from([0.001, 0.004, 0.01, 0.02, 0.03, 0.06, 0.2, 0.7]), min_size=1, max_size=7), st.data())
@settings(deadline=None)
def test_true_claims_equal_closed_testing(p: list[float], data: st.DataObject) -> None:
    claimed = np.array(data.draw(st.lists(st.booleans(), min_size=len(p), max_size=len(p))))
    assert true_claims(p, claimed) == true_claims_by_closed_testing(p, claimed, 0.05)


def test_alike_p_values_are_all_true_claims_where_holm_has_none() -> None:
    p = [0.004] * 40
    assert true_claims(p, np.ones(40, dtype=bool)) == 40
    assert (holm(p) <= 0.05).sum() == 0


# Crossover.


def test_crossover_of_many_curves_at_once() -> None:
    delta = [[0.2, -0.2, 0.1], [0.1, 0.1, 0.1], [-0.1, -0.1, -0.1], [0.1, 0.0, 0.0], [-0.1, 0.2, -0.2]]
    assert crossover([1, 4, 16], delta).tolist() == pytest.approx([2.0, math.inf, 0.0, 4.0, 8.0])


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=6))
def test_crossover_is_none_zero_or_on_the_grid(delta: list[float]) -> None:
    star = float(crossover([2**i for i in range(len(delta))], delta))
    assert star == 0.0 or star == math.inf or 1.0 <= star <= 2 ** (len(delta) - 1)


def test_a_lead_by_rounding_is_none() -> None:
    assert crossover([1, 2, 4], [2e-17, -2e-17, 0.0]) == 0.0


def test_crossover_interval_keeps_censored_resamples() -> None:
    rng = np.random.default_rng(0)
    base = rng.beta(0.5, 2.0, 60)
    n = 64
    difference = pass_at_k_curve(n, rng.binomial(n, base**0.5)) - pass_at_k_curve(n, rng.binomial(n, base))
    found = crossover_interval(ProblemBootstrap(60, resamples=400), list(range(1, n + 1)), difference)
    assert found.low <= found.estimate <= found.high
    assert found.high == math.inf


def test_curves_cross_only_if_the_band_leaves_zero_on_both_sides() -> None:
    rng = np.random.default_rng(0)
    k, m = 32, 300
    lost = rng.random(m) < 0.4
    base = np.full(m, 0.2)
    trained = np.where(lost, 0.0, 0.6)
    n = 128
    difference = pass_at_k_curve(n, rng.binomial(n, trained)) - pass_at_k_curve(n, rng.binomial(n, base))
    bootstrap = ProblemBootstrap(m, resamples=400)
    assert curves_cross(bootstrap.curve(difference[:, :k], bounds=(-1, 1)))
    assert not curves_cross(bootstrap.curve(-difference[:, :k], bounds=(-1, 1)))
    same = pass_at_k_curve(n, rng.binomial(n, base)) - pass_at_k_curve(n, rng.binomial(n, base))
    assert not curves_cross(bootstrap.curve(same[:, :k], bounds=(-1, 1)))


# Coverage.


@given(paired_counts, st.integers(1, 4))
def test_coverage_sets_add_up(counts: list[tuple[int, int]], k: int) -> None:
    base, rl = [c for c, _ in counts], [c for _, c in counts]
    sets = coverage_sets(8, base, 8, rl, k)
    assert sum(sets) == pytest.approx(np.ones(len(base)))
    assert sets.both + sets.base_only == pytest.approx(np.asarray(pass_at_k(8, base, k)))
    swapped = coverage_sets(8, rl, 8, base, k)
    assert np.array_equal(swapped.base_only, sets.rl_only)


def test_coverage_at_k_equal_n_counts_problems() -> None:
    sets = coverage_sets(4, [0, 1, 4, 0], 4, [0, 0, 2, 3], 4)
    assert [float(x.sum()) for x in sets] == [1.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("p", [0.02, 0.3])
def test_excess_of_two_copies_is_zero_in_expectation(p: float) -> None:
    n, k = 12, 5
    chance = scipy.stats.binom.pmf(np.arange(n + 1), n, p)
    weight = np.outer(chance, chance).ravel()
    first, second = np.repeat(np.arange(n + 1), n + 1), np.tile(np.arange(n + 1), n + 1)
    assert weight @ excess(n, first, n, second, k) == pytest.approx(0.0, abs=1e-12)
    covered = float(theta(p, k))
    assert chance @ aa_only(n, np.arange(n + 1), k) == pytest.approx(covered * (1 - covered), abs=1e-12)


def test_coverage_rates_by_hand_and_undefined_ones() -> None:
    bootstrap = ProblemBootstrap(40, resamples=200)
    # 20 solved by both, 10 by the base alone, 10 by the trained model alone, at k = 1 of n = 2.
    base, rl = [2] * 30 + [0] * 10, [2] * 20 + [0] * 10 + [2] * 10
    found = coverage(bootstrap, 2, base, 2, rl, 1)
    assert found.retention.estimate == pytest.approx(20 / 30)
    assert found.discovery.estimate == pytest.approx(10 / 30)
    assert found.net_change.estimate == pytest.approx(0.0)
    assert found.support.estimate == pytest.approx(2 * (2 / 3) * (1 / 3))
    assert found.excess.estimate == pytest.approx(0.25)
    assert found.retention.low < found.retention.estimate < found.retention.high
    assert math.isnan(coverage(bootstrap, 2, [0] * 40, 2, [0] * 40, 1).retention.estimate)


# Efficiency.


def test_k_eq_by_hand() -> None:
    assert k_eq([1, 4, 16], [0.2, 0.4, 0.6], 0.3) == pytest.approx(2.0)
    assert k_eq([1, 4, 16], [0.2, 0.4, 0.6], 0.1) == 1.0
    assert k_eq([1, 4, 16], [0.2, 0.4, 0.6], 0.7) == math.inf


@given(st.lists(st.integers(0, 16), min_size=2, max_size=8))
def test_a_model_equals_itself_in_as_many_attempts(c: list[int]) -> None:
    curve = pass_at_k_curve(16, c).mean(axis=0)
    for k in (1, 3, 8):
        assert k_eq(list(range(1, 17)), curve, float(curve[k - 1])) <= k + 1e-9


def test_restricted_tries_are_unbiased() -> None:
    n, p, k = 10, 0.3, 6
    chance = scipy.stats.binom.pmf(np.arange(n + 1), n, p)
    tries = restricted_tries(pass_at_k_curve(n, np.arange(n + 1))[:, :k])
    assert chance @ tries == pytest.approx(sum(0.7**j for j in range(k)), abs=1e-12)


def test_efficiency_of_a_better_model() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(0.05, 0.3, 200)
    base = pass_at_k_curve(64, rng.binomial(64, p))
    trained = pass_at_k_curve(64, rng.binomial(64, 1 - (1 - p) ** 4))
    found = efficiency(ProblemBootstrap(200, resamples=400), base, trained)
    assert found.k_eq.low < 4.0 < found.k_eq.high
    assert found.tries_trained.high < found.tries_base.low
    assert found.gap.low < base[:, -1].mean() - trained[:, 0].mean() < found.gap.high


# Training seeds.


def test_welch_equals_scipy() -> None:
    a, b = [0.41, 0.52, 0.47], [0.39, 0.5, 0.36, 0.44, 0.40]
    theirs = scipy.stats.ttest_ind(a, b, equal_var=False)
    ci = theirs.confidence_interval(0.95)
    found = welch_over_seeds(a, b)
    assert found.p_value == pytest.approx(theirs.pvalue)
    assert found.degrees == pytest.approx(theirs.df)
    assert (found.interval.low, found.interval.high) == pytest.approx((ci.low, ci.high))


def test_equal_changes_that_differ_by_rounding_have_no_spread() -> None:
    with pytest.raises(ValueError, match="neither side has any spread"):
        difference_in_differences([0.3, 0.4, 0.5], [0.1, 0.2, 0.3], [0.6, 0.7, 0.8], [0.5, 0.6, 0.7])


def test_difference_in_differences_is_welch_of_each_seeds_change() -> None:
    rng = np.random.default_rng(0)
    ood1, id1, ood2, id2 = rng.random((4, 5))
    found = difference_in_differences(ood1, id1, ood2, id2)
    assert found == welch_over_seeds(ood1 - id1, ood2 - id2)
    assert found.interval.estimate == pytest.approx((ood1 - ood2).mean() - (id1 - id2).mean())


def test_difference_in_differences_of_one_seed_is_over_problems_or_clusters() -> None:
    rng = np.random.default_rng(0)
    ood, same = rng.normal(-0.1, 0.2, 60), rng.normal(0.1, 0.2, 80)
    found = difference_in_differences_one_seed(ood, same)
    assert found.interval.estimate == pytest.approx(ood.mean() - same.mean())
    assert found.interval.high < 0
    clustered = difference_in_differences_one_seed(
        ood, same, clusters_ood=np.repeat(np.arange(12), 5), clusters_id=np.repeat(np.arange(16), 5)
    )
    assert clustered.interval.estimate == pytest.approx(found.interval.estimate)
    assert clustered.degrees < found.degrees


BOOTSTRAP = ProblemBootstrap(2, resamples=5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: t_interval([0.5]), "at least 2 problems"),
        (lambda: t_interval([0.5, math.nan]), "finite"),
        (lambda: t_interval([0.5, 0.1], clusters=["a"]), "one cluster per problem"),
        (lambda: sign_flip_p([]), "at least 1 problem"),
        (lambda: mcnemar_p(-1, 0), ">= 0"),
        (lambda: variance_saved([0.5, 0.5], [0.5]), "same problems twice"),
        (lambda: holm([1.5]), r"\[0, 1\]"),
        (lambda: true_claims([0.5], np.array([True, False])), "differ in shape"),
        (lambda: crossover([2, 1], [0.1, 0.1]), "increasing"),
        (lambda: crossover([1, 2], [math.nan, 0.1]), "finite"),
        (lambda: t_interval([0.1, 0.2], alpha=2.0), "alpha"),
        (lambda: welch_over_seeds([0.5, 0.6], [0.5, 0.7], alpha=math.nan), "alpha"),
        (lambda: k_eq([1, 2], [0.1], 0.1), "one value per k"),
        (lambda: coverage_sets(4, [1], 4, [1, 2], 1), "same problems"),
        (lambda: aa_only(4, [1], 3), "needs 6 samples"),
        (lambda: efficiency(BOOTSTRAP, np.zeros((2, 3)), np.zeros((2, 4))), "one shape"),
        (lambda: efficiency(BOOTSTRAP, np.zeros((2, 3)), np.zeros((2, 3)), k=4), r"\[1, 3\]"),
        (lambda: restricted_tries([0.5]), "shape"),
        (lambda: welch_over_seeds([0.5], [0.5, 0.6]), "one seed shows no spread"),
        (lambda: welch_over_seeds([0.5, 0.5], [0.6, 0.6]), "spread"),
        (lambda: difference_in_differences([0.5, 0.6], [0.5], [0.5, 0.6], [0.5, 0.6]), "one seed|in and out"),
    ],
)
def test_misuse_is_refused_in_a_sentence(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# Samples drawn with the same random numbers.


def test_equal_runs_of_one_seed_show_no_excess() -> None:
    c = np.arange(17)
    assert excess(16, c, 16, c, 8, same_seeds=True) == pytest.approx(np.zeros(17), abs=1e-12)
    assert excess(16, c, 16, c, 8).min() < -0.1


@pytest.mark.parametrize(("p", "q"), [(0.05, 0.05), (0.05, 0.2), (0.2, 0.05), (0.0, 0.1), (0.6, 0.9)])
def test_excess_of_one_seed_is_never_too_small(p: float, q: float) -> None:
    n, k, reps = 16, 8, 20_000
    luck = np.random.default_rng(0).random((reps, n))
    base, trained = (luck < p).sum(axis=1), (luck < q).sum(axis=1)
    truth = (1 - p) ** k * (1 - (1 - q) ** k) - ((1 - p) ** k - (1 - p) ** (2 * k))
    found = excess(n, base, n, trained, k, same_seeds=True)
    assert found.mean() >= truth - 4 * found.std() / reps**0.5
