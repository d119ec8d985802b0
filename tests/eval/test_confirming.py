"""Fresh samples are drawn of the candidates alone, and as many as it takes."""

import random
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from palestra.agents.policies import RandomPolicy
from palestra.envs.core import TextEnv
from palestra.envs.errors import UsageError
from palestra.envs.registry import make
from palestra.eval import episodes
from palestra.eval.compare import compare_runs
from palestra.eval.confirming import Confirmation, confirm
from palestra.eval.importing import import_scores
from palestra.eval.run import evaluate
from palestra.eval.settings import EvalSettings
from palestra.eval.stats.discovery import samples_needed
from palestra.eval.store import RunStore, read_manifest, read_samples

ENV = "palestra/StringCompose-v0"


@cache
def hard_keys() -> set[str]:
    env = make(ENV, "test")
    return {env.task_at(index).key for index in env.distinct_indices(12)[:2]}


class Weak(RandomPolicy):
    """Right on every problem but two, on which it has no chance."""

    def act(self, env: TextEnv, observation: str) -> str:
        assert env.task is not None
        answer = "none" if env.task.key in hard_keys() else env.task.answer
        return f"<answer>{answer}</answer>"


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A model that cannot solve two of twelve problems, and the oracle."""
    monkeypatch.setattr(episodes, "RandomPolicy", Weak)
    found = []
    for seed, model in enumerate(("random", "oracle")):
        settings = EvalSettings(model=model, env=ENV, out=tmp_path / model, problems=12, samples=12, seed=seed)
        found.append(evaluate(settings).path)
    return found


def test_the_candidates_alone_are_drawn_and_the_discovery_confirmed(runs: list[Path]) -> None:
    before = compare_runs(runs, resamples=100).verdicts[0]
    assert "DISCOVER" not in before.title
    assert any(need.startswith("DISCOVER") for need in before.verdict.needs)
    fresh = samples_needed(256, 0.5, 0.05 / 2)
    assert list(confirm(*runs)) == [Confirmation("random", "test", 2, fresh), Confirmation("oracle", "test", 0, 0)]
    drawn = Counter(s.problem for s in read_samples(runs[0]))
    assert sorted(drawn.values()) == [12] * 10 + [12 + fresh] * 2
    assert read_manifest(runs[0])["samples"] == 12, "what was asked of all problems"
    after = compare_runs(runs, resamples=100)
    assert after.n == 12
    assert "DISCOVER" in after.verdicts[0].title
    assert after.verdicts[0].verdict.discovered.confirmed.sum() == 2


def test_confirming_again_draws_nothing(runs: list[Path]) -> None:
    list(confirm(*runs))
    lines = (runs[0] / "samples.jsonl").read_bytes()
    list(confirm(*runs))
    assert (runs[0] / "samples.jsonl").read_bytes() == lines


def test_of_an_imported_run_nothing_can_be_drawn(tmp_path: Path) -> None:
    rng = random.Random(0)
    runs = []
    for label, p in (("base", 0.0), ("rl", 1.0)):
        rows: list[Any] = [
            f'{{"idx": {i}, "score": [{", ".join(["true" if rng.random() < p else "false"] * 16)}]}}' for i in range(5)
        ]
        (tmp_path / f"{label}.jsonl").write_text("\n".join(rows), encoding="utf-8")
        import_scores([tmp_path / f"{label}.jsonl"], tmp_path / label, name="x", model=label)
        runs.append(tmp_path / label)
    with pytest.raises(UsageError, match="was imported: nothing more can be sampled"):
        list(confirm(*runs))


def test_a_run_that_was_interrupted_is_not_finished_by_a_confirmation(runs: list[Path]) -> None:
    with RunStore.open(runs[0]) as store:
        store.update_manifest(status="running", variants={"test": {"problems": 12, "samples": 5000}})
    list(confirm(*runs))
    assert read_manifest(runs[0])["status"] == "running"
    with RunStore.open(runs[0]) as store:
        store.update_manifest(status="running", variants={"test": {"problems": 12, "samples": 12}})
    evaluate(
        EvalSettings(model="random", env=ENV, out=runs[0], problems=12, samples=12, seed=0), only={("test", 0, 0)}
    )
    assert read_manifest(runs[0])["status"] == "done"
