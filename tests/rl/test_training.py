"""What the trainer's settings do, on a tiny organism and a task that pays often enough for a gradient."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from palestra.agents.models import load_model
from palestra.agents.trajectory import Trajectory, TurnSpan
from palestra.envs import Demonstration, ProcessTerm, Reward, Task, TaskId, TextEnv, make, register
from palestra.envs.errors import PalestraError
from palestra.rl.data import index_stream
from palestra.rl.reference import FILE
from palestra.rl.rewards import REWARDS, with_overlong_punishment
from palestra.rl.rft import fine_tune_on_own, right
from palestra.rl.rundir import RunFolder
from palestra.rl.sampler import Sample
from palestra.rl.settings import RFTSettings, SFTSettings, TrainSettings
from palestra.rl.sft import fine_tune
from palestra.rl.step_values import step_values
from palestra.rl.train import train
from palestra.rl.validation import is_held_out, task_stream


@register("test/Early-v0", variants={"train": {}, "test": {}})
class Early(TextEnv):
    """Pays for an answer that comes early in the alphabet: even an ignorant model gives one now and then."""

    max_turns = 1
    process_terms = {"answered": ProcessTerm(0.0, 1.0, "any answer")}

    def sample(self, rng: random.Random) -> Task:
        text = "".join(rng.choice("abcdefgh") for _ in range(5))
        return Task(prompt=f"A({text}) = ?", answer="a", key=text)

    def grade(self, task: Task, answer: str) -> Reward:
        return Reward(float(answer < "d"), {"answered": 1.0})

    def solve(self, task: Task) -> Demonstration:
        return Demonstration(("<answer>a</answer>",))


def run(organism: Path, out: Path, **more: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "model": str(organism),
        "env": "test/Early-v0",
        "steps": 4,
        "prompts": 4,
        "group_size": 4,
        "max_tokens": 12,
        "lr": 3e-3,
        "track": "none",
    }
    chosen = TrainSettings(out=out, **(settings | more))
    with RunFolder(out, "train", chosen) as folder:
        train(chosen, folder)
    manifest: dict[str, Any] = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    return manifest


def steps_of(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in manifest["history"] if "loss" in row]


def test_a_reset_makes_the_policy_its_own_reference(organism: Path, tmp_path: Path) -> None:
    manifest = run(organism, tmp_path / "run", steps=5, beta=0.01, reset_every=3, save_every=4)
    divergence = [row["kl"] for row in steps_of(manifest)]
    assert divergence[0] == pytest.approx(0, abs=1e-6)
    assert divergence[2] > 1e-4, "the policy did not move: the reset shows nothing"
    assert divergence[3] == pytest.approx(0, abs=1e-6)
    assert manifest["resets"] == [3]
    reference = load_file(tmp_path / "run" / "checkpoints" / "checkpoint-5" / FILE)
    start, end = (load_file(folder / "model.safetensors") for folder in (organism, tmp_path / "run"))
    name = "model.embed_tokens.weight"
    assert not torch.equal(reference[name], start[name])
    assert not torch.equal(reference[name], end[name])


def test_a_reset_comes_when_the_validation_no_longer_improves(organism: Path, tmp_path: Path) -> None:
    more = {"beta": 0.01, "validate_every": 1, "reset_patience": 2, "validate_problems": 4, "lr": 1e-12}
    manifest = run(organism, tmp_path / "run", steps=6, **more)
    scores = [row["validation/pass@1"] for row in manifest["history"] if "validation/pass@1" in row]
    assert len(set(scores)) == 1, "same weights, same tasks, same seeds: the same score"
    assert manifest["resets"] == [2, 5], "after a reset the first score is the one to beat"


def test_a_validated_step_keeps_its_own_numbers(organism: Path, tmp_path: Path) -> None:
    manifest = run(organism, tmp_path / "run", validate_every=2, validate_problems=4)
    assert [row["step"] for row in steps_of(manifest)] == [1, 2, 3, 4]
    assert all("grad_norm" in row and "entropy" in row for row in steps_of(manifest))
    assert [row["step"] for row in manifest["history"] if "validation/pass@1" in row] == [0, 2, 4]


def test_validation_tasks_are_never_trained_on(organism: Path, tmp_path: Path) -> None:
    env = make("test/Early-v0")
    held, rest = (task_stream(0, env, held_out=flag) for flag in (True, False))
    assert all(is_held_out(env.task_at(next(held)).key) for _ in range(50))
    assert not any(is_held_out(env.task_at(next(rest)).key) for _ in range(500))
    share = sum(is_held_out(str(i)) for i in range(20_000)) / 20_000
    assert share == pytest.approx(1 / 16, abs=0.006)


def test_what_a_run_cost_is_counted_over_a_resume(organism: Path, tmp_path: Path) -> None:
    whole = run(organism, tmp_path / "whole", save_every=2, keep_checkpoints=0)["cost"]
    folders = [*sorted((tmp_path / "whole" / "checkpoints").glob("checkpoint-*")), tmp_path / "whole"]
    noted = [json.loads((folder / "cost.json").read_text(encoding="utf-8")) for folder in folders]
    assert noted[-1] == whole
    assert [cost["optimiser_steps"] for cost in noted[:-1]] == list(range(2, whole["optimiser_steps"] + 1, 2))
    for name in ("tokens_sampled", "tokens_trained"):
        grown = [cost[name] for cost in noted[:-1]]
        assert 0 < grown[0] < grown[1] <= whole[name]
    assert whole["episodes_sampled"] == 4 * 16
    assert 0 < whole["tokens_trained"] <= whole["tokens_sampled"] <= 4 * 16 * 12
    first = run(organism, tmp_path / "again", steps=4, save_every=2)
    assert first["cost"]["tokens_sampled"] == whole["tokens_sampled"]


@pytest.mark.parametrize(
    "credit", ["outcome-no-std", "turn", "step-groups", "return-to-go", "potential", "monte-carlo"]
)
def test_every_credit_rule_trains(organism: Path, tmp_path: Path, credit: str) -> None:
    manifest = run(organism, tmp_path / "run", steps=2, reward="both", credit=credit)
    assert any(row["grad_norm"] > 0 for row in steps_of(manifest))
    if credit == "monte-carlo":
        assert all(row["episodes/value_tokens"] > 0 for row in steps_of(manifest))
    if credit == "step-groups":  # all members begin in the task's one state, and there is one turn
        assert all(row["credit/singleton_share"] == 0 for row in steps_of(manifest))


def test_two_phases_pay_process_first_and_outcomes_later(organism: Path, tmp_path: Path) -> None:
    # Every episode that answers earns the process term, so the dense phase has contrast only where some do not.
    manifest = run(organism, tmp_path / "run", steps=2, credit="two-phase", dense_steps=1)
    assert len(steps_of(manifest)) == 2


def test_a_placebo_pays_by_chance_and_the_outcome_is_logged_all_the_same(organism: Path, tmp_path: Path) -> None:
    rows = steps_of(run(organism, tmp_path / "run", steps=6, reward="random"))
    paid = sum(row["rewards/reward/mean"] for row in rows) / len(rows)
    assert paid == pytest.approx(0.5, abs=0.2)
    assert any(row["rewards/outcome/mean"] != row["rewards/reward/mean"] for row in rows)


def episode(stop: str, outcome: float, lengths: list[int], kinds: list[str]) -> Trajectory:
    spans, at = [], 0
    for length, kind in zip(lengths, kinds, strict=True):
        spans.append(TurnSpan(at, at + length, kind=kind))
        at += length
    t = Trajectory(TaskId("e/E-v0", "train", 3), "k", [1], [20] * at, [1] * at, [0.0] * at, spans)
    t.outcome, t.stop = outcome, stop
    return t


def test_rewards_by_name() -> None:
    right_, wrong = (episode("answer", outcome, [3], ["answer"]) for outcome in (1.0, 0.0))
    assert [REWARDS[name](right_, 0) for name in ("outcome", "both", "process", "format")] == [1, 1, 0, 1]
    assert [REWARDS[name](wrong, 0) for name in ("outcome", "both", "process", "format")] == [0, 0, 0, 1]
    assert REWARDS["format"](episode("answer", 1.0, [3, 3], ["malformed", "answer"]), 0) == 0
    assert REWARDS["format"](episode("turns", 0.0, [3], ["tool"]), 0) == 0
    coins = [REWARDS["random"](right_, seed) for seed in range(4_000)]
    assert set(coins) == {0.0, 1.0}
    assert sum(coins) / 4_000 == pytest.approx(0.5, abs=0.03)
    assert coins[:50] == [REWARDS["random"](wrong, seed) for seed in range(50)]


def test_the_longest_turn_is_punished() -> None:
    rule = with_overlong_punishment(REWARDS["outcome"], 20, 10)
    turns = [(8, 10), (15, 2), (20, 20)]
    assert [rule(episode("answer", 1.0, list(pair), ["tool", "answer"]), 0) for pair in turns] == [1.0, 0.5, 0.0]


def test_values_before_each_turn_come_from_rollouts_of_its_prefix() -> None:
    two = episode("answer", 1.0, [2, 3], ["tool", "answer"])
    one = episode("answer", 0.0, [2], ["answer"])
    broken = episode("error", 0.0, [2], [""])
    asked: list[tuple[int, ...]] = []

    def rollouts(episodes: Any) -> Any:
        for e in episodes:
            asked.append(tuple(map(len, e.prefix)))
            solved = float(len(asked) % 2) if not e.prefix else 1.0
            yield e, episode("answer", solved, [2, 3], ["tool", "answer"])

    values, tokens = step_values([two, one, broken], [5, 6, 7], 4, rollouts)
    assert sorted(asked) == [(), (), (), (), (2,), (2,), (2,), (2,)], "the same task starts in the same state"
    assert values == [[0.5, 1.0, 1.0], [0.5, 0.0], []]
    assert tokens == 4 * 5 + 4 * 3


def test_rejection_sampling_learns_from_what_was_right(organism: Path, tmp_path: Path) -> None:
    out = tmp_path / "rft"
    settings = RFTSettings(
        model=str(organism),
        env="test/Early-v0",
        out=out,
        rounds=2,
        prompts=8,
        group_size=4,
        max_tokens=12,
        track="none",
    )
    with RunFolder(out, "rft", settings) as folder:
        fine_tune_on_own(settings, folder)
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["cost"]["rounds"] == 2
    assert manifest["cost"]["episodes_sampled"] == 64
    assert manifest["cost"]["tokens_trained"] < manifest["cost"]["tokens_sampled"]
    assert not (out / "rounds").exists()
    budget = manifest["cost"]["tokens_sampled"]
    matched = settings.model_copy(update={"out": tmp_path / "matched", "rounds": 1, "token_budget": budget})
    with RunFolder(matched.out, "rft", matched) as folder:
        fine_tune_on_own(matched, folder)
    assert folder.manifest["cost"]["tokens_sampled"] == budget


def test_rejection_sampling_without_a_right_episode_says_so(
    organism: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Early, "grade", lambda self, task, answer: Reward(0.0))
    settings = RFTSettings(
        model=str(organism), env="test/Early-v0", out=tmp_path / "r", prompts=2, group_size=2, track="none"
    )
    with (
        RunFolder(settings.out, "rft", settings) as folder,
        pytest.raises(PalestraError, match="nothing to learn from"),
    ):
        fine_tune_on_own(settings, folder)


def test_an_episode_is_learned_from_once() -> None:
    group = [Sample(episode("answer", 1.0, [n], ["answer"]), n, 1.0) for n in (2, 2, 3, 4)]
    group.append(Sample(episode("answer", 0.0, [9], ["answer"]), 9, 0.0))
    assert [s.seed for s in right(group, 8)] == [2, 3, 4]
    assert [s.seed for s in right(group, 2)] == [2, 3]


def test_answers_alone_are_shorter_demonstrations(organism: Path, tmp_path: Path) -> None:
    costs = {}
    for style in ("worked", "answers"):
        settings = SFTSettings(
            model=str(organism),
            env="palestra/StringCompose-v0",
            out=tmp_path / style,
            demonstrations=style,  # type: ignore[arg-type]
            episodes=64,
            track="none",
        )
        with RunFolder(settings.out, "sft", settings) as folder:
            fine_tune(settings, folder)
        costs[style] = folder.manifest["cost"]
    assert costs["answers"]["tokens_trained"] < costs["worked"]["tokens_trained"]
    assert costs["answers"]["tokens_sampled"] == 0


def test_the_watch_writes_episodes_for_people(organism: Path, tmp_path: Path) -> None:
    run(organism, tmp_path / "run", steps=2, show_every=1)
    text = (tmp_path / "run" / "episodes.txt").read_text(encoding="utf-8")
    assert text.count("== step") >= 2
    assert "assistant: " in text


def test_the_time_of_a_step_is_told_apart(organism: Path, tmp_path: Path) -> None:
    rows = steps_of(run(organism, tmp_path / "run", steps=2, marker="answer"))
    assert all(0 < row["episodes/markers"] <= 1 for row in rows), "the protocol's own word is counted as asked"
    for row in rows:
        assert all(row[f"seconds/{part}"] > 0 for part in ("sampling", "environments", "forward", "backward"))


INCONSISTENT = [
    ({"reset_every": 5}, "needs beta"),
    ({"beta": 0.1, "reset_patience": 2}, "needs validate_every"),
    ({"beta": 0.1, "reset_every": 5, "lora_rank": 4}, "lora_rank"),
    ({"overlong_cache": 99}, "overlong_cache"),
    ({"credit": "two-phase"}, "dense_steps"),
    ({"credit": "monte-carlo", "reward": "process"}, "reward=outcome"),
]


@pytest.mark.parametrize(("wrong", "reason"), INCONSISTENT)
def test_settings_that_would_do_nothing_are_refused(wrong: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        TrainSettings(model="m", env="e", out=Path("o"), **wrong)


def test_the_training_stream_is_the_same_for_every_arm() -> None:
    first, again = index_stream(3), index_stream(3)
    assert [next(first) for _ in range(20)] == [next(again) for _ in range(20)]


def test_an_adapter_trains_and_is_saved_alone_and_merged(organism: Path, tmp_path: Path) -> None:
    run(organism, tmp_path / "run", steps=2, lora_rank=2)
    merged, base = (load_file(folder / "model.safetensors") for folder in (tmp_path / "run", organism))
    changed = {name for name in base if not torch.equal(merged[name], base[name])}
    assert changed
    assert all("proj" in name for name in changed), "an adapter leaves embeddings and norms alone"
    again = load_model(str(tmp_path / "run" / "adapter")).model.state_dict()
    assert all(torch.equal(again[name], merged[name]) for name in merged)


def test_the_reference_of_a_run_on_an_adapter_is_what_it_begins_with(organism: Path, tmp_path: Path) -> None:
    run(organism, tmp_path / "adapted", steps=2, lora_rank=2, lr=3e-2)
    manifest = run(tmp_path / "adapted" / "adapter", tmp_path / "run", steps=2, beta=0.1)
    assert steps_of(manifest)[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert steps_of(manifest)[1]["kl"] > 1e-5
