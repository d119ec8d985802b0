"""Simulations with known truth: what the statistics promise, on models whose every success rate is planted."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from palestra.eval.stats.bounds import lower_bound
from palestra.eval.stats.crossover import crossover, crossover_interval, curves_cross
from palestra.eval.stats.discovery import DiscoveryRule, Fresh, candidates, confirm
from palestra.eval.stats.exact import theta, theta_curve
from palestra.eval.stats.intervals import ProblemBootstrap
from palestra.eval.stats.paired import t_interval
from palestra.eval.stats.passk import k_grid, pass_at_k_curve
from palestra.eval.stats.problems import label_problems
from palestra.eval.stats.seeds import welch_over_seeds
from palestra.eval.stats.verdict import Evidence, Label, VerdictRule, verdict

Floats = npt.NDArray[np.float64]
pytestmark = pytest.mark.slow


class World(NamedTuple):
    """Success rates of both models on m problems."""

    base: Floats
    trained: Floats


def skewed(rng: np.random.Generator, m: int) -> Floats:
    return np.where(rng.random(m) < 0.2, 0.0, rng.beta(0.5, 2.0, m))


def same(rng: np.random.Generator, m: int) -> World:
    p = skewed(rng, m)
    return World(p, p)


def sharpen(rng: np.random.Generator, m: int) -> World:
    p = skewed(rng, m)
    return World(p, np.where(p > 0.01, np.cbrt(p), p))


def discover(rng: np.random.Generator, m: int) -> World:
    new = rng.random(m) < 0.3
    p = np.where(new, 0.0, skewed(rng, m))
    return World(p, np.where(new, 0.4, p))


def shrink(rng: np.random.Generator, m: int) -> World:
    p = skewed(rng, m)
    return World(p, np.where(rng.random(m) < 0.35, 0.0, np.minimum(3 * p, 1.0)))


def discover_and_lose(rng: np.random.Generator, m: int) -> World:
    part, p = rng.random(m), skewed(rng, m)
    new, gone = part < 0.25, (part >= 0.25) & (part < 0.45)
    base = np.where(new, 0.0, np.where(gone, np.maximum(p, 0.3), p))
    return World(base, np.where(new, 0.4, np.where(gone, 0.0, p)))


Make = Callable[[np.random.Generator, int], World]


def labels_of(make: Make, n: int, seed: int, m: int = 200) -> set[Label]:
    """Draw both models, fresh samples included, and judge."""
    rng = np.random.default_rng([seed, n])
    world = make(rng, m)
    rule = VerdictRule(resamples=1000, seed=seed)
    evidence = Evidence(n, rng.binomial(n, world.base), rng.binomial(n, world.trained))
    chosen = evidence.discovery_candidates(rule.discovery), evidence.loss_candidates(rule.discovery)
    sizes = [np.where(c, 2048, 0) for c in chosen]
    fresh = [Fresh(size, rng.binomial(size, p)) for size, p in zip(sizes, world, strict=True)]
    return set(verdict(replace(evidence, fresh_base=fresh[0], fresh_trained=fresh[1]), rule).labels)


@pytest.mark.parametrize("n", [64, 256])
def test_two_copies_of_a_model_get_no_label_of_an_effect(n: int) -> None:
    found = [labels_of(same, n, seed) for seed in range(100)]
    assert sum(labels <= {Label.NO_EFFECT, Label.NOT_DECIDED} for labels in found) >= 95


@pytest.mark.parametrize(
    ("make", "n", "always"),
    [
        (sharpen, 64, {Label.NOT_DECIDED}),
        (sharpen, 256, {Label.SHARPEN}),
        (discover, 64, {Label.DISCOVER}),
        (discover, 256, {Label.DISCOVER}),
        (shrink, 64, {Label.LOSE, Label.SHRINK}),
        (shrink, 256, {Label.LOSE, Label.SHRINK}),
        (discover_and_lose, 64, {Label.DISCOVER, Label.LOSE}),
        (discover_and_lose, 256, {Label.DISCOVER, Label.LOSE}),
    ],
)
def test_planted_worlds_get_their_labels(make: Make, n: int, always: set[Label]) -> None:
    # A model that loses a third of the problems and sharpens the others may be told both.
    allowed = always | {Label.SHARPEN} if make is shrink else always
    found = [labels_of(make, n, seed) for seed in range(40)]
    assert sum(always <= labels <= allowed for labels in found) >= 38


# Bands.


def crossing(rng: np.random.Generator, m: int) -> World:
    p = rng.beta(1.0, 3.0, m)
    return World(p, np.where(rng.random(m) < 0.3, 0.0, np.sqrt(p)))


def uniform(rng: np.random.Generator, m: int) -> World:
    return World(rng.random(m), rng.random(m))


@pytest.mark.parametrize("make", [sharpen, crossing, uniform])
@pytest.mark.parametrize("m", [50, 150])
@pytest.mark.parametrize("difference", [False, True])
def test_band_covers_the_whole_curve(make: Make, m: int, difference: bool) -> None:
    n, ks = 64, k_grid(64)
    population = make(np.random.default_rng(99), 200_000)
    truth = theta_curve(population.trained, ks).mean(axis=0)
    if difference:
        truth -= theta_curve(population.base, ks).mean(axis=0)
    bounds = (-1.0, 1.0) if difference else (0.0, 1.0)
    rng = np.random.default_rng(7)
    held = 0
    for rep in range(1000):
        world = make(rng, m)
        values = pass_at_k_curve(n, rng.binomial(n, world.trained))[:, ks - 1]
        if difference:
            values = values - pass_at_k_curve(n, rng.binomial(n, world.base))[:, ks - 1]
        band = ProblemBootstrap(m, resamples=400, seed=rep).curve(values, bounds=bounds)
        held += bool(np.all((band.band_low <= truth) & (truth <= band.band_high)))
    assert 0.92 <= held / 1000 <= 0.98


def test_clustered_band_covers_where_the_plain_one_does_not() -> None:
    n, ks, families, each = 64, k_grid(64), 25, 8
    rng = np.random.default_rng(1)

    def draw(count: int) -> Floats:
        return np.repeat(rng.beta(0.5, 2.0, count), each)

    truth = theta_curve(draw(50_000), ks).mean(axis=0)
    held = {"clusters": 0, "plain": 0}
    member = np.repeat(np.arange(families), each)
    for rep in range(500):
        values = pass_at_k_curve(n, rng.binomial(n, draw(families)))[:, ks - 1]
        for name, clusters in (("clusters", member), ("plain", None)):
            bootstrap = ProblemBootstrap(families * each, clusters=clusters, resamples=400, seed=rep)
            band = bootstrap.curve(values)
            held[name] += bool(np.all((band.band_low <= truth) & (truth <= band.band_high)))
    assert 0.92 <= held["clusters"] / 500 <= 0.99
    assert held["plain"] / 500 < 0.75


def test_clustered_t_interval_covers() -> None:
    rng = np.random.default_rng(2)
    member = np.repeat(np.arange(25), 8)
    held = 0
    for _ in range(1000):
        x = rng.normal(0.0, 0.2, 25)[member] + rng.normal(0.0, 0.1, 200)
        interval = t_interval(x, clusters=member)
        held += interval.low <= 0.0 <= interval.high
    assert 0.93 <= held / 1000 <= 0.97


# Crossover.


def test_crossover_interval_covers_and_identical_models_do_not_cross() -> None:
    n, ks, m = 128, k_grid(64), 200
    population = crossing(np.random.default_rng(99), 400_000)
    delta = theta_curve(population.trained, ks).mean(axis=0) - theta_curve(population.base, ks).mean(axis=0)
    truth = float(crossover(ks, delta))
    rng = np.random.default_rng(3)
    held = false_crossings = 0
    for rep in range(400):
        world = crossing(rng, m)
        base, trained, again = (
            pass_at_k_curve(n, rng.binomial(n, p))[:, ks - 1] for p in (world.base, world.trained, world.base)
        )
        bootstrap = ProblemBootstrap(m, resamples=400, seed=rep)
        interval = crossover_interval(bootstrap, ks, trained - base)
        held += interval.low <= truth <= interval.high
        false_crossings += curves_cross(bootstrap.curve(again - base, bounds=(-1.0, 1.0)))
    assert 0.91 <= held / 400 <= 0.98
    assert false_crossings / 400 <= 0.02


# Discovery.


def test_fresh_samples_hold_the_share_of_false_discoveries() -> None:
    rule = DiscoveryRule(budget=64, eta=0.2)
    rng = np.random.default_rng(4)
    false_naive = claims_naive = false_confirmed = claims_confirmed = 0
    for _ in range(100):
        base = np.where(rng.random(400) < 0.1, 0.0, 10 ** rng.uniform(-4, 0, 400))
        trained = np.where(rng.random(400) < 0.5, np.maximum(base, 0.4), base)
        reachable = theta(base, rule.budget) > rule.eta
        n = 512
        c_base, c_trained = rng.binomial(n, base), rng.binomial(n, trained)
        naive = (c_base == 0) & (lower_bound(n, c_trained) >= rule.delta)
        chosen = candidates((n, c_base), (n, c_trained), rule)
        fresh = Fresh(np.where(chosen, 2048, 0), rng.binomial(np.where(chosen, 2048, 0), base))
        confirmed = confirm(chosen, fresh, rule).confirmed
        false_naive, claims_naive = false_naive + int((naive & reachable).sum()), claims_naive + int(naive.sum())
        false_confirmed += int((confirmed & reachable).sum())
        claims_confirmed += int(confirmed.sum())
    assert false_naive / claims_naive > 0.01
    assert false_confirmed / claims_confirmed < 0.005
    assert claims_confirmed > 0.8 * claims_naive


def test_bounds_of_single_problems_would_claim_what_is_not_there() -> None:
    """Why the strong side is tested over all problems (see `palestra.eval.stats.discovery`)."""
    rule, n, m = DiscoveryRule(), 256, 500
    rng = np.random.default_rng(5)
    fresh = Fresh(np.full(m, 2048), np.zeros(m, dtype=np.int64))
    each = ours = 0
    for _ in range(100):
        c = rng.binomial(n, 0.045, m)
        each += bool(confirm(lower_bound(n, c) >= rule.delta, fresh, rule).confirmed.any())
        ours += bool(confirm(candidates((n, [0] * m), (n, c), rule), fresh, rule).confirmed.any())
    assert each >= 95
    assert ours <= 5


def test_two_copies_have_few_sharpened_problems() -> None:
    """Why "sharpened" asks that the trained model be better (see `palestra.eval.stats.problems`)."""
    rng = np.random.default_rng(6)
    p, n, rule = rng.beta(0.5, 2.0, 20_000), 256, DiscoveryRule()
    none = np.zeros(len(p), dtype=bool)
    base, copy = rng.binomial(n, p), rng.binomial(n, p)
    labels = label_problems(n, base, copy, discovered=none, lost=none, rule=rule)
    assert (labels == "sharpened").mean() < 0.01
    reached = theta(lower_bound(n, base), rule.budget) >= 0.5
    assert (reached & (lower_bound(n, copy) >= rule.delta)).mean() > 0.5


# Training seeds.


@pytest.mark.parametrize("seeds", [3, 5])
def test_welch_over_seeds_keeps_its_level_where_problems_do_not(seeds: int) -> None:
    rng = np.random.default_rng(8)
    m, reps = 100, 1500
    welch = problems_only = 0
    for _ in range(reps):
        easy = rng.normal(0.0, 0.2, m)
        values = [0.5 + rng.normal(0.0, 0.05, (seeds, 1)) + easy + rng.normal(0.0, 0.1, (seeds, m)) for _ in range(2)]
        welch += welch_over_seeds(values[0].mean(axis=1), values[1].mean(axis=1)).p_value < 0.05
        problems_only += t_interval(values[0].mean(axis=0) - values[1].mean(axis=0)).excludes(0.0)
    assert 0.025 <= welch / reps <= 0.065
    assert problems_only / reps > 0.5
