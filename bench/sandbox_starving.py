"""Let code burn every processor that it gets, and see how late its time limit comes and how long others wait.

Run: `python bench/sandbox_starving.py --backend local --runs 20`. The code has forty threads that contend for the
interpreter, and as many busy processes as it may fork. Meanwhile a process of ordinary priority, in a session of its
own, wakes every 20 ms: how long it slept at most is what code can do to others.
"""

import argparse
import select
import statistics
import subprocess
import sys
import time

from palestra.envs.sandbox import open_sandbox

BURN = """\
import os, threading
def burn():
    while True:
        pass
for _ in range(40):
    threading.Thread(target=burn, daemon=True).start()
try:
    while True:
        if os.fork() == 0:
            burn()
except OSError:
    burn()
"""
WITNESS = """\
import select, time
last, longest = time.monotonic(), 0.0
print(flush=True)
while not select.select([0], [], [], 0.02)[0]:
    now = time.monotonic()
    last, longest = now, max(longest, now - last)
print(max(longest, time.monotonic() - last))
"""


class Witness:
    """A process that wants a processor now and then, and notes how long it waited at most."""

    def __enter__(self) -> "Witness":
        self._process = subprocess.Popen(
            [sys.executable, "-c", WITNESS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert self._process.stdout is not None
        select.select([self._process.stdout], [], [])
        return self

    def __exit__(self, *error: object) -> None:
        self.waited_s = float(self._process.communicate(b"\n")[0])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=["local", "docker"], default="local")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--timeout", type=float, default=8.0, help="seconds (default: 8)")
    args = parser.parse_args()
    late, waited = [], []
    with open_sandbox(args.backend) as sandbox:
        for _ in range(args.runs):
            with Witness() as witness:
                began = time.monotonic()
                result = sandbox.run(BURN, timeout=args.timeout)
                late.append(time.monotonic() - began - args.timeout)
            waited.append(witness.waited_s)
            print(f"{result.status}, {late[-1]:.2f} s late; others waited up to {waited[-1]:.2f} s", flush=True)
        stats = sandbox.stats()
    for name, values in (("time limit late", late), ("others waited", waited)):
        print(
            f"{name}: median {statistics.median(values):.2f} s, most {max(values):.2f} s, "
            f"over half a second in {sum(value > 0.5 for value in values)} of {len(values)} runs"
        )
    print(stats)


if __name__ == "__main__":
    main()
