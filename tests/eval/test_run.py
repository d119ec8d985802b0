"""Sampling a run with policies that need no model: what its manifest says about where tools ran code."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_sandbox import ScriptedSandbox

from palestra.envs.core import Reward, Task
from palestra.envs.errors import PalestraError, UsageError
from palestra.envs.sandbox import shared
from palestra.envs.sandbox.shared import default_sandbox, shared_sandbox, use_sandbox
from palestra.envs.tasks.dice import Dice
from palestra.eval import episodes
from palestra.eval.compare import compare_runs
from palestra.eval.episodes import banned_ids
from palestra.eval.run import HOPELESS, evaluate
from palestra.eval.settings import EvalSettings
from palestra.eval.store import read_manifest, read_samples, read_trajectory
from palestra.rl.organisms.tokenizer import character_tokenizer


def settings(out: Path, **changes: object) -> EvalSettings:
    wanted = {"model": "oracle", "env": "palestra/Dice-v0", "samples": 1, "problems": 2, "out": out, **changes}
    return EvalSettings.model_validate(wanted)


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(shared, "open_sandbox", lambda name: ScriptedSandbox())
    monkeypatch.setattr(shared, "Finalize", lambda *_, **__: None)
    monkeypatch.setattr(shared, "_opened", {})
    yield
    use_sandbox("local")


def test_fewer_samples_than_a_finished_run_holds_change_nothing(tmp_path: Path) -> None:
    evaluate(settings(tmp_path, samples=3))
    evaluate(settings(tmp_path, samples=1, problems=1))
    manifest = read_manifest(tmp_path)
    assert (manifest["status"], manifest["variants"]) == ("done", {"test": {"problems": 2, "samples": 3}})
    evaluate(settings(tmp_path, variant=("wording",), samples=1))
    assert read_manifest(tmp_path)["variants"]["wording"] == {"problems": 2, "samples": 1}
    assert not compare_runs([tmp_path], resamples=20).warnings


@pytest.mark.parametrize("left", ["write.lock", "manifest.json.draft"])
def test_a_run_that_died_before_its_manifest_is_begun_again(tmp_path: Path, left: str) -> None:
    (tmp_path / left).write_bytes(b"{")
    evaluate(settings(tmp_path))
    assert read_manifest(tmp_path)["status"] == "done"


def test_an_environment_that_raises_costs_its_episode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grade, broken = Dice.grade, []

    def raising(self: Dice, task: Task, answer: str) -> Reward:
        if not broken:
            broken.append(task.key)
            raise ZeroDivisionError("no sides")
        return grade(self, task, answer)

    monkeypatch.setattr(Dice, "grade", raising)
    with pytest.raises(PalestraError, match=r"1 episodes ended .* \(ZeroDivisionError: no sides\)"):
        evaluate(settings(tmp_path, samples=2))
    assert [s.error for s in read_samples(tmp_path)] == ["ZeroDivisionError: no sides", None, None, None]
    evaluate(settings(tmp_path, samples=2))  # what broke is drawn again
    assert [(s.outcome, s.error) for s in read_samples(tmp_path)] == [(1.0, None)] * 4


def test_where_every_episode_fails_most_are_not_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grade = Dice.grade

    def raising(self: Dice, task: Task, answer: str) -> Reward:
        raise PalestraError("no docker daemon")

    monkeypatch.setattr(Dice, "grade", raising)
    with pytest.raises(PalestraError, match=rf"^{HOPELESS} episodes .*; the other 84 were not tried; mend that"):
        evaluate(settings(tmp_path, samples=50))
    assert len(list(read_samples(tmp_path))) == HOPELESS
    monkeypatch.setattr(Dice, "grade", grade)
    evaluate(settings(tmp_path, samples=50))
    assert [(s.outcome, s.error) for s in read_samples(tmp_path)] == [(1.0, None)] * 100


def test_the_sandbox_is_chosen_and_recorded(tmp_path: Path) -> None:
    evaluate(settings(tmp_path, sandbox="docker"))
    manifest = read_manifest(tmp_path)
    assert default_sandbox() == "docker"
    assert manifest["sandbox"] == "docker"
    assert "enforced" not in manifest  # no tool of this environment opened it


def test_what_was_enforced_is_recorded_if_a_tool_opened_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play = episodes.play

    def play_with_code(*arguments: object) -> object:
        shared_sandbox()
        return play(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(episodes, "play", play_with_code)
    evaluate(settings(tmp_path))
    assert read_manifest(tmp_path)["enforced"] == {"network": "none"}


def test_a_run_is_not_continued_in_another_sandbox(tmp_path: Path) -> None:
    evaluate(settings(tmp_path))
    with pytest.raises(UsageError, match='sandbox is "local" there and "docker" now'):
        evaluate(settings(tmp_path, sandbox="docker", samples=2))


def test_a_run_from_before_there_was_a_choice_was_local(tmp_path: Path) -> None:
    evaluate(settings(tmp_path))
    manifest = read_manifest(tmp_path)
    del manifest["sandbox"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(UsageError, match='sandbox is "local" there and "docker" now'):
        evaluate(settings(tmp_path, sandbox="docker"))
    evaluate(settings(tmp_path, samples=2))
    assert read_manifest(tmp_path)["sandbox"] == "local"


def test_tokens_that_hold_a_banned_word_are_found_and_their_run_is_one_of_its_own(tmp_path: Path) -> None:
    tokenizer = character_tokenizer()
    ids = banned_ids(tokenizer, ("~", "+", "+"))
    assert [tokenizer.decode([i]) for i in ids] == sorted("~+", key=lambda c: tokenizer.encode(c)[0])
    assert banned_ids(tokenizer, ()) == ()
    with pytest.raises(UsageError, match="no single token of this model holds 'wait'"):
        banned_ids(tokenizer, ("wait",))
    evaluate(settings(tmp_path))
    with pytest.raises(UsageError, match="sampling.banned"):
        evaluate(settings(tmp_path, ban=("wait",)))
    with pytest.raises(UsageError, match="'oracle' samples no tokens"):
        evaluate(settings(tmp_path / "banned", ban=("wait",)))
    with pytest.raises(ValueError, match="ban takes words or signs"):
        EvalSettings(model="openai:x", env="palestra/Dice-v0", out=tmp_path, ban=("wait",))


@pytest.mark.e2e
def test_banned_words_are_in_no_episode(tmp_path: Path, organism: Path) -> None:
    wanted: dict[str, Any] = {"model": str(organism), "env": "palestra/StringCompose-v0", "problems": 4, "samples": 8}
    run = evaluate(EvalSettings(**wanted, max_tokens=20, out=tmp_path, ban=("w",)))
    assert read_manifest(run.path)["sampling"]["banned"] == ["w"]
    for s in run.samples():
        messages = read_trajectory(run.path, s.part, s.offset)["messages"]
        assert not any("w" in m["content"] for m in messages if m["role"] == "assistant")


@pytest.mark.e2e
def test_power_sampling_is_a_run_of_its_own_with_its_cost(tmp_path: Path, organism: Path) -> None:
    """Its samples do not depend on how many are in flight, and it is not mixed with plain ones."""
    wanted = {
        "model": str(organism),
        "env": "palestra/StringCompose-v0",
        "problems": 3,
        "samples": 4,
        "max_tokens": 20,
    }
    power = {"power_alpha": 4.0, "power_block": 8, "power_moves": 3}
    runs = [
        evaluate(EvalSettings.model_validate({**wanted, **power, "out": tmp_path / str(c), "concurrency": c})).path
        for c in (3, 12)
    ]
    samples = [{s.id: s for s in read_samples(run)} for run in runs]
    assert read_manifest(runs[0])["sampling"]["power"] == {"alpha": 4.0, "block": 8, "moves": 3}
    for key, sample in samples[0].items():
        assert sample.answer == samples[1][key].answer
        assert sample.tokens_drawn == samples[1][key].tokens_drawn
        assert sample.tokens_drawn > sample.tokens_out
    with pytest.raises(UsageError, match="sampling.power"):
        evaluate(EvalSettings.model_validate({**wanted, "out": runs[0]}))


@pytest.mark.parametrize("model", ["random", "oracle", "openai:x"])
def test_power_sampling_takes_a_model_in_this_process(tmp_path: Path, model: str) -> None:
    with pytest.raises(ValueError, match="power sampling takes a model in this process"):
        EvalSettings(model=model, env="palestra/Dice-v0", out=tmp_path, power_alpha=4.0)


def test_where_there_are_fewer_problems_all_are_taken_unless_a_number_was_asked_for(tmp_path: Path) -> None:
    from palestra.cli.evaluate import evaluate as command

    few = {"model": "random", "env": "palestra/Taxi-v0", "samples": 1}
    with pytest.raises(UsageError, match="ask for fewer problems"):
        evaluate(EvalSettings.model_validate({**few, "out": tmp_path / "asked", "problems": 100}))
    command(EvalSettings.model_validate({**few, "out": tmp_path / "all"}))
    assert 0 < len(read_samples(tmp_path / "all")) < 100
