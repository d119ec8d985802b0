"""Regimes and arms over training: by hand, by simulation, and from run directories."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toyruns import MakeRun
from typer.testing import CliRunner

from palestra.cli.main import app
from palestra.envs.errors import UsageError
from palestra.eval.over_training import over_training
from palestra.eval.stats.arms import Regime, RegimeEvidence, at_cost, equal_accuracy, equal_cost, regime
from palestra.eval.stats.intervals import Interval

UP, DOWN, ZERO, WIDE = (
    Interval(0.2, 0.1, 0.3),
    Interval(-0.2, -0.3, -0.1),
    Interval(0.0, -0.02, 0.02),
    Interval(0.0, -0.2, 0.2),
)


@pytest.mark.parametrize(
    ("first", "many", "late", "name"),
    [
        (UP, DOWN, ZERO, Regime.DIMINISH),
        (UP, UP, ZERO, Regime.PLATEAU),
        (UP, UP, UP, Regime.SUSTAINED),
        (ZERO, UP, UP, Regime.SUSTAINED),
        (UP, UP, WIDE, Regime.UNRESOLVED),
        (UP, UP, DOWN, Regime.UNRESOLVED),
        (UP, WIDE, ZERO, Regime.UNRESOLVED),
        (WIDE, DOWN, ZERO, Regime.UNRESOLVED),
    ],
)
def test_regimes_need_all_their_parts(first: Interval, many: Interval, late: Interval, name: Regime) -> None:
    assert regime(RegimeEvidence(first, many, late)) is name


@given(st.integers(2, 6), st.integers(1, 5), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_values_at_a_cost_lie_between_those_beside_it(points: int, problems: int, seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    costs = np.cumsum(rng.uniform(0.1, 1.0, points))
    values = rng.uniform(0, 1, (problems, points))
    for column, cost in enumerate(costs):
        assert at_cost(costs, values, float(cost)) == pytest.approx(values[:, column])
    cost = float(costs[0] + share * (costs[1] - costs[0]))
    found = at_cost(costs, values, cost)
    assert np.all(found >= values[:, :2].min(axis=1) - 1e-9)
    assert np.all(found <= values[:, :2].max(axis=1) + 1e-9)


@pytest.mark.parametrize(("costs", "cost"), [([0, 1, 1], 0.5), ([0, 2, 1], 0.5), ([0, 1], 2.0), ([0, 1], -1.0)])
def test_costs_that_make_no_sense_are_refused(costs: Sequence[float], cost: float) -> None:
    with pytest.raises(ValueError, match="cost"):
        at_cost(costs, np.zeros((2, len(costs))), cost)


def test_equal_cost_by_hand() -> None:
    """The first arm ends at cost 100; the second is half way from 50 to 150 there."""
    first = np.array([[0.0, 0.5], [0.0, 0.7]])
    second = np.array([[0.0, 0.2, 0.4], [0.0, 0.2, 0.6]])
    at, difference = equal_cost(([0, 100], first), ([0, 50, 150], second), resamples=100)
    assert at == 100
    assert difference.estimate == pytest.approx(0.6 - (0.3 + 0.4) / 2)


def test_equal_accuracy_by_hand() -> None:
    """Both go from (.2, .2); one to (.6, .6), the other over (.5, .2) to (.9, .0): at .6 it is at .15."""
    ones = np.ones((30, 1))
    first = ones * [0.2, 0.6], ones * [0.2, 0.6]
    second = ones * [0.2, 0.5, 0.9], ones * [0.2, 0.2, 0.0]
    found = equal_accuracy(first, second, resamples=50)
    assert found.accuracy.estimate == pytest.approx(0.6)
    assert (found.first.estimate, found.second.estimate) == pytest.approx((0.6, 0.15))
    assert found.difference == pytest.approx(Interval(0.45, 0.45, 0.45))


def test_an_arm_that_never_gets_better_is_read_at_the_base() -> None:
    ones = np.ones((30, 1))
    flat = ones * [0.4, 0.1], ones * [0.3, 0.0]
    found = equal_accuracy(flat, (ones * [0.4, 0.8], ones * [0.3, 0.9]), resamples=50)
    assert found.accuracy.estimate == pytest.approx(0.4)
    assert found.difference.estimate == pytest.approx(0.0)


def test_the_interval_at_equal_accuracy_covers() -> None:
    """Two arms with the same polygon (.2, .3), (.8, .6) at other points of it: they do not differ."""
    hits = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)

        def sampled(means: Sequence[float], rng: np.random.Generator = rng) -> Any:
            theta = np.clip(np.array(means) + rng.normal(0, 0.1, (80, 1)), 0, 1)
            return rng.binomial(16, theta) / 16

        first = sampled([0.2, 0.8]), sampled([0.3, 0.6])
        second = sampled([0.2, 0.5, 0.7]), sampled([0.3, 0.45, 0.55])
        hits += not equal_accuracy(first, second, resamples=200, seed=seed).difference.excludes()
    assert 0.9 <= hits / 200 <= 0.99


@pytest.fixture
def trained(make_run: MakeRun) -> dict[str, Any]:
    """A base and two arms; the first gets ever better, the second only in distribution, and soon."""

    def run(label: str, test: int, other: int, tokens: int) -> Path:
        successes = {"test": [test] * 100, "level-3": [other] * 100}
        return make_run(label, successes, manifest={"training": {"tokens_trained": tokens, "optimiser_steps": tokens}})

    return {
        "base": run("base", 2, 0, 0),
        "rl": [run("rl-1", 6, 1, 100), run("rl-2", 12, 9, 200)],
        "sft": [run("sft-1", 11, 0, 150), run("sft-2", 12, 0, 300)],
    }


def test_arms_over_training(trained: dict[str, Any]) -> None:
    base = trained.pop("base")
    found = over_training(base, trained, resamples=200)
    regimes = {(curve.arm, curve.variant): curve.regime for curve in found.curves}
    assert regimes["rl", "level-3"] is Regime.SUSTAINED
    assert regimes["sft", "test"] is Regime.PLATEAU
    assert regimes["sft", "level-3"] is Regime.UNRESOLVED
    costs = {equal.variant: equal for equal in found.equal_cost}
    assert costs["test"].at == 200
    assert costs["test"].difference.estimate == pytest.approx((12 - (11 + 1 / 3)) / 16)
    (at,) = found.equal_accuracy
    assert (at.variant, at.found.accuracy.estimate) == ("level-3", 12 / 16)
    assert at.found.difference.estimate == pytest.approx(9 / 16)


def test_the_command_prints_all_of_it(trained: dict[str, Any]) -> None:
    arms = [f"--arm={name}={','.join(map(str, trained[name]))}" for name in ("rl", "sft")]
    shown = CliRunner().invoke(app, ["checkpoints", str(trained["base"]), *arms])
    assert shown.exit_code == 0, shown.output
    for text in ("Sustained", "Plateau", "rl - sft at 200 tokens trained", "where both solve 75.0"):
        assert text in shown.output
    values = json.loads(CliRunner().invoke(app, ["checkpoints", str(trained["base"]), *arms, "--json"]).output)
    assert values["equal_cost"][0]["at"] == 200
    assert values["equal_accuracy"][0]["found"]["difference"]["estimate"] == pytest.approx(9 / 16)
    curve = next(c for c in values["curves"] if (c["arm"], c["variant"]) == ("rl", "level-3"))
    assert (curve["regime"], curve["points"][1]["cost"]["tokens_trained"]) == ("Sustained", 100)
    assert curve["evidence"]["late"]["low"] > 0


def test_what_cannot_be_matched_is_said(trained: dict[str, Any], make_run: MakeRun) -> None:
    base, rl = trained["base"], trained["rl"]
    silent = make_run("silent", {"test": [3] * 100, "level-3": [3] * 100})
    with pytest.raises(UsageError, match="does not say what its model cost"):
        over_training(base, {"rl": rl, "other": [silent]}, resamples=100)
    assert over_training(base, {"rl": rl, "other": [silent]}, match=None, resamples=100).equal_accuracy
    with pytest.raises(UsageError, match="do not grow in tokens_trained"):
        over_training(base, {"rl": rl[::-1], "sft": trained["sft"]}, resamples=100)
    with pytest.raises(UsageError, match="tokens_sampled"):
        over_training(base, {"rl": rl}, match="token_sampled")
    with pytest.raises(UsageError, match="at least one run"):
        over_training(base, {"rl": []})
    done = CliRunner().invoke(app, ["checkpoints", str(base), "--arm", "rl"])
    assert isinstance(done.exception, UsageError)
