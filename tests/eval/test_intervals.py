import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from palestra.eval.stats import (
    Interval,
    ProblemBootstrap,
    bootstrap_difference,
    bootstrap_mean,
    pass_at_k_curve,
    t_interval_over_seeds,
)
from palestra.eval.stats.intervals import CurveIntervals, clustered_mean

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors.json").read_text(encoding="utf-8"))
Floats = npt.NDArray[np.float64]
World = Callable[[np.random.Generator, int], Floats]

unit_values = arrays(np.float64, st.integers(2, 12), elements=st.floats(0, 1))


def skewed(rng: np.random.Generator, m: int) -> Floats:
    return np.where(rng.random(m) < 0.2, 0.0, rng.beta(0.5, 2.0, m))


def sparse(rng: np.random.Generator, m: int) -> Floats:
    return np.where(rng.random(m) < 0.1, rng.beta(0.3, 3.0, m), 0.0)


def mostly_solved(rng: np.random.Generator, m: int) -> Floats:
    return rng.beta(4.0, 0.5, m)


def test_clustered_standard_error_equals_the_vector() -> None:
    case = VECTORS["cluster_se"]
    x, member = np.array(case["diff"]), np.array(case["cluster"])
    sums = np.bincount(member, x).astype(np.float64)[:, None]
    sizes = np.bincount(member).astype(np.float64)
    mean, se = clustered_mean(np.ones((1, 4)), sums, sizes)
    assert mean.item() == pytest.approx(case["mean"], abs=1e-15)
    assert se.item() == pytest.approx(case["se_cluster"], abs=1e-12)
    naive = clustered_mean(np.ones((1, 8)), x[:, None], np.ones(8))[1]
    assert naive.item() == pytest.approx(case["se_naive"], abs=1e-12)


