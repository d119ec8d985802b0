"""Every vector of vectors.json that test_passk.py and test_intervals.py do not cover."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from palestra.eval.stats.bounds import lower_bound, upper_bound
from palestra.eval.stats.chance import skill_at_k
from palestra.eval.stats.coverage import aa_only, coverage_sets
from palestra.eval.stats.crossover import crossover
from palestra.eval.stats.discovery import samples_needed
from palestra.eval.stats.diversity import answer_entropy, chao2, distinct_at_k, good_turing_slope
from palestra.eval.stats.exact import theta
from palestra.eval.stats.extrapolation import BetaBinomial, beta_binomial_pass_at_k
from palestra.eval.stats.likelihood import Scored, mis_lower_bound
from palestra.eval.stats.plan import sampling_variance_at
from palestra.eval.stats.reliability import g_pass_at_k, majority_at_k, pass_hat_k

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors.json").read_text(encoding="utf-8"))


def exactly(value: float) -> Any:
    return pytest.approx(value, abs=1e-12, rel=1e-12)


@pytest.mark.parametrize("case", VECTORS["pass_hat_k"])
def test_pass_hat_k(case: dict[str, Any]) -> None:
    assert pass_hat_k(case["n"], [case["c"]], case["k"])[0] == exactly(float(Fraction(case["exact"])))


@pytest.mark.parametrize("case", VECTORS["g_pass"])
def test_g_pass_at_k(case: dict[str, Any]) -> None:
    assert g_pass_at_k(case["n"], [case["c"]], case["k"], case["tau"])[0] == exactly(case["value"])


@pytest.mark.parametrize("case", VECTORS["maj"])
def test_majority_at_k(case: dict[str, Any]) -> None:
    assert majority_at_k(case["counts"], case["correct"], case["k"]) == exactly(case["value"])


@pytest.mark.parametrize("case", VECTORS["bounds"])
def test_bounds(case: dict[str, Any]) -> None:
    high = upper_bound(case["n"], case["c"], case["alpha"])
    assert high == exactly(case["upper"])
    assert lower_bound(case["n"], case["c"], case["alpha"]) == exactly(case["lower"])
    assert theta(float(high), 64) == exactly(case["pass_at_64_upper"])


def test_coverage_sets() -> None:
    case = VECTORS["coverage"]
    sets = coverage_sets(case["n_base"], case["c_base"], case["n_rl"], case["c_rl"], case["k"])
    for name, values in sets._asdict().items():
        assert values.mean() == exactly(case[name])


def test_aa_only() -> None:
    case = VECTORS["aa_only"]
    assert aa_only(case["n"], case["c"], case["k"]).mean() == exactly(case["value"])


def test_good_turing_slope() -> None:
    case = VECTORS["good_turing"]
    assert good_turing_slope(case["n"], case["c"]) == exactly(case["slope"])


def test_chao2() -> None:
    case = VECTORS["chao2"]
    assert chao2(case["n"], case["c"]) == exactly(case["value"])


@pytest.mark.parametrize("case", VECTORS["entropy"])
def test_answer_entropy(case: dict[str, Any]) -> None:
    found = answer_entropy(case["counts"])
    assert found.plugin == exactly(case["plugin_nats"])
    assert found.miller_madow == exactly(case["miller_madow"])
    assert found.chao_shen == exactly(case["chao_shen"])
    assert found.enough == (max(case["counts"]) > 1)
    assert distinct_at_k(case["counts"], 4) == exactly(case["distinct_at_4"])


@pytest.mark.parametrize("case", VECTORS["beta_binomial"])
def test_beta_binomial(case: dict[str, Any]) -> None:
    assert beta_binomial_pass_at_k(BetaBinomial(case["a"], case["b"]), [case["K"]])[0] == exactly(case["value"])


def test_multiple_importance_sampling() -> None:
    case = VECTORS["mis"]
    base = Scored(np.log(case["p_base_on_base"]), np.log(case["p_rl_on_base"]), np.array(case["ok_base"], bool))
    rl = Scored(np.log(case["p_base_on_rl"]), np.log(case["p_rl_on_rl"]), np.array(case["ok_rl"], bool))
    assert mis_lower_bound(base, rl).estimate == exactly(case["base_success"])


@pytest.mark.parametrize("case", VECTORS["crossover"])
def test_crossover(case: dict[str, Any]) -> None:
    never_ends = isinstance(case["k_star"], str)
    assert crossover(case["ks"], case["delta"]) == exactly(np.inf if never_ends else case["k_star"])


@pytest.mark.parametrize(("budget", "eta", "name"), [(64, 0.5, ".5"), (64, 0.05, ".05"), (256, 0.2, ".2")])
def test_samples_needed(budget: int, eta: float, name: str) -> None:
    assert samples_needed(budget, eta) == VECTORS["n_needed"][f"K={budget},eta={name}"]


def test_skill_at_k() -> None:
    case = VECTORS["chance_corrected"]
    assert skill_at_k(case["n"], [case["c"]], case["g"], case["k"])[0] == exactly(case["value"])


@pytest.mark.parametrize("case", VECTORS["pass_at_k_variance"])
def test_planned_variance_at_the_pilots_own_n_is_the_unbiased_variance(case: dict[str, Any]) -> None:
    found = sampling_variance_at(case["n"], [case["c"]], case["k"], case["n"])[0]
    assert found == exactly(float(Fraction(case["exact"])))
