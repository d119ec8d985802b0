"""Two processes on CPU cores (gloo) learn what one learns, speak once, and resume."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import PALESTRA, finish, kill_when, start
from safetensors.torch import load_file

import palestra.rl.recipes

pytestmark = pytest.mark.e2e

RECIPES = Path(palestra.rl.recipes.__file__).parent
LAUNCH = (sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--mixed_precision", "no")
DDP = (*LAUNCH, "--config_file", str(RECIPES / "ddp.yaml"), "-m", "palestra")
FSDP = (*LAUNCH, "--config_file", str(RECIPES / "fsdp2.yaml"), "-m", "palestra_fsdp_on_cpu")

GRPO = ["train", "--steps", "8", "--prompts", "4", "--group-size", "4", "--max-tokens", "12", "--lr", "3e-4"]
PRORL = ["--beta", "0.05", "--reset-every", "3", "--validate-every", "2", "--validate-problems", "8"]
TAKES_TIME = ("seconds", "time", "per_second", "total_flos", "train_loss")
"""Parts of the names of what differs between any two runs; `train_loss` is one process's own."""


def history(out: Path) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["history"]
    return [{k: v for k, v in row.items() if not any(part in k for part in TAKES_TIME)} for row in rows]


def assert_same_numbers(one: Path, other: Path) -> None:
    assert len(history(one)) == len(history(other))
    for mine, theirs in zip(history(one), history(other), strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            assert math.isclose(value, theirs[name], rel_tol=2e-3, abs_tol=1e-4), (mine["step"], name)


def assert_same_weights(start: Path, one: Path, other: Path) -> None:
    """The difference is under 1% of what was learned: Adam makes rounding errors of small gradients larger."""
    first, mine, theirs = (load_file(folder / "model.safetensors") for folder in (start, one, other))

    def norm(a: dict[str, Any], b: dict[str, Any]) -> float:
        return math.sqrt(sum(float(torch.sum((a[name] - b[name]) ** 2)) for name in first))

    assert norm(first, mine) > 0.05, "it learned nothing: the comparison is empty"
    assert norm(mine, theirs) < 0.01 * norm(first, mine)


@pytest.mark.parametrize("launcher", [DDP, FSDP], ids=["ddp", "fsdp2"])
def test_two_processes_learn_what_one_does(
    launcher: tuple[str, ...], tmp_path: Path, organism: Path, contrast: str
) -> None:
    command = [*GRPO, *PRORL, "--model", organism, "--env", contrast, "--save-every", "5"]
    finish(*command, "--out", tmp_path / "one")
    two = [*command, "--out", tmp_path / "two"]
    kill_when(
        start(*two, launcher=launcher), lambda: any((tmp_path / "two").glob("checkpoints/checkpoint-*/COMPLETE"))
    )
    process = start(*two, launcher=launcher)
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    assert out.count("trained; the model is in") == 1
    assert err.count("8/8 steps") == 1
    manifests = [
        json.loads((tmp_path / name / "manifest.json").read_text(encoding="utf-8")) for name in ("one", "two")
    ]
    for manifest in manifests:
        manifest["cost"].pop("seconds")
    assert manifests[1]["resumed_from"] > 0
    assert manifests[0]["cost"] == manifests[1]["cost"]
    assert manifests[0]["resets"] == manifests[1]["resets"] == [3, 6]
    assert_same_numbers(tmp_path / "one", tmp_path / "two")
    assert_same_weights(organism, tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("launcher", [DDP, FSDP], ids=["ddp", "fsdp2"])
def test_dynamic_sampling_and_an_adapter_work_in_two_processes(
    launcher: tuple[str, ...], tmp_path: Path, organism: Path, contrast: str
) -> None:
    out = tmp_path / "two"
    finish(
        *GRPO, "--algo", "dapo", "--lora-rank", "4", "--model", organism, "--env", contrast, "--out", out,
        launcher=launcher,
    )  # fmt: skip
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["cost"]["episodes_sampled"] == 4 * sum(
        row["episodes/groups_sampled"] for row in manifest["history"] if "loss" in row
    )
    assert {path.name for path in (out / "adapter").glob("*.safetensors")} == {"adapter_model.safetensors"}
    merged, base = load_file(out / "model.safetensors"), load_file(organism / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(merged[name], base[name])


def test_fine_tuning_in_two_processes_is_that_of_one(tmp_path: Path, organism: Path, contrast: str) -> None:
    sft = ["sft", "--model", organism, "--env", contrast, "--episodes", "128", "--batch-size", "16", "--lr", "1e-3"]
    for name, launcher in (("one", PALESTRA), ("two", DDP)):
        finish(*sft, "--out", tmp_path / f"sft-{name}", launcher=launcher)
    assert_same_numbers(tmp_path / "sft-one", tmp_path / "sft-two")
    assert_same_weights(organism, tmp_path / "sft-one", tmp_path / "sft-two")

    rft = ["rft", "--model", organism, "--env", contrast, "--prompts", "16", "--rounds", "2", "--max-tokens", "12"]
    for name, launcher in (("one", PALESTRA), ("two", DDP)):
        finish(*rft, "--out", tmp_path / f"rft-{name}", launcher=launcher)
    first = [history(tmp_path / f"rft-{name}")[0] for name in ("one", "two")]
    assert first[0] == first[1], "the first round samples the same episodes"

    # One step on all pairs: a repeated row fills the batch where two processes do not divide it.
    dpo = ["dpo", "--model", organism, "--env", contrast, "--prompts", "16", "--max-tokens", "12", "--lr", "1e-4"]
    for name, launcher in (("one", PALESTRA), ("two", DDP)):
        finish(*dpo, "--out", tmp_path / f"dpo-{name}", launcher=launcher)
    (alone,), (together,) = (history(tmp_path / f"dpo-{name}") for name in ("one", "two"))
    assert alone["rows"] == together["rows"] > 8
    assert alone["tokens_sampled"] == together["tokens_sampled"]
    assert math.isclose(alone["loss"], together["loss"], rel_tol=1e-4)
    assert math.isclose(alone["logps/chosen"], together["logps/chosen"], rel_tol=0.1)


def test_other_numbers_of_processes_are_refused(tmp_path: Path, organism: Path, contrast: str) -> None:
    out = tmp_path / "run"
    command = [*GRPO, "--model", organism, "--env", contrast, "--save-every", "2", "--out", out]
    kill_when(start(*command), lambda: any(out.glob("checkpoints/checkpoint-*/COMPLETE")))
    process = start(*command, launcher=DDP)
    _, err = process.communicate(timeout=200)
    assert process.returncode != 0
    assert "was written by 1 process, not 2" in err