def test_percentile_interval_agrees_with_scipy() -> None:
    x = np.random.default_rng(3).beta(0.5, 2.0, 60)
    ours = bootstrap_mean(x, resamples=20_000)
    theirs = scipy.stats.bootstrap(
        (x,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(5)
    ).confidence_interval
    assert ours.estimate == pytest.approx(x.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.002)


def test_all_failures_give_the_exact_binomial_bound() -> None:
    # 0 of 20: the two-sided Clopper-Pearson interval is [0, 1 - 0.025^(1/20)].
    assert bootstrap_mean([0.0] * 20) == pytest.approx((0.0, 0.0, 1 - 0.025 ** (1 / 20)))
    exact = scipy.stats.binomtest(0, 20).proportion_ci(method="exact")
    assert bootstrap_mean([0.0] * 20).high == pytest.approx(exact.high)


def test_all_successes_give_the_exact_binomial_bound() -> None:
    assert bootstrap_mean([1.0] * 20) == pytest.approx((1.0, 0.025 ** (1 / 20), 1.0))


def test_no_difference_anywhere_still_leaves_room_for_one() -> None:
    assert bootstrap_difference([1.0, 0.0] * 10, [1.0, 0.0] * 10) == pytest.approx(
        (0.0, -(1 - 0.025 ** (1 / 20)), 1 - 0.025 ** (1 / 20))
    )


def test_one_success_leaves_no_narrower_interval_than_none() -> None:
    def high(solved: int) -> float:
        values = np.zeros((40, 1))
        values[:solved] = 1 / 16
        return float(ProblemBootstrap(40).curve(values).high[0])

    highs = [high(solved) for solved in range(5)]
    assert highs == sorted(highs)
    assert highs[0] == pytest.approx(1 - 0.025 ** (1 / 40))
    assert high(5) < highs[0], "five problems are enough for resamples of them"
    difference = np.zeros((40, 1))
    difference[0] = -1 / 16
    found = ProblemBootstrap(40).curve(difference, bounds=(-1.0, 1.0))
    assert found.high[0] == pytest.approx(highs[0], abs=0.002), "two models that hardly solve anything may differ"


def test_an_end_at_zero_is_zero() -> None:
    sparse = np.zeros(12)
    sparse[:3] = 0.1, 0.6, 0.2
    low = bootstrap_mean(sparse).low
    assert f"{low:.1f}" == "0.0"
    assert low == 0.0


@given(unit_values)
@settings(deadline=None, max_examples=60)
def test_no_interval_is_without_width(x: Floats) -> None:
    curve = ProblemBootstrap(len(x), resamples=50).curve(x[:, None])
    assert curve.band_low[0] < curve.band_high[0]
    assert 0.0 <= curve.band_low[0] <= curve.estimate[0] + 1e-12
    assert curve.estimate[0] - 1e-12 <= curve.band_high[0] <= 1.0
    if np.ptp(x) < 0.01:
        assert curve.low[0] < curve.high[0]


@given(arrays(np.float64, (2, 9), elements=st.floats(0, 1)), st.integers(0, 5))
@settings(deadline=None, max_examples=60)
def test_swapping_the_sides_negates_the_difference(x: Floats, seed: int) -> None:
    forward = bootstrap_difference(x[0], x[1], resamples=64, seed=seed)
    backward = bootstrap_difference(x[1], x[0], resamples=64, seed=seed)
    assert (backward.estimate, backward.low, backward.high) == pytest.approx(
        (-forward.estimate, -forward.high, -forward.low), abs=1e-9
    )


@given(unit_values, st.randoms())
@settings(deadline=None, max_examples=40)
def test_estimate_does_not_depend_on_the_order_of_problems(x: Floats, random: Any) -> None:
    order = list(range(len(x)))
    random.shuffle(order)
    assert bootstrap_mean(x[order], resamples=8).estimate == pytest.approx(bootstrap_mean(x, resamples=8).estimate)


def test_interval_hardly_depends_on_the_order_of_problems() -> None:
    x = np.random.default_rng(1).random(80)
    a, b = bootstrap_mean(x, resamples=8000), bootstrap_mean(np.sort(x), resamples=8000)
    assert (a.low, a.high) == pytest.approx((b.low, b.high), abs=0.005)


def test_pairing_removes_what_both_sides_share() -> None:
    rng = np.random.default_rng(0)
    shared = rng.random(100) * 0.8
    difference = bootstrap_difference(shared + 0.1 + 0.02 * rng.random(100), shared)
    assert difference.excludes(0.0)
    assert difference.high - difference.low < 0.01


def test_same_seed_same_interval_and_another_seed_another() -> None:
    x = np.random.default_rng(0).random(40)
    assert bootstrap_mean(x, seed=4) == bootstrap_mean(x, seed=4)
    assert bootstrap_mean(x, seed=4) != bootstrap_mean(x, seed=5)


def test_blocks_of_resamples_give_the_shape_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palestra.eval.stats.intervals._BLOCK", 100)
    x = np.random.default_rng(0).random((30, 3))
    curve = ProblemBootstrap(30, resamples=101).curve(x)
    assert curve.low.shape == (3,)
    assert np.all(curve.low < curve.estimate)
    assert np.all(curve.estimate < curve.high)


def test_clusters_widen_the_interval_when_problems_of_one_agree() -> None:
    rng = np.random.default_rng(0)
    family = np.repeat(np.arange(25), 8)
    x = np.clip(rng.random(25)[family] + 0.02 * rng.standard_normal(200), 0, 1)
    alone, together = bootstrap_mean(x), bootstrap_mean(x, clusters=family.tolist())
    assert together.high - together.low > 2 * (alone.high - alone.low)
    assert together.estimate == pytest.approx(alone.estimate)


def test_clusters_of_one_problem_change_nothing() -> None:
    x = np.random.default_rng(0).random(30)
    assert bootstrap_mean(x, clusters=list(range(30))) == bootstrap_mean(x)


def test_few_clusters_are_refused() -> None:
    with pytest.raises(ValueError, match="2 clusters are too few"):
        bootstrap_mean([0.0, 1.0, 0.5], clusters=["a", "a", "b"])


@pytest.mark.parametrize("bad", [[0.5, 1.5], [0.5, float("nan")], [-0.1, 0.5]])
def test_values_out_of_bounds_are_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="must be finite and lie in"):
        bootstrap_mean(bad)


def test_other_misuse_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="at least 1 problem"):
        bootstrap_mean([])
    with pytest.raises(ValueError, match="same problems twice"):
        bootstrap_difference([0.5, 0.5], [0.5])
    with pytest.raises(ValueError, match="one number per problem"):
        bootstrap_mean([[0.5, 0.5]])
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        ProblemBootstrap(5, alpha=1.0)
    with pytest.raises(ValueError, match="shape"):
        ProblemBootstrap(5).curve(np.zeros((4, 2)))
    with pytest.raises(ValueError, match="one cluster per problem"):
        bootstrap_mean([0.5, 0.5], clusters=["a"])
    with pytest.raises(ValueError, match="resamples"):
        ProblemBootstrap(5, resamples=0)
    with pytest.raises(ValueError, match="alpha"):
        t_interval_over_seeds([0.1, 0.2], alpha=2.0)


def test_band_is_wider_than_the_normal_interval_and_covers_the_curve() -> None:
    c = np.random.default_rng(2).binomial(64, 0.3, 40)
    curve = ProblemBootstrap(40).curve(pass_at_k_curve(64, c))
    assert curve.critical >= 1.959
    assert np.all(curve.band_low <= curve.estimate)
    assert np.all(curve.estimate <= curve.band_high)
    assert curve.interval(0).estimate == curve.band(0).estimate == pytest.approx(c.mean() / 64)


