"""What we rely on in TRL. A failure here says which seam a new TRL version moved."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from trl import GRPOTrainer

from palestra.agents.codec import ChatCodec
from palestra.agents.decoder import Decoder
from palestra.agents.engine import SamplingParams
from palestra.agents.slot_stream import SlotStream
from palestra.agents.trajectory import Trajectory, TurnSpan
from palestra.envs import Reward, TaskId, TextEnv
from palestra.envs.errors import PalestraError, UsageError
from palestra.envs.tasks.string_compose import StringCompose
from palestra.rl import train as train_module
from palestra.rl.organisms.tokenizer import character_tokenizer
from palestra.rl.processes import _own_forward
from palestra.rl.rundir import RunFolder
from palestra.rl.sampler import GroupSampler, Sample, SamplerSettings, _as_columns
from palestra.rl.settings import TrainSettings
from palestra.rl.train import DAPO_ROUNDS, train
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
    assert {"outcome", "reward", "process", "turns", "states", "stale"} <= rows[0].keys(), (
        "TRL no longer hands extra fields to the rows"
    )
    prompts = [row["prompt"] for row in rows]
    assert all(len(set(prompts[i : i + 4])) == 1 for i in range(0, 16, 4)), "groups no longer stand together"


def test_every_pass_is_as_wide_as_its_own_longest_episode(
    monkeypatch: pytest.MonkeyPatch, organism: Path, tmp_path: Path
) -> None:
    passes: list[tuple[int, int]] = []
    loss = GRPOTrainer._compute_loss

    def noted(self: Any, model: Any, inputs: dict[str, Any]) -> Any:
        passes.append((inputs["completion_ids"].shape[1], int(inputs["completion_mask"].sum(1).max())))
        return loss(self, model, inputs)

    monkeypatch.setattr(GRPOTrainer, "_compute_loss", noted)
    monkeypatch.setattr("palestra.rl.trl_trainer.reads_trees", lambda model: False)
    captured_batch(monkeypatch, organism, tmp_path / "run", micro_batch=4)
    widths = [width for width, _ in passes]
    assert len(passes) == 4
    assert all(width == longest for width, longest in passes), "TRL no longer takes its micro-batches from our seam"
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > widths[-1], "nobody sorted them, or all are as long"


def test_episodes_are_sampled_by_the_models_own_forward_pass_which_the_decoder_knows(
    monkeypatch: pytest.MonkeyPatch, organism: Path, tmp_path: Path
) -> None:
    """TRL puts a pass of its own in its place, which is back when the loss is computed."""
    decoders: list[Decoder | None] = []
    patched: list[bool] = []
    opened, loss = SlotStream.__init__, GRPOTrainer._compute_loss

    def noted_stream(self: Any, *args: Any) -> None:
        opened(self, *args)
        decoders.append(self._decoder)

    def noted_loss(self: Any, model: Any, inputs: Any) -> Any:
        patched.append("forward" in vars(model))
        return loss(self, model, inputs)

    monkeypatch.setattr(SlotStream, "__init__", noted_stream)
    monkeypatch.setattr(GRPOTrainer, "_compute_loss", noted_loss)
    captured_batch(monkeypatch, organism, tmp_path / "run", steps=2, validate_every=1, validate_problems=2)
    assert len(decoders) >= 4, "two steps, and a validation before and after"
    assert all(decoders), "TRL's forward pass is on the model while it samples"
    assert patched
    assert all(patched), "TRL no longer puts a forward pass of its own on the model, or we did not put it back"


def test_a_forward_pass_that_somebody_else_has_wrapped_is_left_alone() -> None:
    """But for accelerate, which keeps what it wraps, and whose precision is asked for in its place."""
    model = torch.nn.Linear(2, 2)
    fused = model.forward
    model.forward = fused
    with _own_forward(model, fused):
        assert "forward" not in vars(model)
    assert vars(model)["forward"] is fused
    model._original_forward = fused
    model.forward = mixed = lambda x: fused(x)
    with _own_forward(model, fused):
        assert "forward" not in vars(model)
    assert vars(model)["forward"] is mixed
    del model._original_forward
    model.forward = wrapped = lambda x: fused(x)
    for theirs in (fused, None):
        with _own_forward(model, theirs):
            assert vars(model)["forward"] is wrapped


def test_in_mixed_precision_episodes_are_sampled_by_the_decoder_in_that_precision(
    monkeypatch: pytest.MonkeyPatch, organism: Path, tmp_path: Path
) -> None:
    """As on a GPU: accelerate has wrapped the forward pass, and is asked for its precision instead."""
    streams: list[tuple[bool, bool]] = []
    opened, arguments = SlotStream.__init__, train_module.common_arguments

    def noted(self: Any, *args: Any) -> None:
        opened(self, *args)
        streams.append((self._decoder is not None, torch.is_autocast_enabled("cpu")))

    monkeypatch.setattr(SlotStream, "__init__", noted)
    monkeypatch.setattr(train_module, "common_arguments", lambda *args: {**arguments(*args), "bf16": True})
    seen = captured_batch(monkeypatch, organism, tmp_path / "run", steps=2, validate_every=1, validate_problems=2)
    assert len(streams) >= 4
    assert set(streams) == {(True, True)}
    assert seen["ours"]["completion_mask"].any()


def samples_of(*trajectories: Trajectory) -> list[Sample]:
    return [Sample(t, 0, None if t.stop == "error" else t.outcome) for t in trajectories]


def columns_of(samples: list[Sample], **settings: Any) -> dict[str, Any]:
    codec = ChatCodec(character_tokenizer())
    chosen = SamplerSettings("e/E-v0", "train", SamplingParams(4), len(samples), 0, **settings)
    return _as_columns(samples, GroupSampler(chosen, codec, lambda model: model))


def episode(stop: str, ids: list[int], outcome: float = 0.0) -> Trajectory:
    spans = [TurnSpan(0, len(ids))] if ids else []
    mask, logprobs = [1] * len(ids), [0.0] * len(ids)
    return Trajectory(TaskId("e/E-v0", "train", 0), "k", [1], ids, mask, logprobs, spans, outcome=outcome, stop=stop)


def test_a_failed_tool_carries_no_loss() -> None:
    columns = columns_of(samples_of(episode("answer", [20, 21]), episode("error", [20, 21]), episode("length", [])))
    assert columns["env_mask"] == [[1, 1], [0, 0], [0]]
    assert columns["outcome"] == columns["reward"] == [0.0, None, 0.0]
    assert all(columns["completion_ids"]), "TRL takes no empty completion"


def test_overlong_filtering_masks_what_the_limits_cut_and_nothing_else() -> None:
    end = ChatCodec(character_tokenizer()).end_id
    episodes = [episode("turns", [20, 21]), episode("turns", [20, end]), episode("answer", [20, end])]
    assert columns_of(samples_of(*episodes), filter_cut=True)["env_mask"] == [[0, 0], [1, 1], [1, 1]]
    assert columns_of(samples_of(*episodes))["env_mask"] == [[1, 1]] * 3


def test_groups_without_contrast_leave_the_denominator_under_dynamic_sampling() -> None:
    flat, mixed = [episode("answer", [20])] * 2, [episode("answer", [20]), episode("answer", [20], 1.0)]
    chosen = SamplerSettings("e/E-v0", "train", SamplingParams(4), 2, 0, rounds=4)
    sampler = GroupSampler(chosen, ChatCodec(character_tokenizer()), lambda model: model)
    assert _as_columns(samples_of(*flat, *mixed), sampler)["env_mask"] == [[0], [0], [1], [1]]
    assert _as_columns(samples_of(*flat, *flat), sampler)["env_mask"] == [[1]] * 4, "TRL divides by the tokens"


def test_dynamic_sampling_gives_up_after_a_bounded_number_of_rounds(
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
    assert len(rounds) == DAPO_ROUNDS
    assert rounds[0] == 4
    assert max(rounds) <= 8


def test_a_surplus_of_dynamic_sampling_is_carried_over(
    monkeypatch: pytest.MonkeyPatch, organism: Path, tmp_path: Path
) -> None:
    calls: list[dict[str, float]] = []
    count = GroupSampler._count

    def counted(self: Any, *rest: Any) -> None:
        count(self, *rest)
        calls.append({**self.statistics, "left": float(len(self._carried))})

    monkeypatch.setattr(GroupSampler, "_count", counted)
    monkeypatch.setattr(StringCompose, "grade", lambda self, task, answer: Reward(float(answer > "d")))
    more = {**SETTINGS, "algo": "dapo", "steps": 12, "group_size": 2, "prompts": 8}
    settings = TrainSettings(model=str(organism), out=tmp_path / "run", **more)
    with RunFolder(tmp_path / "run", "train", settings) as folder:
        train(settings, folder)
    assert [call["groups_carried_over"] for call in calls[1:]] == [call["left"] for call in calls[:-1]]
    assert sum(call["left"] for call in calls) > 0, "no surplus in twelve steps: the test shows nothing"
    used = [row for row in folder.manifest["history"] if "loss" in row]
    assert all(math.isfinite(row["loss"]) for row in used)
    assert any("sampling/ratio_mean" in row for row in used), "the mismatch of carried groups is logged"
    assert folder.manifest["cost"]["episodes_sampled"] == 2 * sum(call["groups_sampled"] for call in calls)


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
    with pytest.raises(PalestraError, match="every episode of a step failed .*the sandbox is gone"):
        run("broken")
