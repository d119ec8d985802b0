"""Verdicts on runs: what reaches the reader, what confirms a discovery, and the gate for CI."""

import json
import re
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from toyruns import MakeRun

from palestra.envs.errors import PalestraError, UsageError
from palestra.eval.compare import EVERY_K, compare_runs
from palestra.eval.comparison import Comparison
from palestra.eval.report import render_report
from palestra.eval.stats.passk import pass_at_k
from palestra.eval.stats.verdict import Label
from palestra.eval.tables import print_comparison
from palestra.eval.verdicts import MEANINGS, Requirement, RunVerdict

BASE = [0, 1, 2, 4, 8, 16, 0, 0, 3, 5, 16, 1, 0, 2, 7, 0, 9, 4, 1, 0, 6, 2]
RL = [min(16, 2 * c) for c in BASE]


def printed(comparison: Comparison, width: int = 1000) -> str:
    text = StringIO()
    print_comparison(comparison, Console(file=text, width=width))
    return text.getvalue()


@pytest.fixture
def runs(make_run: MakeRun) -> list[str | Path]:
    """A base and an RL run of two variants, of different seeds."""
    counts = {"base": BASE, "rl": RL}
    return [
        make_run(label, {"test": counts[label], "harder": BASE}, manifest={"seed": seed})
        for seed, label in enumerate(counts)
    ]


def test_every_run_but_the_first_is_judged_on_every_variant(make_run: MakeRun) -> None:
    labels = ("base", "sft", "rl")
    made: list[str | Path] = [make_run(label, {"test": [2] * 4, "harder": [1] * 4}, 4) for label in labels]
    comparison = compare_runs(made, resamples=50)
    found = [(v.variant, v.run, v.base) for v in comparison.verdicts]
    assert found == [(variant, run, "base") for variant in ("test", "harder") for run in ("sft", "rl")]


def test_a_run_against_itself_has_no_effect(make_run: MakeRun) -> None:
    counts = [0, 1, 2, 3, 4] * 24
    made: list[str | Path] = [make_run(label, {"test": counts}, 4) for label in ("base", "again")]
    assert compare_runs(made, resamples=200).verdicts[0].verdict.labels == (Label.NO_EFFECT,)


def test_later_samples_of_the_base_confirm_a_discovery(make_run: MakeRun) -> None:
    base = make_run("base", {"test": [0] * 3 + [1300]}, 1300)
    rl = make_run("rl", {"test": [16] * 4}, 16)
    found = compare_runs([base, rl], resamples=50).verdicts[0].verdict
    assert Label.DISCOVER in found.labels
    assert found.discovered.confirmed.tolist() == [True, True, True, False]
    assert "3 of 3 candidates confirmed" in found.reasons[Label.DISCOVER]
    assert not any(need.startswith("DISCOVER") for need in found.needs)


def test_candidates_of_which_none_is_confirmed_are_named(make_run: MakeRun) -> None:
    base = make_run("base", {"test": [0] * 3 + [1300]}, 1300)
    late = make_run("late", {"test": [0] * 4}, 16)
    rl = make_run("rl", {"test": [16] * 4}, 16)
    assert "not DISCOVER" not in printed(compare_runs([base, rl], resamples=50))
    assert "not DISCOVER: 4 candidates for base pass@256" in printed(compare_runs([late, rl], resamples=50))


def test_without_later_samples_nothing_is_discovered_and_the_need_is_named(make_run: MakeRun) -> None:
    base = make_run("base", {"test": [0] * 40}, 16)
    rl = make_run("rl", {"test": [16] * 40}, 16)
    comparison = compare_runs([base, rl], resamples=50)
    found = comparison.verdicts[0].verdict
    assert found.labels == (Label.NOT_DECIDED,)
    assert "40 candidates" in found.reasons[Label.DISCOVER]
    assert "there are no fresh samples" in found.reasons[Label.DISCOVER]
    assert found.needs == ("DISCOVER: 2469 fresh samples of the base on each candidate instead of 0",)
    assert "compare with `--samples 16`" in comparison.verdict_note


