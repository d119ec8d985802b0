"""What we rely on in TRL. A failure here says which seam a new TRL version moved."""

from pathlib import Path
from typing import Any

import pytest
import torch
from trl import GRPOTrainer

from palestra.agents.trajectory import Trajectory, TurnSpan
from palestra.envs import Reward, TaskId, TextEnv
from palestra.envs.errors import PalestraError, UsageError
from palestra.envs.tasks.string_compose import StringCompose
from palestra.rl.rundir import RunFolder
from palestra.rl.sampler import MAX_ROUNDS, GroupSampler, _as_columns
from palestra.rl.settings import TrainSettings
from palestra.rl.train import train
from palestra.rl.trl_trainer import AgentGRPOTrainer

SETTINGS: dict[str, Any] = {
    "env": "palestra/StringCompose-v0",
    "variant": "train-atoms",
    "steps": 1,
    "prompts": 4,
    "group_size": 4,
    "micro_batch": 8,
    "max_tokens": 16,
    "track": "none",
}


def captured_batch(monkeypatch: pytest.MonkeyPatch, organism: Path, out: Path, **more: Any) -> dict[str, Any]:
    """Train one step and return what our override gave TRL, beside what TRL itself had computed."""
    seen: dict[str, Any] = {}
    theirs = GRPOTrainer._generate_and_score_completions
    ours = AgentGRPOTrainer._generate_and_score_completions

    def record_theirs(self: Any, inputs: Any) -> Any:
        batch = theirs(self, inputs)
        seen["trl"] = {k: v.clone() if torch.is_tensor(v) else v for k, v in batch.items()}
        seen["rows"] = inputs
        return batch

    def record_ours(self: Any, inputs: Any) -> Any:
        seen["ours"] = ours(self, inputs)
        return seen["ours"]

    # A grader that even this tiny organism satisfies now and then, so that groups have contrast.
    monkeypatch.setattr(StringCompose, "grade", lambda self, task, answer: Reward(float(answer > "d")))
    monkeypatch.setattr(GRPOTrainer, "_generate_and_score_completions", record_theirs)
    monkeypatch.setattr(AgentGRPOTrainer, "_generate_and_score_completions", record_ours)
    settings = TrainSettings(model=str(organism), out=out, **{**SETTINGS, **more})
    with RunFolder(out, "train", settings) as folder:
        train(settings, folder)
    return seen


def test_outcome_advantages_equal_trls_own(monkeypatch: pytest.MonkeyPatch, organism: Path, tmp_path: Path) -> None:
    seen = captured_batch(monkeypatch, organism, tmp_path / "run")
    ours, theirs = seen["ours"], seen["trl"]
    mask = ours["completion_mask"] * ours["tool_mask"]
    assert theirs["advantages"].dim() == 1, "TRL no longer gives one advantage per row"
    assert ours["advantages"].shape == ours["completion_ids"].shape
    assert theirs["advantages"].abs().max() > 0, "the batch has no contrast: the comparison is empty"
    expected = theirs["advantages"][:, None] * mask
    assert torch.allclose(ours["advantages"] * mask, expected, atol=1e-5)


def test_rows_carry_what_the_rollout_brought(monkeypatch: pytest.MonkeyPatch, organism: Path, tmp_path: Path) -> None:
    rows = captured_batch(monkeypatch, organism, tmp_path / "run")["rows"]
    assert {"outcome", "process", "turns"} <= rows[0].keys(), "TRL no longer hands extra fields to the rows"
    prompts = [row["prompt"] for row in rows]
    assert all(len(set(prompts[i : i + 4])) == 1 for i in range(0, 16, 4)), "groups no longer stand together"


def test_a_failed_tool_carries_no_loss() -> None:
    fine = Trajectory(
        TaskId("e/E-v0", "train", 0), "k", [1], [2, 3], [1, 1], [0.0, 0.0], [TurnSpan(0, 2)], stop="answer"
    )
    broken = Trajectory(
        TaskId("e/E-v0", "train", 0), "k", [1], [2, 3], [1, 1], [0.0, 0.0], [TurnSpan(0, 2)], stop="error"
    )
    never = Trajectory(TaskId("e/E-v0", "train", 0), "k", [1], stop="length")
    columns = _as_columns([fine, broken, never])
    assert columns["env_mask"] == [[1, 1], [0, 0], [0]]
    assert columns["outcome"] == [0.0, None, 0.0]
    assert all(columns["completion_ids"]), "TRL takes no empty completion"


def test_dynamic_sampling_replaces_flat_groups(
    monkeypatch: pytest.MonkeyPatch, organism: Path, tmp_path: Path
) -> None:
    rounds: list[int] = []
    sample = GroupSampler._sample

    def counted(self: Any, indices: list[int], *rest: Any) -> Any:
        rounds.append(len(indices))
        return sample(self, indices, *rest)

    monkeypatch.setattr(GroupSampler, "_sample", counted)
    monkeypatch.setattr(StringCompose, "grade", lambda self, task, answer: Reward(0.0))
    settings = TrainSettings(model=str(organism), out=tmp_path / "run", **{**SETTINGS, "algo": "dapo"})
    with RunFolder(tmp_path / "run", "train", settings) as folder:
        train(settings, folder)
    assert rounds == [4] * MAX_ROUNDS, (
        "where nothing is solved all groups are flat, in every round of a bounded number"
    )


def test_training_stops_where_nothing_can_be_learned(
    monkeypatch: pytest.MonkeyPatch, organism: Path, tmp_path: Path
) -> None:
    def run(name: str, **more: Any) -> None:
        settings = TrainSettings(model=str(organism), out=tmp_path / name, **{**SETTINGS, **more})
        with RunFolder(tmp_path / name, "train", settings) as folder:
            train(settings, folder)

    with pytest.raises(UsageError, match="no episode fits"):
        run("long", max_tokens=96)

    def broken(self: TextEnv, action: str) -> None:
        raise PalestraError("the sandbox is gone")

    monkeypatch.setattr(TextEnv, "step", broken)
    with pytest.raises(PalestraError, match="every episode of a step failed .* the sandbox is gone"):
        run("broken")
