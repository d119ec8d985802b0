"""Runs as other tools read them; each test runs where the other tool is installed."""

import importlib
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from toyruns import MakeRun, trajectory_of

from palestra.envs.errors import UsageError
from palestra.eval.compare import compare_runs
from palestra.eval.export import to_inspect, to_parquet
from palestra.eval.store import read_rows, read_samples


def installed(name: str) -> Any:
    """Import a package that may be missing, but not where CI has put it."""
    if os.environ.get("PALESTRA_REQUIRE_INTEROP") == "runs":
        return importlib.import_module(name)
    return pytest.importorskip(name)


COUNTS = {"test": [0, 1, 3], "harder": [2, 0]}


@pytest.fixture
def run(make_run: MakeRun) -> Path:
    def tools(sample: Any) -> dict[str, Any]:
        messages = [
            {"role": "user", "content": f"What is it? {sample.problem} \ud800"},
            {"role": "assistant", "content": "<tool_call>{}</tool_call>"},
            {"role": "tool", "content": "7"},
            {"role": "assistant", "content": f"<answer>{sample.sample}</answer>"},
        ]
        return {**trajectory_of(sample), "messages": messages}

    return make_run("run", COUNTS, 4, fields={"seed": 2**64 - 1}, trajectory=tools)


def test_a_parquet_table_has_a_row_per_sample(run: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    assert to_parquet(run, tmp_path / "x.parquet") == 20
    table = pq.read_table(tmp_path / "x.parquet")
    rows = read_rows(run)
    assert table.column("outcome").to_pylist() == [row["outcome"] for row in rows]
    assert table.column("process_format").to_pylist() == [1.0] * 20
    assert table.column("seed").to_pylist() == [2**64 - 1] * 20
    assert to_parquet(run, tmp_path / "new" / "folder" / "x.parquet") == 20
    with pytest.raises(UsageError, match="cannot write .*; choose another file"):
        to_parquet(run, tmp_path / "x.parquet" / "y.parquet")
    with pytest.raises(UsageError, match="cannot write .*; choose another file"):
        to_parquet(run, tmp_path)


def test_a_lone_surrogate_in_a_name_is_replaced_in_a_parquet_table(make_run: MakeRun, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    odd = make_run("odd", {"test": [1]}, 2, fields={"key": "q\ud800"})
    assert to_parquet(odd, tmp_path / "x.parquet") == 2
    assert pq.read_table(tmp_path / "x.parquet").column("key").to_pylist() == ["q?"] * 2


@pytest.mark.filterwarnings("ignore")
def test_inspect_reads_its_log_back(run: Path, tmp_path: Path) -> None:
    log: Any = installed("inspect_ai.log")
    assert to_inspect(run, tmp_path / "run.eval") == 20
    read = log.read_eval_log(str(tmp_path / "run.eval"))
    assert (read.status, read.eval.task, read.eval.model, read.eval.config.epochs) == (
        "success",
        "palestra/Toy-v0",
        "run",
        4,
    )
    assert read.eval.dataset.sample_ids == ["harder-0", "harder-1", "test-0", "test-1", "test-2"]
    samples = {(s.id, s.epoch): s for s in read.samples}
    assert len(samples) == 20
    for ours in read_samples(run):
        theirs = samples[f"{ours.variant}-{ours.problem}", ours.sample + 1]
        assert theirs.scores["outcome"].value == ours.outcome
        assert [m.role for m in theirs.messages] == ["user", "assistant", "tool", "assistant"]
        assert theirs.messages[3].text == f"<answer>{ours.sample}</answer>"
    assert read.results.scores[0].metrics["mean"].value == pytest.approx(6 / 20)
    header = log.read_eval_log(str(tmp_path / "run.eval"), header_only=True)
    assert header.eval.metadata["env"] == "palestra/Toy-v0"
    dumped = subprocess.run(
        [str(Path(sys.executable).parent / "inspect"), "log", "dump", str(tmp_path / "run.eval")],
        capture_output=True,
        check=True,
    )
    assert b'"test-2"' in dumped.stdout


def test_inspect_is_asked_for_where_it_is_missing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "inspect_ai.log", None)
    with pytest.raises(Exception, match=r"pip install 'palestra\[inspect\]'") as raised:
        to_inspect(run, tmp_path / "run.eval")
    assert getattr(raised.value, "exit_code", None) == 5


@pytest.mark.filterwarnings("ignore")
def test_trackio_holds_the_curves(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed("trackio")
    code = f"from palestra.eval.export import to_trackio; print(to_trackio({str(run)!r}, 'toy'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TRACKIO_DIR": str(tmp_path)},
    )
    assert done.stdout.strip().splitlines()[-1] == "8"
    (database,) = tmp_path.glob("toy.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("select step, metrics from metrics order by step").fetchall()
    assert [step for step, _ in rows] == [1, 2, 3, 4]
    curve = next(v for v in compare_runs([run], resamples=20).variants if v.name == "test").runs[0]
    for k, metrics in rows:
        assert json.loads(metrics)["test/pass@k"] == pytest.approx(curve.at(k).estimate)