def test_samples_can_be_kept_for_confirmation(make_run: MakeRun) -> None:
    made: list[str | Path] = [
        make_run(label, {"test": [count] * 3}, 1200) for label, count in (("base", 0), ("rl", 1200))
    ]
    assert compare_runs(made, resamples=20).verdicts[0].verdict.labels == (Label.NOT_DECIDED,)
    comparison = compare_runs(made, samples=64, resamples=20)
    assert comparison.n == 64
    assert comparison.verdicts[0].verdict.labels == (Label.DISCOVER,)
    assert "the first 64 are used, the others only to confirm" in comparison.notes[0]


@pytest.mark.parametrize("samples", [0, -1, 17])
def test_samples_that_are_not_there_are_refused(runs: list[str | Path], samples: int) -> None:
    with pytest.raises(UsageError, match=f"has 16 samples of every problem; compare 1 to 16, not {samples}"):
        compare_runs(runs, samples=samples)


def test_one_sample_allows_no_verdict_and_one_problem_decides_nothing(make_run: MakeRun) -> None:
    made: list[str | Path] = [make_run(label, {"test": [1]}, 2) for label in ("base", "rl")]
    assert compare_runs(made, resamples=20).verdicts[0].verdict.labels == (Label.NOT_DECIDED,)
    comparison = compare_runs(made, samples=1, resamples=20)
    assert comparison.verdicts == ()
    assert "no verdict given" in printed(comparison)


@pytest.mark.parametrize(("seeds", "same"), [((0, 0), True), ((0, 1), False), ((None, None), True)])
def test_runs_of_one_seed_are_not_taken_for_independent(make_run: MakeRun, seeds: Any, same: bool) -> None:
    made: list[str | Path] = [
        make_run(label, {"test": counts}, manifest={} if seed is None else {"seed": seed})
        for label, counts, seed in zip(("base", "rl"), (BASE, BASE), seeds, strict=True)
    ]
    curves = compare_runs(made, resamples=50).verdicts[0].verdict.curves
    assert curves is not None
    # Equal counts of one seed may be equal samples, with no excess; of two seeds they look alike by chance.
    assert (curves.excess.estimate == pytest.approx(0.0, abs=1e-12)) == same


def test_json_holds_the_verdict_and_is_valid(runs: list[str | Path]) -> None:
    comparison = compare_runs(runs, resamples=100)
    data = json.loads(json.dumps(comparison.to_json(), allow_nan=False))
    (row,) = data["variants"][0]["verdicts"]
    found = comparison.verdicts[0].verdict
    assert (row["run"], row["base"], row["labels"]) == ("rl", "base", [label.value for label in found.labels])
    assert row["reasons"]["SHARPEN"] == found.reasons[Label.SHARPEN]
    assert row["budget"] == found.budget
    assert row["needs"] == list(found.needs)
    assert row["curves"]["k_max"] == 8
    assert row["curves"]["delta_1"]["estimate"] == pytest.approx(np.mean(np.subtract(RL, BASE)) / 16, abs=1e-6)
    assert sum(row["problems"].values()) == 22


def test_discoveries_are_named_by_problem(make_run: MakeRun) -> None:
    base, rl = make_run("base", {"test": [4, 0, 4, 0]}, 8), make_run("rl", {"test": [8] * 4}, 8)
    row = compare_runs([base, rl], resamples=20).verdicts[0].to_json()
    assert row["discovered"] == {"candidates": [1, 3], "confirmed": [], "at_least": 0}


def test_table_shows_label_meaning_reason_budget_and_needs(runs: list[str | Path]) -> None:
    comparison = compare_runs(runs, resamples=100)
    text = printed(comparison)
    for found in comparison.verdicts:
        assert f"{found.variant}, rl against base: {found.title} ({found.meaning})" in text
        for part in (*found.why, *found.verdict.needs, found.verdict.budget):
            assert part in text
    assert "Each of 2 verdicts holds at its budget, with 95% confidence by itself." in text
    assert "guessing is taken never to succeed" in text


