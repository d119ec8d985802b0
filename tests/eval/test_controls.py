"""What the base reaches sampled otherwise, held against a gain."""

from io import StringIO
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from toyruns import SAMPLING, MakeRun

from palestra.envs.errors import UsageError
from palestra.eval.compare import compare_runs
from palestra.eval.stats.reliability import best_of_k
from palestra.eval.tables import comparison_table

M = 30
BASE, POWER, RL = [4] * M, [8] * M, [12] * M
MODEL = {"model": {"name": "base", "weights": "0"}}
POWERED = {"sampling": {**SAMPLING, "power": {"alpha": 4.0}}, **MODEL}


def best_by_enumeration(scores: list[float], outcomes: list[float], k: int) -> float:
    found = []
    for chosen in combinations(range(len(scores)), k):
        top = max(scores[i] for i in chosen)
        found.append(np.mean([outcomes[i] for i in chosen if scores[i] == top]))
    return float(np.mean(found))


@pytest.mark.parametrize("k", [1, 2, 3, 5, 6])
@pytest.mark.parametrize(
    ("scores", "outcomes"),
    [
        ([-3.0, -1.0, -2.0, -5.0, -4.0, -0.5], [1.0, 0.0, 1.0, 1.0, 0.0, 0.0]),
        ([-1.0, -1.0, -1.0, -1.0, -1.0, -1.0], [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]),
    ],
)
def test_best_of_k_equals_enumeration(scores: list[float], outcomes: list[float], k: int) -> None:
    assert best_of_k(scores, outcomes, k) == pytest.approx(best_by_enumeration(scores, outcomes, k), abs=1e-12)


def test_best_of_k_shares_credit_among_equals() -> None:
    scores, outcomes = [-1.0, -1.0, -3.0, -2.0], [1.0, 0.0, 1.0, 0.0]
    with_ties = [
        best_by_enumeration([s + e * t for s, e in zip(scores, (1e-9, -1e-9, 0, 0), strict=True)], outcomes, 2)
        for t in (1, -1)
    ]
    assert best_of_k(scores, outcomes, 2) == pytest.approx(np.mean(with_ties), abs=1e-6)


@pytest.fixture
def runs(make_run: MakeRun) -> dict[str, Path]:
    plain: dict[str, Any] = {"answer": "a", "logprob": -1.0}
    return {
        "base": make_run("base", {"test": BASE}, manifest=MODEL, fields=plain),
        "rl": make_run("rl", {"test": RL}, manifest={"model": {"name": "rl", "weights": "1"}}),
        "power": make_run("power", {"test": POWER}, manifest=POWERED, fields={"tokens_drawn": 96}),
    }


def test_a_control_says_how_much_of_the_gain_it_reaches(runs: dict[str, Path]) -> None:
    comparison = compare_runs([runs["base"], runs["rl"]], controls=[runs["power"]], resamples=200)
    (held,) = comparison.controls
    assert held.gain.estimate == pytest.approx(0.5)
    assert held.reached.estimate == pytest.approx(0.25)
    assert held.share is not None
    assert held.share.estimate == pytest.approx(0.5)
    assert held.beyond.estimate == pytest.approx(0.25)
    assert held.cost == pytest.approx(96 / 12)
    assert held.equal_tokens is not None
    assert held.equal_tokens.votes == 8
    # Every sample of the base gives one answer, which is right: a majority always wins.
    assert held.equal_tokens.majority.estimate == pytest.approx(1.0)
    assert held.equal_tokens.most_probable is not None
    assert held.equal_tokens.most_probable.estimate == pytest.approx(0.25)
    assert "power of base reaches +25.0" in str(held)
    assert "that is 50% [50%, 50%] of the gain" in str(held)
    assert comparison.to_json()["variants"][0]["controls"][0]["share"]["estimate"] == 0.5
    console = Console(width=400, file=StringIO())
    console.print(comparison_table(comparison))
    assert "test: power of base reaches" in console.file.getvalue()  # type: ignore[attr-defined]


def test_without_a_gain_there_is_no_share(runs: dict[str, Path], make_run: MakeRun) -> None:
    same = make_run("same", {"test": BASE}, manifest={"model": {"name": "same", "weights": "2"}})
    (held,) = compare_runs([runs["base"], same], controls=[runs["power"]], resamples=200).controls
    assert held.share is None
    assert "of the gain" not in str(held)


def test_a_control_is_the_base_itself(runs: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="the control rl is of another model than base"):
        compare_runs([runs["base"], runs["rl"]], controls=[runs["rl"]])


def test_a_control_has_the_same_problems(runs: dict[str, Path], make_run: MakeRun) -> None:
    other = make_run("other", {"test": POWER[:-1]}, manifest=POWERED)
    with pytest.raises(UsageError, match="problem 29 of test is in base and not in other"):
        compare_runs([runs["base"], runs["rl"]], controls=[other])


def test_chance_rates_are_those_of_guessing(runs: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="rl is a run of rl: chance rates are those of .* random"):
        compare_runs([runs["base"], runs["rl"]], chance=runs["rl"])


def test_no_claim_where_guessing_wins(runs: dict[str, Path], make_run: MakeRun) -> None:
    guesser = make_run("guesser", {"test": [1] * M}, manifest={"model": {"name": "random"}})
    plain = compare_runs([runs["base"], runs["rl"]], resamples=200)
    comparison = compare_runs([runs["base"], runs["rl"]], chance=guesser, resamples=200)
    assert plain.verdicts[0].verdict.curves is not None
    assert comparison.verdicts[0].verdict.curves is None, "a guesser is right in 1 of 16: pass@1 over 0.05"
    assert "no chance rate given" in plain.verdicts[0].verdict.budget
    assert "no chance rate given" not in comparison.verdicts[0].verdict.budget
    assert comparison.to_json()["variants"][0]["chance"][0] == {"k": 1, "pass": 0.0625}
