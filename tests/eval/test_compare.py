import json
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from toyruns import SAMPLING, MakeRun, record, trajectory_of

from palestra.envs.errors import PalestraError, UsageError
from palestra.eval.compare import Comparison, compare_runs
from palestra.eval.confirming import confirm
from palestra.eval.stats import bootstrap_difference, bootstrap_mean, pass_at_k
from palestra.eval.store import RunStore, read_samples
from palestra.eval.tables import print_comparison

BASE = [0, 1, 2, 4, 8, 16, 0, 0, 3, 5, 16, 1, 0, 2, 7, 0, 9, 4, 1, 0, 6, 2]
SFT = [min(16, c + 2) for c in BASE]
RL = [min(16, 2 * c) for c in BASE]


def refused(runs: list[str | Path], kind: type[PalestraError] = UsageError) -> str:
    with pytest.raises(kind) as caught:
        compare_runs(runs)
    return str(caught.value)


def printed(comparison: Comparison) -> str:
    text = StringIO()
    print_comparison(comparison, Console(file=text, width=200))
    return text.getvalue()


@pytest.fixture
def three(make_run: MakeRun) -> list[str | Path]:
    """Base, SFT and RL runs of two variants of 22 problems."""
    return [
        make_run(label, {"test": counts, "harder": [c // 2 for c in counts]})
        for label, counts in (("base", BASE), ("sft", SFT), ("rl", RL))
    ]


def test_pass_at_k_is_that_of_the_stored_samples(three: list[str | Path]) -> None:
    comparison = compare_runs(three, resamples=50)
    assert (comparison.n, comparison.ks, comparison.solid_k) == (16, (1, 2, 4, 8, 16), 8)
    for variant in comparison.variants:
        for path, run in zip(three, variant.runs, strict=True):
            stored = [s for s in read_samples(path) if s.variant == variant.name]
            counts = [int(sum(s.outcome for s in stored if s.problem == p)) for p in variant.problems]
            assert run.successes.tolist() == counts
            for k in comparison.ks:
                assert run.at(k).estimate == pytest.approx(np.mean(pass_at_k(16, counts, k)))


def test_intervals_are_those_of_the_statistics(three: list[str | Path]) -> None:
    comparison = compare_runs(three, resamples=300, seed=5)
    test = comparison.variants[0]
    base, rl = pass_at_k(16, BASE, 4), pass_at_k(16, RL, 4)
    assert test.runs[0].at(4) == pytest.approx(bootstrap_mean(base, resamples=300, seed=5))
    assert test.differences[1].at(4) == pytest.approx(bootstrap_difference(rl, base, resamples=300, seed=5))


def test_every_run_is_compared_with_the_first_and_the_last_with_those_between(
    make_run: MakeRun,
) -> None:
    runs: list[str | Path] = [make_run(label, {"test": BASE}) for label in ("base", "a", "b", "rl")]
    labels = [d.label for d in compare_runs(runs, resamples=20).variants[0].differences]
    assert labels == ["a - base", "b - base", "rl - base", "rl - a", "rl - b"]


def test_test_is_in_distribution_and_every_other_variant_out_of_it(make_run: MakeRun) -> None:
    run = make_run("base", {"more": BASE, "train": BASE, "test": BASE})
    kinds = {v.name: v.distribution for v in compare_runs([run], resamples=20).variants}
    assert kinds == {
        "test": "in-distribution",
        "more": "out-of-distribution",
        "train": "training problems",
    }
    assert next(iter(kinds)) == "test"


def test_planted_gain_is_found_and_its_absence_is_not(make_run: MakeRun) -> None:
    rng = np.random.default_rng(0)
    p = rng.beta(0.6, 2.0, 120)
    runs = [
        make_run(label, {"test": rng.binomial(16, chance).tolist()})
        for label, chance in (("base", p), ("again", p), ("rl", np.sqrt(p)))
    ]
    same, gain, _ = compare_runs(runs).variants[0].differences
    truth = np.sqrt(p).mean() - p.mean()
    for k in (1, 4):
        assert gain.excludes_zero(k)
        assert gain.band_excludes_zero(k)
        assert not same.band_excludes_zero(k)
    assert gain.band_at(1).low < truth < gain.band_at(1).high


def test_swapping_two_runs_negates_the_difference(three: list[str | Path]) -> None:
    forward = compare_runs([three[0], three[2]], resamples=64).variants[0].differences[0]
    backward = compare_runs([three[2], three[0]], resamples=64).variants[0].differences[0]
    for k in (1, 4, 16):
        f, b = forward.at(k), backward.at(k)
        assert (b.estimate, b.low, b.high) == pytest.approx((-f.estimate, -f.high, -f.low))


def test_same_runs_and_seed_give_the_same_result(three: list[str | Path]) -> None:
    first, second, other = (compare_runs(three, resamples=64, seed=seed).to_json() for seed in (1, 1, 2))
    assert json.dumps(first) == json.dumps(second)
    assert first["variants"][0]["runs"] != other["variants"][0]["runs"]


def test_result_does_not_depend_on_the_order_of_lines(three: list[str | Path]) -> None:
    before = compare_runs(three, resamples=64).to_json()
    for path in three:
        file = Path(path) / "samples.jsonl"
        lines = file.read_bytes().splitlines(keepends=True)
        np.random.default_rng(0).shuffle(lines)
        file.write_bytes(b"".join(lines))
    assert compare_runs(three, resamples=64).to_json() == before


def test_json_holds_points_and_curves(three: list[str | Path]) -> None:
    comparison = compare_runs(three, resamples=64)
    data = json.loads(json.dumps(comparison.to_json()))
    difference = data["variants"][0]["differences"][1]
    assert difference["label"] == "rl - base"
    assert [point["k"] for point in difference["points"]] == [1, 2, 4, 8, 16]
    assert [point["solid"] for point in difference["points"]] == [True, True, True, True, False]
    point = difference["points"][2]
    assert point["excludes_zero"] == (point["low"] > 0 or point["high"] < 0)
    assert difference["curve"]["estimate"][3] == point["estimate"]
    assert len(difference["curve"]["band_low"]) == 16
    assert data["runs"][0]["manifest"]["sampling"] == SAMPLING


def test_fewest_samples_of_any_run_bound_k(make_run: MakeRun) -> None:
    base, rl = make_run("base", {"test": [8, 2] * 12}, 8), make_run("rl", {"test": [4, 0] * 12}, 4)
    comparison = compare_runs([base, rl], resamples=20)
    assert (comparison.n, comparison.ks) == (4, (1, 2, 4))
    assert "base has 8 samples of every problem; the first 4 are used" in comparison.notes[0]
    first = [s for s in read_samples(base) if s.sample < 4]
    counts = [int(sum(s.outcome for s in first if s.problem == p)) for p in range(24)]
    assert comparison.variants[0].runs[0].successes.tolist() == counts


def test_unfinished_run_counts_up_to_the_first_gap_and_is_noted(make_run: MakeRun) -> None:
    run = make_run("base", {"test": [4] * 20}, 4, finish=False)
    with RunStore.open(run) as store:
        for sample in (4, 6):
            for problem in range(20):
                line = record(problem=problem, sample=sample)
                store.append(line, trajectory_of(line))
    comparison = compare_runs([run], resamples=20)
    assert comparison.n == 5
    assert comparison.notes == ("base is not finished: every problem has 5 samples so far.",)


def test_policies_without_a_model_have_no_sampling_to_agree_in(make_run: MakeRun) -> None:
    base = make_run("base", {"test": [1] * 20}, 4)
    guesser = {"model": {"name": "random"}, "sampling": {"temperature": 1.0, "max_new_tokens": 64}}
    assert compare_runs([base, make_run("random", {"test": [0] * 20}, 4, manifest=guesser)], resamples=20).n == 4
    other = make_run("other", {"test": [0] * 20}, 4, manifest={**guesser, "model": {"name": "m"}})
    with pytest.raises(UsageError, match="sampling.max_new_tokens is 256 in base and 64 in other"):
        compare_runs([base, other])


def test_lost_problems_are_warned_of_before_all_else(make_run: MakeRun) -> None:
    asked = {"variants": {"test": {"problems": 20, "samples": 4}}}
    run = make_run("run", {"test": [1] * 20}, 4, manifest=asked)
    assert not compare_runs([run], resamples=20).warnings
    lines = (run / "samples.jsonl").read_bytes().splitlines(keepends=True)
    (run / "samples.jsonl").write_bytes(b"".join(lines[:-4]))
    found = compare_runs([run], resamples=20)
    assert found.warnings == ("run holds 19 of the 20 problems of test that it was asked for.",)
    assert found.warnings[0] in found.notes


def test_what_palestra_scored_again_itself_is_no_difference(make_run: MakeRun) -> None:
    made = {"palestra": "0.2"}
    runs = [make_run("a", {"test": [1] * 20}, 4, manifest=made)]
    runs.append(make_run("b", {"test": [1] * 20}, 4, manifest={**made, "rescored": {"from": "a", "palestra": "0.2"}}))
    assert not compare_runs(runs, resamples=20).notes


def test_equal_curves_do_not_cross_and_need_no_problems(make_run: MakeRun) -> None:
    base = make_run("base", {"test": [10, 4, 2, 1, 0] * 4}, 16)
    trained = make_run("trained", {"test": [1, 0, 10, 2, 4] * 4}, 16)
    [found] = compare_runs([base, trained]).verdicts
    assert found.verdict.curves is not None
    assert found.verdict.curves.crossover.estimate == 0.0
    assert not [need for need in found.verdict.needs if "0000000" in need]


def test_few_problems_and_what_runs_were_made_with_are_noted(make_run: MakeRun) -> None:
    a = make_run("a", {"test": [1, 2]}, 4, manifest={"palestra": "0.1", "sandbox": "local"})
    again = {"rescored": {"from": "a", "palestra": "0.2"}}
    b = make_run("b", {"test": [1, 2]}, 4, manifest={"palestra": "0.1", "engine": "vllm", **again})
    few, scored, engine = compare_runs([a, b], resamples=20).notes
    assert few.startswith("test has 2 problems: intervals")
    assert scored.startswith("the version of palestra is 0.1 in a and 0.1 (scored by 0.2) in b: their difference")
    assert engine.startswith("the engine is transformers in a and vllm in b")


def test_a_finished_run_that_has_lost_samples_is_noted(make_run: MakeRun) -> None:
    run = make_run("run", {"test": [1] * 20}, 4, manifest={"samples": 4})
    assert not compare_runs([run], resamples=20).notes
    lines = (run / "samples.jsonl").read_bytes().splitlines(keepends=True)
    (run / "samples.jsonl").write_bytes(b"".join(lines[:-1]))
    assert "run has lost samples: it was finished with 4 of every problem and has 3" in compare_runs([run]).notes[0]


def test_repeated_problems_and_few_guesses_are_noted(make_run: MakeRun) -> None:
    run = make_run("run", {"test": [1] * 20}, 4, fields={"key": "the same"})
    told = {"model": {"name": "random"}}
    guesses = make_run("guesses", {"test": [0] * 20}, 1, manifest=told, fields={"key": "the same"})
    again, few = compare_runs([run], chance=guesses, resamples=20).notes
    assert again.startswith("test holds 19 of its 20 problems again: intervals")
    assert few.startswith("guesses has 1 guesses at each problem: one that guessing solves 95% of the time")


def test_copies_are_no_samples(make_run: MakeRun) -> None:
    greedy = {"sampling": {**SAMPLING, "temperature": 0.0}}
    base = make_run("base", {"test": [0] * 30}, 60, manifest=greedy)
    rl = make_run("rl", {"test": [30] * 15 + [0] * 15}, 30, manifest=greedy)
    comparison = compare_runs([base, rl], resamples=20)
    assert (comparison.n, comparison.verdicts) == (1, ())
    assert comparison.variants[0].differences[0].at(1).estimate == pytest.approx(0.5)
    assert "copies" in comparison.notes[0]
    with pytest.raises(UsageError, match="fresh samples are copies"):
        list(confirm(base, rl))


def test_runs_can_be_named(three: list[str | Path]) -> None:
    comparison = compare_runs([f"before={three[0]}", f"after={three[2]}"], resamples=20)
    assert [run.label for run in comparison.runs] == ["before", "after"]


def test_two_runs_of_one_label_are_refused(three: list[str | Path]) -> None:
    assert (
        refused([three[0], three[0]]) == 'two runs are labelled "base"; give each a label of its own with LABEL=PATH.'
    )


def test_chosen_variants_only(three: list[str | Path]) -> None:
    comparison = compare_runs(three, variants=["harder"], resamples=20)
    assert [variant.name for variant in comparison.variants] == ["harder"]
    with pytest.raises(UsageError, match="unknown variant of run base 'hardr'; did you mean 'harder'"):
        compare_runs(three, variants=["hardr"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"manifest": {"sampling": {**SAMPLING, "temperature": 0.7}}},
            "sampling.temperature is 1.0 in base and 0.7 in rl; evaluate both with the same settings.",
        ),
        (
            {"fields": {"env": "palestra/Other-v0"}},
            "base is a run of palestra/Toy-v0 and rl of palestra/Other-v0; compare one environment.",
        ),
        (
            {"fields": {"key": "other"}},
            "problem 0 of test is another task in base (key test-0) than in rl (key other); evaluate both "
            "with the same version of the environment.",
        ),
        ({"manifest": {"sampling": None}}, 'does not state its "sampling" settings; evaluate it again.'),
    ],
)
def test_runs_that_differ_are_refused_by_name(make_run: MakeRun, change: Any, message: str) -> None:
    base = make_run("base", {"test": [1, 2]}, 4)
    rl = make_run("rl", {"test": [1, 2]}, 4, **change)
    assert message in refused([base, rl])


def test_other_problems_or_variants_are_refused_by_name(make_run: MakeRun) -> None:
    base = make_run("base", {"test": [1, 2, 3]}, 4)
    fewer = make_run("fewer", {"test": [1, 2]}, 4)
    more = make_run("more", {"test": [1, 2, 3], "harder": [1]}, 4)
    message = "problem 2 of test is in base and not in fewer; evaluate both on the same problems."
    assert refused([base, fewer]) == message
    assert "problem 2 of test is in base and not in fewer" in refused([fewer, base])
    assert "(harder is in one only)" in refused([base, more])


def test_infrastructure_errors_are_listed_and_refused(make_run: MakeRun) -> None:
    run = make_run("base", {"test": [1, 2]}, 4)
    with RunStore.open(run) as store:
        for sample in range(4, 9):
            line = record(sample=sample, error="the sandbox died")
            store.append(line, trajectory_of(line))
    message = refused([run], PalestraError)
    assert "has 5 samples that ended in an infrastructure error" in message
    assert "sample 4 of problem 0 (test): the sandbox died" in message
    assert message.endswith("; ...); resume the run to draw them again.")


def test_empty_run_and_no_run_are_refused(tmp_path: Path) -> None:
    RunStore.create(tmp_path / "run", {"env": "e", "sampling": {}}).close()
    assert "holds no samples yet" in refused([tmp_path / "run"])
    assert "give at least one run" in refused([])
    assert "is not a run" in refused([tmp_path / "none"])


def test_problem_without_a_first_sample_is_refused(tmp_path: Path) -> None:
    with RunStore.create(tmp_path / "run", {"env": "e", "sampling": {}}) as store:
        store.append(record(sample=1), trajectory_of(record(sample=1)))
    assert "run has problems without a first sample" in refused([tmp_path / "run"])


def test_one_task_per_problem(tmp_path: Path) -> None:
    with RunStore.create(tmp_path / "run", {"env": "e", "sampling": {}}) as store:
        for sample, key in enumerate("ab"):
            line = record(sample=sample, key=key)
            store.append(line, trajectory_of(line))
    assert "two different tasks as problem 0 of test" in refused([tmp_path / "run"], PalestraError)


def test_table_shows_the_numbers_with_marks_and_the_estimand(three: list[str | Path]) -> None:
    comparison = compare_runs(three, resamples=400)
    text = printed(comparison)
    test = comparison.variants[0]
    for curve in (*test.runs, *test.differences):
        assert curve.label in text
    base = test.runs[0].at(4)
    assert f"{100 * base.estimate:.1f}" in text
    assert f"{100 * base.low:.1f} to {100 * base.high:.1f}" in text
    gain = test.differences[1]
    assert gain.band_excludes_zero(1)
    assert f"{100 * gain.at(1).estimate:+.1f} **" in text
    assert "new problems of the same generator" in text
    assert "test m=22, harder m=22" in text
    assert "n=16 samples" in text
    assert "One training seed per run: intervals cover problems, not training." in text
    assert "ID, m=22" in text
    assert "OOD, m=22" in text


def test_table_rows_are_the_few_solid_k(three: list[str | Path]) -> None:
    assert compare_runs(three, resamples=20).shown_ks == (1, 4, 8)


def test_one_sample_per_problem_still_compares(make_run: MakeRun) -> None:
    runs: list[str | Path] = [make_run(label, {"test": [0, 1] * 12}, 1) for label in ("base", "rl")]
    comparison = compare_runs(runs, resamples=20)
    assert (comparison.n, comparison.solid_k, comparison.shown_ks) == (1, 0, (1,))
    assert "nothing but pass@1 can be estimated" in printed(comparison)


def test_labels_are_not_read_as_markup(make_run: MakeRun) -> None:
    runs: list[str | Path] = [f"[red]x={make_run('base', {'test': [1] * 20}, 4)}"]
    assert "[red]x" in printed(compare_runs(runs, resamples=20))


def test_comparing_loads_neither_torch_nor_scipy() -> None:
    code = (
        "import sys; import palestra.eval.compare, palestra.eval.tables; "
        "print(sorted({'torch', 'transformers', 'scipy', 'jinja2'} & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output == "[]\n"