def test_report_opens_with_the_verdict_and_tables_its_numbers(runs: list[str | Path]) -> None:
    comparison = compare_runs(runs, resamples=100)
    html = render_report(comparison, examples=0)
    found = comparison.verdicts[0]
    chips = "".join(f'<strong class="label {x.lower().replace(" ", "-")}">{x}</strong>' for x in found.verdict.labels)
    assert html.index(chips) < html.index('class="lead"')
    curves = found.verdict.curves
    assert curves is not None
    for interval in (curves.delta.band(0), curves.delta.band(len(curves.ks) - 1), curves.excess):
        assert "<td>{:+.1f} [{:+.1f}, {:+.1f}]</td>".format(*(100 * value for value in interval)) in html
    for reason in found.verdict.reasons.values():
        assert reason.replace("<", "&lt;").replace(">", "&gt;") in html


def test_a_report_of_one_run_has_no_verdict(make_run: MakeRun) -> None:
    html = render_report(compare_runs([make_run("base", {"test": BASE})], resamples=20), examples=0)
    assert "What training did" not in html


def test_every_label_has_a_meaning() -> None:
    assert set(MEANINGS) == set(Label)


# Bands over a grid of k.


def test_many_samples_keep_the_values_at_powers_of_two(make_run: MakeRun) -> None:
    n, counts = 2 * EVERY_K, [0, 1, 5]
    comparison = compare_runs([make_run("base", {"test": counts}, n)], resamples=20)
    curve = comparison.variants[0].runs[0]
    assert len(curve.ks) < n / 3
    assert len(curve.intervals.estimate) == len(curve.ks)
    for k in comparison.ks:
        assert curve.at(k).estimate == pytest.approx(np.mean(pass_at_k(n, counts, k)))
    assert comparison.to_json()["variants"][0]["runs"][0]["curve"]["k"] == curve.ks.tolist()
    assert "</svg>" in render_report(comparison, examples=0)


def test_few_samples_have_every_k(runs: list[str | Path]) -> None:
    assert compare_runs(runs, resamples=20).variants[0].runs[0].ks.tolist() == list(range(1, 17))


# Requirements.


@pytest.fixture
def verdicts(runs: list[str | Path]) -> list[RunVerdict]:
    """One run that sharpens on "test" and does nothing on "harder"."""
    test, harder = compare_runs(runs, resamples=50).verdicts
    return [
        replace(test, verdict=replace(test.verdict, labels=(Label.SHARPEN, Label.LOSE))),
        replace(harder, verdict=replace(harder.verdict, labels=(Label.NO_EFFECT,))),
    ]


@pytest.mark.parametrize(
    "text",
    ["test:SHARPEN", "rl:test:lose", "harder:no-effect", "harder:No_Effect", "rl:harder:NO EFFECT"],
)
def test_a_requirement_that_holds_says_nothing(verdicts: list[RunVerdict], text: str) -> None:
    Requirement.parse(text).check(verdicts)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("SHARPEN", "on harder, rl against base is NO EFFECT"),
        ("test:discover", "on test, rl against base is SHARPEN + LOSE"),
    ],
)
def test_a_requirement_that_fails_names_the_verdict(verdicts: list[RunVerdict], text: str, where: str) -> None:
    with pytest.raises(PalestraError, match=re.escape(f"--require {text} is not met: {where}.")) as caught:
        Requirement.parse(text).check(verdicts)
    assert caught.value.exit_code == 1


def test_a_requirement_of_one_run_leaves_the_others_alone(verdicts: list[RunVerdict]) -> None:
    verdicts.append(replace(verdicts[1], variant="test", run="sft"))
    Requirement.parse("rl:test:SHARPEN").check(verdicts)
    with pytest.raises(PalestraError, match="on test, sft against base is NO EFFECT"):
        Requirement.parse("test:SHARPEN").check(verdicts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tset:SHARPEN", "did you mean 'test'"),
        ("rll:test:SHARPEN", "did you mean 'rl'"),
    ],
)
def test_a_requirement_of_what_is_not_there_is_refused(verdicts: list[RunVerdict], text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Requirement.parse(text).check(verdicts)


def test_unknown_labels_and_missing_verdicts_are_refused(verdicts: list[RunVerdict]) -> None:
    with pytest.raises(UsageError, match="unknown label 'sharpened'; did you mean 'SHARPEN'"):
        Requirement.parse("test:sharpened")
    with pytest.raises(UsageError, match="two runs or more"):
        Requirement.parse("SHARPEN").check([])
