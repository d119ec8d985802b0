"""SIGKILL anywhere loses nothing finished and repeats nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from commands import finish, kill_when, start

from palestra.eval.store import RunStore, read_samples, read_trajectory

pytestmark = pytest.mark.e2e

ENV = "palestra/StringCompose-v0"
BENCH = Path(__file__).parents[2] / "bench"


TRAINING = {
    "train": [
        "--variant",
        "train-atoms",
        "--steps",
        "24",
        "--prompts",
        "4",
        "--group-size",
        "4",
        "--max-tokens",
        "12",
    ],
    "sft": ["--variant", "train-atoms", "--episodes", "400", "--batch-size", "4"],
}


@pytest.mark.parametrize("verb", ["train", "sft"])
def test_killed_training_resumes_from_its_last_checkpoint(verb: str, tmp_path: Path, organism: Path) -> None:
    out = tmp_path / verb
    command = [verb, "--model", organism, "--env", ENV, "--out", out, "--save-every", "5", *TRAINING[verb]]
    kill_when(start(*command), lambda: any(out.glob("checkpoints/checkpoint-*/COMPLETE")))
    assert not (out / "model.safetensors").exists()
    saved = max(int(p.parent.name.split("-")[1]) for p in out.glob("checkpoints/checkpoint-*/COMPLETE"))
    finish(*command)
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    steps = [row["step"] for row in manifest["history"] if "loss" in row]
    assert manifest["status"] == "done"
    assert steps == list(range(1, steps[-1] + 1))
    assert manifest["resumed_from"] >= saved > 0
    weights = (out / "model.safetensors").read_bytes()
    assert finish(*command).startswith("trained")
    assert (out / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize("algo", ["grpo", "dapo"])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    algo: str, tmp_path: Path, organism: Path, contrast: str
) -> None:
    """Same tasks, same samples, same weights, whether or not it was killed."""
    size = ["--steps", "24", "--prompts", "4", "--group-size", "4", "--max-tokens", "12", "--save-every", "5"]
    weights = []
    for name in ("killed", "whole"):
        out = tmp_path / name
        command = ["train", "--model", organism, "--env", contrast, "--algo", algo, "--out", out, *size]
        if name == "killed":
            kill_when(start(*command), lambda out=out: any(out.glob("checkpoints/checkpoint-*/COMPLETE")))
        finish(*command)
        weights.append((out / "model.safetensors").read_bytes())
        manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
        gradients = [row["grad_norm"] for row in manifest["history"] if "grad_norm" in row]
        assert sum(norm > 0 for norm in gradients) > 12, "too few steps have a gradient: the comparison says little"
    assert weights[0] == weights[1] != (organism / "model.safetensors").read_bytes()


def test_a_finished_run_goes_on_as_if_it_had_been_asked_for_at_once(
    tmp_path: Path, organism: Path, contrast: str
) -> None:
    """Resets of the reference at the very step at which it ended, carried groups and validation included."""
    size = ["--prompts", "4", "--group-size", "4", "--max-tokens", "12", "--save-every", "5", "--algo", "dapo"]
    more = ["--beta", "0.05", "--reset-every", "4", "--validate-every", "4", "--validate-problems", "8"]
    runs = []
    for name, lengths in (("longer", ("8", "16")), ("at-once", ("16",))):
        out = tmp_path / name
        for steps in lengths:
            finish("train", "--model", organism, "--env", contrast, "--out", out, *size, *more, "--steps", steps)
        manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
        gradients = [row["grad_norm"] for row in manifest["history"] if "grad_norm" in row]
        scores = [row["validation/pass@1"] for row in manifest["history"] if "validation/pass@1" in row]
        manifest["cost"].pop("seconds")
        assert len(gradients) == 16
        assert manifest["resets"] == [4, 8, 12, 16]
        runs.append(((out / "model.safetensors").read_bytes(), gradients, scores, manifest["cost"]))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("more", ["", "--lora-rank 4 --validate-every 5"], ids=["all-weights", "lora"])
def test_kills_at_random_moments_change_nothing(more: str, organism: Path, contrast: str) -> None:
    """`bench/resume.py` in small."""
    command = [sys.executable, str(BENCH / "resume.py"), str(organism), "--env", contrast, "--kills", "3"]
    command += ["--steps", "16", *(["--train", more] if more else [])]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "bit-equal" in result.stdout
    assert sum(line.startswith("kill ") for line in result.stdout.splitlines()) == 3


def test_killed_eval_loses_and_repeats_nothing(tmp_path: Path, organism: Path) -> None:
    out = tmp_path / "run"
    command = [
        "eval",
        "--model",
        organism,
        "--env",
        ENV,
        "--variant",
        "test",
        "--variant",
        "atoms",
        "-n",
        "32",
        "--problems",
        "20",
        "--concurrency",
        "16",
        "--max-tokens",
        "24",
        "--out",
        out,
    ]
    samples = out / "samples.jsonl"
    kill_when(start(*command), lambda: samples.exists() and samples.stat().st_size > 20_000)
    before = samples.read_bytes().rpartition(b"\n")[0].splitlines()
    assert 0 < len(before) < 1_280
    finish(*command)
    after = samples.read_bytes().splitlines()
    assert after[: len(before)] == before
    records = read_samples(out)
    assert len({r.id for r in records}) == len(records) == len(after) == 1_280
    finish(*command)
    assert samples.read_bytes().splitlines() == after

    finish(
        "eval",
        "--model",
        organism,
        "--env",
        ENV,
        "--variant",
        "test",
        "--variant",
        "atoms",
        "-n",
        "32",
        "--problems",
        "20",
        "--concurrency",
        "200",
        "--max-tokens",
        "24",
        "--out",
        tmp_path / "whole",
    )
    whole = {r.id: (r.seed, r.key, r.outcome, r.tokens_out) for r in read_samples(tmp_path / "whole")}
    assert {r.id: (r.seed, r.key, r.outcome, r.tokens_out) for r in records} == whole


KILLING = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from palestra.agents import codec, models, rollout, transformers_engine
from palestra.eval.run import evaluate
from palestra.eval.settings import EvalSettings

out, model, kills = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
settings = EvalSettings(model=model, env="palestra/StringCompose-v0", variant=("test", "atoms"), samples=160,
                        problems=12, concurrency=int(sys.argv[4]), max_tokens=20, out=out)
rng, killed = random.Random(0), 0
while True:  # this process never computes: its children find everything imported
    child = os.fork()
    if child == 0:
        evaluate(settings)
        os._exit(0)
    if killed == kills:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    samples = out / "samples.jsonl"
    before = samples.stat().st_size if samples.exists() else 0
    # Every other time once it has written something, at a random moment after.
    while killed % 2 and (not samples.exists() or samples.stat().st_size <= before):
        time.sleep(0.002)
    time.sleep(rng.random() * (0.1 if killed % 2 else 1.0))
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, "it ended before it was killed"
    killed += 1
"""


