"""Times the full comparison of three checkpoints on simulated counts, on the cores of this machine.

    python bench/comparison.py [--problems 1000] [--samples 1024] [--resamples 10000] [--gate]

Per checkpoint and per difference: bands over k; per trained checkpoint: verdict with discoveries, coverage sets,
efficiency and plan. `--gate` exits 1 unless it took under 10 s and 2 GB, the limits we promise.
"""

import argparse
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from palestra.eval.stats.coverage import coverage
from palestra.eval.stats.discovery import Fresh
from palestra.eval.stats.efficiency import efficiency
from palestra.eval.stats.intervals import ProblemBootstrap
from palestra.eval.stats.passk import IntArray, k_grid, pass_at_k_curve
from palestra.eval.stats.plan import plan
from palestra.eval.stats.verdict import Evidence, Verdict, VerdictRule, verdict

MAX_SECONDS = 10.0
MAX_GIGABYTES = 2.0


def main() -> int:
    """Run the comparison, print its times, and say whether it kept the limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--gate", action="store_true", help="exit 1 over 10 s or 2 GB")
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    m, n = args.problems, args.samples
    p = np.where(rng.random(m) < 0.2, 0.0, rng.beta(0.5, 2.0, m))
    checkpoints = [p, np.sqrt(p), np.where(p > 0.01, np.cbrt(p), np.where(rng.random(m) < 0.1, 0.4, p))]
    counts = [rng.binomial(n, chance) for chance in checkpoints]

    start = time.perf_counter()
    bootstrap = ProblemBootstrap(m, resamples=args.resamples)
    ks = k_grid(n)
    with timed(f"bands at {len(ks)} k up to {n}: 3 curves, 3 differences"):
        curves = [pass_at_k_curve(n, c) for c in counts]
        for curve in curves:
            bootstrap.curve(curve[:, ks - 1])
        for i, j in ((1, 0), (2, 0), (2, 1)):
            bootstrap.curve((curves[i] - curves[j])[:, ks - 1], bounds=(-1.0, 1.0))
    for i in (1, 2):
        with timed(f"checkpoint {i}: verdict"):
            found = judge(rng, n, counts, checkpoints, i, args.resamples)
        with timed(f"checkpoint {i}: coverage, efficiency, plan"):
            coverage(bootstrap, n, counts[0], n, counts[i], n // 2)
            efficiency(bootstrap, curves[0], curves[i])
            plan(n, counts[i], counts[0], k=n // 2, delta=0.05)
        print(f"    {', '.join(found.labels)}: {found.budget}")
    seconds = time.perf_counter() - start
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"all: {seconds:.1f} s, {gigabytes:.2f} GB at most")
    return int(args.gate and (seconds > MAX_SECONDS or gigabytes > MAX_GIGABYTES))


def judge(
    rng: np.random.Generator, n: int, counts: list[IntArray], truth: list[np.ndarray], trained: int, resamples: int
) -> Verdict:
    """Draw fresh samples where they are needed, and judge."""
    rule = VerdictRule(resamples=resamples)
    first = Evidence(n, counts[0], counts[trained])
    gains, losses = first.discovery_candidates(rule.discovery), first.loss_candidates(rule.discovery)
    fresh = [
        Fresh(np.where(chosen, 2048, 0), rng.binomial(np.where(chosen, 2048, 0), chance))
        for chosen, chance in ((gains, truth[0]), (losses, truth[trained]))
    ]
    return verdict(Evidence(n, counts[0], counts[trained], fresh[0], fresh[1]), rule)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long a step took."""
    start = time.perf_counter()
    yield
    print(f"{what}: {time.perf_counter() - start:.2f} s")


if __name__ == "__main__":
    raise SystemExit(main())
