"""Kills a training run at random moments, resumes it each time, and compares its end with that of an undisturbed run.

    python bench/resume.py MODEL --env ID [--kills 20] [--steps 60] [--seed 0] [--train "--lora-rank 8"]

Of three kills one comes within a few steps of training, one while a checkpoint is being written (within 0.02 s of the
first of its files), and one while the process starts. Moments are counted in steps, not in seconds, so that the run is
never over before its last kill. The run has everything that must be carried over: dynamic
sampling with groups left over, an optimiser, a reference that is reset, validation, monitors. Exits 1 unless weights,
optimiser, reference and all logged numbers but times are bit-equal.
"""

import argparse
import json
import math
import os
import random
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

SAVE_EVERY = 2
SIZE = "--algo dapo --prompts 4 --group-size 4 --max-tokens 12 --lr 3e-4 --show-every 1 --track none"
PRORL = "--beta 0.05 --reset-every 7 --validate-every 5 --validate-problems 8"
IN_CHECKPOINT = "in a checkpoint"
TAKES_TIME = ("seconds", "runtime", "per_second", "step_time")


def main() -> int:
    """Print a line per kill and what differs in the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--env", default="palestra/StringCompose-v0")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", default=PRORL, help="more flags of palestra train")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder, "whole"), Path(folder, "killed")
        command = [*shlex.split(f"{SIZE} {args.train} --save-every {SAVE_EVERY} --steps {args.steps}")]
        command += ["--model", args.model, "--env", args.env]
        starting, training = finish(command, whole)
        moments: Counter[str] = Counter()
        for number in range(1, args.kills + 1):
            phase = ("starting", "training", "saving")[number % 3]
            longest = {"starting": starting, "training": training / args.steps, "saving": 0.02}[phase]
            steps = rng.randint(1, max(1, args.steps // args.kills - 2)) if phase == "training" else 0
            wait = rng.uniform(0, longest)
            kill(command, killed, phase, steps, wait)
            moments[moment_of(killed)] += 1
            print(f"kill {number}: {phase}, after {steps} steps and {wait:.2f} s; {moment_of(killed)}", flush=True)
        finish(command, killed)
        wrong = differences(whole, killed)
    print(f"{args.kills} kills: {', '.join(f'{n} {moment}' for moment, n in sorted(moments.items()))}")
    print("\n".join(wrong) if wrong else "bit-equal: weights, optimiser, reference, logged numbers, costs")
    return int(bool(wrong))


def start(command: list[str], out: Path) -> "subprocess.Popen[bytes]":
    """Start the run or resume it."""
    return subprocess.Popen(
        [sys.executable, "-m", "palestra", "train", *command, "--out", str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finish(command: list[str], out: Path) -> tuple[float, float]:
    """Run to the end; returns the seconds before the first step was through, and those after."""
    began = time.perf_counter()
    process = start(command, out)
    first = wait_for_step(process, out)
    if process.wait():
        raise SystemExit("the run failed")
    return first - began, time.perf_counter() - first


def wait_for_step(process: "subprocess.Popen[bytes]", out: Path, longest: float = math.inf) -> float:
    """Return when the process has been through one more step, or ended, or after `longest` seconds."""
    shown = out / "episodes.txt"  # grows with every step
    before = shown.stat().st_size if shown.exists() else 0
    end = time.perf_counter() + longest
    while process.poll() is None and not (shown.exists() and shown.stat().st_size > before):
        if time.perf_counter() > end:
            break
        time.sleep(0.005)
    return time.perf_counter()


def kill(command: list[str], out: Path, phase: str, steps: int, wait: float) -> None:
    """Start or resume, and SIGKILL so many steps and seconds into a phase; a start ends with its first step.

    Raises:
        SystemExit: The run was over first.
    """
    process = start(command, out)
    if phase == "starting":
        wait_for_step(process, out, wait)
    else:
        for _ in range(steps):
            wait_for_step(process, out)
        while phase == "saving" and process.poll() is None and moment_of(out) != IN_CHECKPOINT:
            time.sleep(0.001)
        time.sleep(wait)
    over = process.poll() is not None
    process.kill()
    process.wait()
    if over:
        raise SystemExit("the run was over before it could be killed; give it more --steps")


def moment_of(out: Path) -> str:
    """Say what the kill hit, by what it left."""
    folders = list(out.glob("checkpoints/checkpoint-*"))
    if any(not (folder / "COMPLETE").exists() for folder in folders):
        return IN_CHECKPOINT
    return "between checkpoints" if folders else "before the first checkpoint"


def differences(whole: Path, killed: Path) -> list[str]:
    """Return a sentence for everything that is not the same."""
    wrong = []
    if (whole / "model.safetensors").read_bytes() != (killed / "model.safetensors").read_bytes():
        wrong.append("the weights differ")
    for path in sorted((whole / "checkpoints").glob("*/*.safetensors")):
        if path.read_bytes() != (killed / path.relative_to(whole)).read_bytes():
            wrong.append(f"{path.relative_to(whole)} differs")
    for path in sorted((whole / "checkpoints").glob("*/optimizer.pt")):
        if not same(torch.load(path), torch.load(killed / path.relative_to(whole))):
            wrong.append(f"{path.relative_to(whole)} differs")
    ends = [json.loads((folder / "manifest.json").read_text(encoding="utf-8")) for folder in (whole, killed)]
    for end in ends:
        end["cost"].pop("seconds")
    one, other = ends
    wrong += [f"{key}: {one[key]} and {other[key]}" for key in ("cost", "resets") if one[key] != other[key]]
    if len(one["history"]) != len(other["history"]):
        wrong.append(f"{len(one['history'])} rows of numbers and {len(other['history'])}")
    for mine, theirs in zip(one["history"], other["history"], strict=False):
        for name in sorted(mine.keys() | theirs.keys()):
            timed = any(part in name for part in TAKES_TIME) or name.startswith("train_")
            if not timed and mine.get(name) != theirs.get(name):
                wrong.append(f"step {mine['step']}, {name}: {mine.get(name)} and {theirs.get(name)}")
    return wrong


def same(one: Any, other: Any) -> bool:
    """Whether nested containers hold equal tensors and values."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if torch.is_tensor(one) else bool(one == other)


if __name__ == "__main__":
    raise SystemExit(main())