def test_eval_killed_twenty_times_ends_as_an_undisturbed_one(tmp_path: Path, organism: Path) -> None:
    for name, kills, concurrency in (("killed", "20", "8"), ("whole", "0", "300")):
        command = [sys.executable, "-c", KILLING, str(tmp_path / name), str(organism), kills, concurrency]
        subprocess.run(command, check=True, timeout=280)
    found, whole = ({r.id: r for r in read_samples(tmp_path / name)} for name in ("killed", "whole"))
    lines = (tmp_path / "killed" / "samples.jsonl").read_bytes().splitlines()
    assert len(lines) == len(found) == 2 * 12 * 160
    assert found.keys() == whole.keys()
    for key, sample in found.items():
        same = whole[key]
        assert (sample.seed, sample.key, sample.outcome, sample.answer, sample.tokens_out, sample.stop) == (
            (same.seed, same.key, same.outcome, same.answer, same.tokens_out, same.stop)
        )
        assert sample.logprob == pytest.approx(same.logprob, abs=1e-3)
        there = read_trajectory(tmp_path / "killed", sample.part, sample.offset)
        assert there["messages"] == read_trajectory(tmp_path / "whole", same.part, same.offset)["messages"]


def test_eval_extends_a_run_and_refuses_other_settings(tmp_path: Path) -> None:
    def run(*more: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "palestra",
            "eval",
            "--model",
            "random",
            "--env",
            ENV,
            "--out",
            str(tmp_path / "r"),
        ]
        return subprocess.run([*command, *more], capture_output=True, text=True, check=False)

    assert run("-n", "4", "--problems", "10").returncode == 0
    first = (tmp_path / "r" / "samples.jsonl").read_bytes()
    assert run("-n", "8", "--problems", "12").returncode == 0
    extended = (tmp_path / "r" / "samples.jsonl").read_bytes()
    assert extended.startswith(first)
    with RunStore.open(tmp_path / "r") as store:
        assert len(store.done()) == 8 * 12
    refused = run("-n", "8", "--problems", "12", "--seed", "1")
    assert refused.returncode == 2
    assert "seed" in refused.stderr
