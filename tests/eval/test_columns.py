"""Columns are what the lines say, whichever way they are read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toyruns import MakeRun, record, trajectory_of

from palestra.envs.errors import PalestraError
from palestra.eval import columns
from palestra.eval.columns import Columns, read_columns
from palestra.eval.store import RunStore

COUNTS = {"test": [0, 3, 8], "harder": [1, 2]}


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "FAST_FROM", 0)
    monkeypatch.setattr(columns, "_BLOCK", 3000)  # several blocks, with other names in each


def both(run: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Columns, Columns]:
    quick = columns._fast(run / "samples.jsonl")
    assert quick is not None
    with monkeypatch.context() as patch:
        patch.setattr(columns, "FAST_FROM", 2**60)
        return quick, read_columns(run)


def named(found: Columns) -> list[tuple[Any, ...]]:
    names = zip(found.variant, found.problem, found.sample, found.outcome, found.key, strict=True)
    return [(found.variants[v], int(p), int(s), int(o), found.keys[k]) for v, p, s, o, k in names]


@pytest.mark.usefixtures("fast")
def test_both_ways_agree(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run("run", COUNTS, 8)
    with RunStore.open(run) as store:
        broken = record(problem=7, key='quoted " \\ \n 日 \u2028', error="the sandbox died")
        store.append(broken, trajectory_of(broken))
    quick, slow = both(run, monkeypatch)
    assert named(quick) == named(slow)
    assert len(named(quick)) == 41
    assert quick.env == slow.env == "palestra/Toy-v0"
    assert quick.broken == slow.broken == [(("test", 7, 0), "the sandbox died")]


@pytest.mark.usefixtures("fast")
def test_a_line_that_is_still_being_written_is_left_out(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run("run", COUNTS, 8)
    with (run / "samples.jsonl").open("ab") as file:
        file.write(b'{"env":"pal')
    quick, slow = both(run, monkeypatch)
    assert len(named(quick)) == len(named(slow)) == 40


@pytest.mark.usefixtures("fast")
def test_a_sample_drawn_again_counts_once(make_run: MakeRun) -> None:
    run = make_run("run", COUNTS, 8)
    with RunStore.open(run) as store:
        for again in (record(problem=9, error="it died"), record(problem=9, outcome=1.0)):
            store.append(again, trajectory_of(again))
    assert columns._fast(run / "samples.jsonl") is None
    found = read_columns(run)
    assert found.outcome[found.problem == 9].tolist() == [1]
    assert found.broken == []


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((b'"outcome":1.0', b'"outcome":0.0'), r"line \d+ is not what was written"),
        ((b'"sample":3', b'"sample":x'), r"line \d+ is not what was written"),
        ((b'"v":1', b'"v":2'), r"line \d+ is not what was written"),
    ],
)
def test_a_damaged_line_is_named(make_run: MakeRun, change: tuple[bytes, bytes], message: str) -> None:
    run = make_run("run", COUNTS, 8)
    file = run / "samples.jsonl"
    file.write_bytes(file.read_bytes().replace(*change, 1))
    with pytest.raises(PalestraError, match=message):
        read_columns(run)


@pytest.mark.usefixtures("fast")
def test_no_samples_are_no_columns(tmp_path: Path) -> None:
    assert len(read_columns(tmp_path).problem) == 0
    (tmp_path / "samples.jsonl").write_bytes(b"")
    assert np.size(read_columns(tmp_path).outcome) == 0
