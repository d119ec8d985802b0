"""Times how long the samples of one run take to load for a comparison, and how much memory.

    python bench/loading.py [--problems 1000] [--samples 1024]

Writes a run without trajectories to a temporary folder first. Seconds of CPU, so that a busy machine counts less.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from palestra.eval.columns import read_columns
from palestra.eval.records import SAMPLES, SampleRecord, sample_line


def main() -> None:
    """Write, load, and say what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=1024)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        with (Path(folder) / SAMPLES).open("wb") as file:
            for problem, p in enumerate(rng.beta(0.5, 2.0, args.problems)):
                for sample, solved in enumerate(rng.random(args.samples) < p):
                    file.write(sample_line(_record(problem, sample, float(solved))))
        size = (Path(folder) / SAMPLES).stat().st_size
        wall, cpu = time.perf_counter(), time.process_time()
        columns = read_columns(folder)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{len(columns.problem)} samples, {size / 2**20:.0f} MiB: {wall:.1f} s, {cpu:.1f} s of CPU, {gigabytes:.2f} GB"
    )


def _record(problem: int, sample: int, outcome: float) -> SampleRecord:
    return SampleRecord(
        "palestra/Toy-v0", "test", problem, f"problem {problem}", sample, 2**63 + sample, outcome, {"steps": 0.5}, 1,
        40, 25, 0.25, "answer", None, 0, 300 * sample, answer="0123456789ab", logprob=-12.3456,
    )  # fmt: skip


if __name__ == "__main__":
    main()
