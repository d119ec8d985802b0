"""Scoring stored episodes again, with a grader that has changed or not."""

import json
from pathlib import Path

import pytest

from palestra.envs.core import Reward, Task
from palestra.envs.errors import PalestraError, UsageError
from palestra.envs.registry import spec
from palestra.eval.rescore import Rescored, rescore
from palestra.eval.run import evaluate
from palestra.eval.settings import EvalSettings
from palestra.eval.store import RunStore, read_manifest, read_rows, read_samples, read_trajectory

STRINGS = "palestra/StringCompose-v0"


def run_of(out: Path, model: str, env: str = STRINGS, samples: int = 3) -> Path:
    evaluate(EvalSettings(model=model, env=env, out=out, problems=4, samples=samples))
    return out


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grader that accepts every answer that has the right length."""

    def grade(self: object, task: Task, answer: str) -> Reward:
        return Reward(float(len(answer) == len(task.answer)))

    monkeypatch.setattr(spec(STRINGS).cls, "grade", grade)


@pytest.mark.parametrize("model", ["random", "oracle"])
@pytest.mark.parametrize("env", [STRINGS, "palestra/Navigation-v0"])
def test_an_unchanged_grader_changes_nothing(tmp_path: Path, model: str, env: str) -> None:
    run = run_of(tmp_path / "run", model, env)
    assert rescore(run, tmp_path / "new") == Rescored(12, 0, 0, 0)
    assert read_rows(tmp_path / "new") == read_rows(run)
    manifest = read_manifest(tmp_path / "new")
    assert manifest.pop("rescored")["from"] == str(run)
    assert manifest == read_manifest(run)


def test_a_changed_grader_counts_in_outcomes_alone(tmp_path: Path, lenient: None) -> None:
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as strict:
        strict.setattr(spec(STRINGS).cls, "grade", lambda self, task, answer: Reward(float(answer == task.answer)))
        run_of(run, "random")
    found = rescore(run, tmp_path / "new")
    old, new = read_samples(run), read_samples(tmp_path / "new")
    assert {s.outcome for s in old} == {0.0}
    assert {s.outcome for s in new} == {1.0}, "a guess has the right length"
    assert (found.samples, found.gained, found.lost) == (12, 12, 0)
    assert [(s.id, s.seed, s.key, s.answer) for s in old] == [(s.id, s.seed, s.key, s.answer) for s in new]
    assert all(read_trajectory(tmp_path / "new", s.part, s.offset)["outcome"] == 1.0 for s in new)


def test_a_task_that_has_changed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(tmp_path / "run", "oracle")
    monkeypatch.setattr(spec(STRINGS).cls, "level", 3)
    monkeypatch.setattr(spec(STRINGS).cls, "_recent", type(spec(STRINGS).cls._recent)(1))
    with pytest.raises(PalestraError, match="of test is another task now"):
        rescore(run, tmp_path / "new")


def test_an_episode_that_would_go_on_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(tmp_path / "run", "random")
    monkeypatch.setattr(spec(STRINGS).cls, "attempts", 2)
    monkeypatch.setattr(spec(STRINGS).cls, "max_turns", 2)
    with pytest.raises(PalestraError, match="would go on now"):
        rescore(run, tmp_path / "new")


def test_what_was_not_scored_stays_as_it_was(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", "oracle")
    lines = (run / "samples.jsonl").read_bytes().splitlines(keepends=True)
    broken = json.loads(lines[-1])
    del broken["crc"]
    lines[-1] = json.dumps({**broken, "error": "the sandbox died", "outcome": 0.0, "stop": "error"}).encode() + b"\n"
    (run / "samples.jsonl").write_bytes(b"".join(lines))
    rescore(run, tmp_path / "new")
    with RunStore.open(tmp_path / "new") as store:
        assert len(store.done()) == 11


def test_an_existing_run_is_not_overwritten(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", "oracle")
    with pytest.raises(UsageError, match="already holds a run"):
        rescore(run, run)