def test_band_survives_resamples_without_the_only_easy_problem() -> None:
    # One problem always solved, one once, the rest never: the plain studentised c is in the hundreds here.
    curve = ProblemBootstrap(50).curve(pass_at_k_curve(64, [64, 1, *[0] * 48]))
    assert curve.critical < 5
    assert curve.band_high[0] < 0.12


def test_t_interval_of_two_seeds_by_hand() -> None:
    # mean 0.3, sd 0.1 sqrt(2), t(1 df, .975) = 12.7062; half-width 12.7062 * 0.1.
    assert t_interval_over_seeds([0.2, 0.4]) == pytest.approx((0.3, 0.3 - 1.27062, 0.3 + 1.27062), abs=1e-5)


def test_t_interval_agrees_with_scipy() -> None:
    x = [0.41, 0.52, 0.47, 0.39, 0.5]
    theirs = scipy.stats.ttest_1samp(x, 0.0).confidence_interval(0.9)
    ours = t_interval_over_seeds(x, alpha=0.1)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))


@pytest.mark.parametrize("values", [[], [0.5]])
def test_one_seed_has_no_interval(values: list[float]) -> None:
    with pytest.raises(ValueError, match="at least 2 seeds"):
        t_interval_over_seeds(values)


def test_interval_excludes_only_what_lies_outside() -> None:
    interval = Interval(0.2, 0.0, 0.4)
    assert not interval.excludes(0.0)
    assert not interval.excludes(0.4)
    assert interval.excludes(0.41)


def joint_coverage(world: World, m: int, reps: int, *, difference: bool, n: int = 64) -> float:
    """Share of simulated data sets whose band holds the true curve at k = 1, 2, 3, .., n, all together."""
    ks = np.arange(1, n + 1)

    def rl(p: Floats) -> Floats:
        return np.where(p > 0.01, np.cbrt(p), p)

    def curve_of(p: Floats) -> Floats:
        return np.array([(1 - (1 - p) ** k).mean() for k in ks])

    population = world(np.random.default_rng(99), 300_000)
    truth = curve_of(rl(population)) - curve_of(population) if difference else curve_of(population)
    rng = np.random.default_rng(7)
    held = 0
    for rep in range(reps):
        p = world(rng, m)
        values = pass_at_k_curve(n, rng.binomial(n, p))
        bounds = (0.0, 1.0)
        if difference:
            values, bounds = pass_at_k_curve(n, rng.binomial(n, rl(p))) - values, (-1.0, 1.0)
        band: CurveIntervals = ProblemBootstrap(m, resamples=400, seed=rep).curve(values, bounds=bounds)
        held += bool(np.all((band.band_low <= truth + 1e-9) & (truth <= band.band_high + 1e-9)))
    return held / reps


@pytest.mark.parametrize("difference", [False, True])
def test_band_covers_the_whole_curve_at_m_50(difference: bool) -> None:
    assert 0.92 <= joint_coverage(skewed, 50, 1000, difference=difference) <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("difference", [False, True])
@pytest.mark.parametrize("m", [20, 50, 150])
@pytest.mark.parametrize("world", [skewed, sparse, mostly_solved])
def test_band_covers_in_skewed_sparse_and_mostly_solved_worlds(world: World, m: int, difference: bool) -> None:
    assert joint_coverage(world, m, 1000, difference=difference) >= 0.91


def test_resamples_that_are_kept_are_the_same() -> None:
    values = np.random.default_rng(0).random((30, 4))
    bootstrap = ProblemBootstrap(30, resamples=200)
    first, again = bootstrap.curve(values), bootstrap.curve(values)
    for name in ("low", "high", "band_low", "band_high"):
        assert np.array_equal(getattr(first, name), getattr(again, name))


@pytest.mark.slow
@pytest.mark.parametrize("m", [20, 40, 100])
@pytest.mark.parametrize("solvable", [0.02, 0.05, 0.1, 0.2])
@pytest.mark.parametrize("p", [0.1, 0.5, 1.0])
def test_the_pointwise_interval_covers_where_few_problems_are_solvable(m: int, solvable: float, p: float) -> None:
    """400 runs of 16 samples: measured 0.93 to 1.00; from resamples alone 0.85 to 1.00, under 0.93 in 9 worlds."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        values = rng.binomial(16, np.where(rng.random(m) < solvable, p, 0.0)) / 16
        curve = ProblemBootstrap(m, resamples=300, seed=int(rng.integers(2**31))).curve(values[:, None])
        covered += bool(curve.low[0] <= solvable * p <= curve.high[0])
    assert covered / 400 >= 0.917  # 0.95 less 3 standard deviations
