"""Holds the instrument against organisms whose truth is planted: sharpening, discovery, loss, and placebos.

    python bench/instrument/run.py --seeds 0 1 2 3 4 --out runs/instrument

Per seed: a base, three organisms planted from it, two trained from it under a placebo (GRPO with random rewards, GRPO
on keys of another family), and the base once more under another seed. Each is evaluated, confirmed and compared as by
`palestra eval`, `palestra confirm` and `palestra compare`. Prints what was planted, what the verdict says, and what is
true by the exact probabilities; exits 1 if a verdict has a label that is false, or lacks one that was planted.
"""

import argparse
import json
import random
from pathlib import Path

import numpy as np
from planted import ENV, exact, plant, tasks

from palestra.eval.compare import compare_runs
from palestra.eval.confirming import confirm
from palestra.eval.run import evaluate
from palestra.eval.settings import EvalSettings
from palestra.eval.stats.exact import theta
from palestra.rl.rundir import RunFolder
from palestra.rl.settings import TrainSettings
from palestra.rl.train import train

PROBLEMS, OTHERS = 100, 30
STEPS = 500
PLANTED = {"sharpened": "SHARPEN", "discovering": "DISCOVER", "losing": "LOSE"}
PLACEBOS = ("random-reward", "other-family", "again")


def main() -> int:
    """Run all seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=128)
    args = parser.parse_args()
    wrong = 0
    for seed in args.seeds:
        folder = args.out / f"seed-{seed}"
        known = tasks("train", PROBLEMS)
        make_organisms(folder, seed, known)
        truth = {path.name: exact(path, known) for path in sorted((folder / "models").iterdir())}
        for arm in (*PLANTED, *PLACEBOS):
            found = judge(folder, arm, seed, args.samples)
            expected = labels(truth["base"], truth["base" if arm == "again" else arm])
            said = set(found["labels"]) - {"NOT DECIDED"}
            bad = bool(said - expected) or bool({PLANTED.get(arm)} - {None} - said)
            wrong += bad
            print(json.dumps({"seed": seed, "arm": arm, "true": sorted(expected), "wrong": bad, **found}), flush=True)
    return int(wrong > 0)


def make_organisms(folder: Path, seed: int, known: list) -> None:
    """Build what is not there yet."""
    rng = np.random.default_rng(seed)
    others = tasks("train-other", OTHERS)
    share = np.where(
        np.arange(PROBLEMS) < PROBLEMS // 2, np.exp(rng.uniform(np.log(0.08), np.log(0.5), PROBLEMS)), 0.0
    )
    strong = np.flatnonzero(share > 0.2)
    lost = rng.permutation(strong)[:12]
    found = PROBLEMS // 2 + rng.permutation(PROBLEMS // 2)[:12]
    worlds = {
        "base": share,
        "sharpened": np.cbrt(share),
        "losing": np.where(np.isin(np.arange(PROBLEMS), lost), 0.0, share),
        "discovering": np.where(np.isin(np.arange(PROBLEMS), found), 0.4, share),
    }
    models = folder / "models"
    models.mkdir(parents=True, exist_ok=True)
    for name, shares in worlds.items():
        if not (models / name).exists():
            start = None if name == "base" else models / "base"
            wanted = {task.key: float(p) for task, p in zip(known, shares, strict=True)} | {t.key: 0.3 for t in others}
            plant(
                start, wanted, known + others, models / name, steps=STEPS if start is None else STEPS // 2, seed=seed
            )
    for name, reward, variant in (("random-reward", "random", "train"), ("other-family", "outcome", "train-other")):
        if not (models / name).exists():
            settings = TrainSettings(
                model=str(models / "base"),
                env=ENV,
                variant=variant,
                reward=reward,
                out=folder / name,
                seed=seed,
                steps=20,
                prompts=16,
                group_size=8,
                lr=3e-5,
                max_tokens=8,
                track="none",
            )
            with RunFolder(settings.out, "train", settings) as run:
                train(settings, run)
            (models / name).symlink_to((folder / name).resolve())


def judge(folder: Path, arm: str, seed: int, samples: int) -> dict:
    """Evaluate an arm and the base, confirm, and compare."""
    runs = {label: folder / "runs" / label for label in ("base", arm)}
    for label, out in runs.items():
        evaluate(
            EvalSettings(
                model=str(folder / "models" / ("base" if label == "again" else label)),
                env=ENV,
                variant=("train",),
                problems=PROBLEMS,
                samples=samples,
                max_tokens=8,
                # Of its own: with the same random numbers two models' samples would not be independent.
                seed=random.Random(f"{seed}|{label}").getrandbits(32),
                out=out,
            )
        )
    list(confirm(runs["base"], runs[arm], samples=samples))
    comparison = compare_runs([f"base={runs['base']}", f"{arm}={runs[arm]}"], samples=samples)
    (found,) = comparison.verdicts
    curves = found.verdict.curves
    assert curves is not None
    return {
        "labels": [str(label) for label in found.verdict.labels],
        "delta_1": [round(x, 4) for x in curves.delta.band(0)],
        "delta_K": [round(x, 4) for x in curves.delta.band(-1)],
        "excess": [round(x, 4) for x in curves.excess],
        "discovered": f"{found.verdict.discovered.confirmed.sum()} of {found.verdict.discovered.candidates.sum()}",
        "lost": f"{found.verdict.lost.confirmed.sum()} of {found.verdict.lost.candidates.sum()}",
    }


def labels(base: np.ndarray, trained: np.ndarray, last: int = 64, margin: float = 0.05) -> set[str]:
    """Return the labels that are true by the definitions, from exact probabilities."""
    found = set()
    for label, weak, strong in (("DISCOVER", base, trained), ("LOSE", trained, base)):
        if np.any((theta(weak, 256) <= 0.5) & (strong >= 0.05)):
            found.add(label)
    ks = np.arange(1, last + 1)
    delta = np.array([(theta(trained, k) - theta(base, k)).mean() for k in ks])
    excess = (theta(trained, last) * (1 - theta(base, last)) - theta(base, last) * (1 - theta(base, last))).mean()
    if delta[0] > 0 and delta[-1] < margin and excess < margin:
        found.add("SHARPEN")
    if delta[-1] < 0:
        found.add("SHRINK")
    if np.abs(delta).max() < margin:
        found.add("NO EFFECT")
    return found


if __name__ == "__main__":
    raise SystemExit(main())
