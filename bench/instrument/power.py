"""Holds the sharpened organism of `run.py` against power sampling of its base.

python bench/instrument/run.py --seeds 0 --out runs/instrument
python bench/instrument/power.py --out runs/instrument
"""

import argparse
from pathlib import Path

from planted import ENV
from run import PROBLEMS

from palestra.eval.compare import compare_runs
from palestra.eval.run import evaluate
from palestra.eval.settings import EvalSettings


def main() -> None:
    """Sample the base by power and at a low temperature, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=16)
    args = parser.parse_args()
    folder = args.out / "seed-0"
    common = {
        "model": str(folder / "models" / "base"),
        "env": ENV,
        "variant": ("train",),
        "problems": PROBLEMS,
        "samples": args.samples,
        "max_tokens": 8,
    }
    for name, how in (
        ("power", {"power_alpha": 4.0, "power_block": 8, "seed": 101}),
        ("low-temperature", {"temperature": 0.25, "seed": 102}),
    ):
        evaluate(EvalSettings.model_validate({**common, **how, "out": folder / "runs" / name}))
    runs = [f"base={folder / 'runs' / 'base'}", f"sharpened={folder / 'runs' / 'sharpened'}"]
    controls = [f"{name}={folder / 'runs' / name}" for name in ("power", "low-temperature")]
    for held in compare_runs(runs, controls=controls, samples=128).controls:
        print(f"{held.variant}: {held}")


if __name__ == "__main__":
    main()
