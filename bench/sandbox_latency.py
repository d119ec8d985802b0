"""Measure what one execution in the local sandbox costs, beside a plain interpreter.

Run: `python bench/sandbox_latency.py [RUNS]` (default 50). Prints the median and the 95th percentile of whole
calls in milliseconds, and the machine's load: on a busy machine only the ratios mean something.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from palestra.envs.sandbox import open_sandbox

CODE = "print(6 * 7)"


def measure(call: Callable[[], object], runs: int) -> list[float]:
    """Return the sorted durations of `runs` calls in milliseconds, after three that do not count."""
    durations = []
    for number in range(runs + 3):
        began = time.perf_counter()
        call()
        if number >= 3:
            durations.append(1e3 * (time.perf_counter() - began))
    return sorted(durations)


def main(argv: list[str]) -> int:
    """Measure and print."""
    runs = int(argv[0]) if argv else 50
    rows: dict[str, Callable[[], object]] = {
        "interpreter": lambda: subprocess.run([sys.executable, "-I", "-c", CODE], capture_output=True, check=True)
    }
    with open_sandbox("unsafe-process") as unsafe, open_sandbox("local") as local:
        rows["unsafe-process"] = lambda: unsafe.run(CODE)
        rows["local"] = lambda: local.run(CODE)
        print(f"{runs} runs each, load {os.getloadavg()[0]:.1f}")
        for name, call in rows.items():
            durations = measure(call, runs)
            late = durations[int(0.95 * (runs - 1))]
            print(f"{name:15} median {statistics.median(durations):6.1f} ms   95 % {late:6.1f} ms")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
