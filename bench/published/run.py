"""Imports published results and compares them: Qwen2.5-7B before and after SimpleRL-Zoo, on MATH500.

    python bench/published/run.py --out runs/math500

`math500.json` holds how many of 128 samples of each problem were right, as an independent reproduction of
Limit-of-RLVR (arXiv 2504.13837) published them, with its pass@k. The score lists that were counted are not published;
lists with as many right samples stand for them, which is all that pass@k depends on. Prints how far the imported
curves are from the published ones, and exits 1 beyond rounding; `palestra compare` on the two runs gives the verdict.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from palestra.envs.errors import UsageError
from palestra.eval.compare import compare_runs
from palestra.eval.importing import import_scores

RESULTS: dict[str, Any] = json.loads(Path(__file__).with_name("math500.json").read_text(encoding="utf-8"))


def import_published(model: str, out: Path) -> Path:
    """Make a run of a model's counts and return its folder."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{model}.jsonl"
    lines = [
        json.dumps({"idx": problem, "score": [True] * correct + [False] * (RESULTS["samples"] - correct)})
        for problem, correct in enumerate(RESULTS["correct"][model])
    ]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    import_scores([file], out / model, name="math500", model=model, sampling=RESULTS["sampling"])
    return out / model


def distance(run: Path) -> float:
    """Return the largest difference between a run's curve and the published one."""
    (found,) = compare_runs([run], resamples=50).variants[0].runs
    published = RESULTS["pass_at_k"][run.name]
    return max(abs(found.at(int(k)).estimate - value) for k, value in published.items())


def main() -> int:
    """Import both models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    try:
        runs = [import_published(model, args.out) for model in RESULTS["correct"]]
    except UsageError as error:
        parser.error(str(error))
    differences = [distance(run) for run in runs]
    for run, difference in zip(runs, differences, strict=True):
        print(f"{run}: at most {difference:.1e} from the published pass@k")
    print("next: palestra compare " + " ".join(map(str, runs)))
    return int(max(differences) > 1e-12)


if __name__ == "__main__":
    raise SystemExit(main())
