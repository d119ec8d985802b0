"""What the way over OpenEnv's protocol costs: oracle episodes of Dice in process and through OpenEnv's own client.

    python bench/interop.py [--rounds 7] [--seconds 2]        where openenv is installed (docs/interop.md)

A round plays episodes for some seconds in each way in turn, so that other load meets all alike; printed are medians.
CPU seconds are those of client and server together, which other load on the machine hardly moves.
"""

import argparse
import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from openenv.core import GenericEnvClient

from palestra.envs import make

ENV, VARIANT, TASKS = "palestra/Dice-v0", "test", 200


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    env = make(ENV, VARIANT)
    script = [env.solve(env.task_at(index)).turns for index in range(TASKS)]
    command = [sys.executable, "-u", "-m", "palestra", "serve", ENV, "--variant", VARIANT, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            found = re.search(r"http://\S+:\d+", server.stdout.readline())
            assert found is not None, "the server did not start"
            ways: dict[str, Callable[[], int]] = {
                "in process": lambda: in_process(script, options.seconds),
                "OpenEnv, 1 session": lambda: asyncio.run(remote(found[0], script, options.seconds, 1)),
                "OpenEnv, 16 sessions": lambda: asyncio.run(remote(found[0], script, options.seconds, 16)),
            }
            rates: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
            for _ in range(options.rounds):
                for name, way in ways.items():
                    wall, cpu = time.perf_counter(), cpu_seconds(server.pid)
                    steps = way()
                    spent = time.perf_counter() - wall, cpu_seconds(server.pid) - cpu
                    rates[name].append((steps / spent[0], steps / spent[1]))
        finally:
            server.terminate()
    print(f"{'':22} {'steps/s':>9} {'(range)':>16}   {'per CPU-second':>15} {'(range)':>16}   n = {options.rounds}")
    for name, pairs in rates.items():
        columns = [f"{median(v):>9,.0f} {f'({min(v):,.0f}-{max(v):,.0f})':>16}" for v in zip(*pairs, strict=True)]
        print(f"{name:22} {columns[0]}   {columns[1]:>32}")


def cpu_seconds(pid: int) -> float:
    """CPU time of this process and of another, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return time.process_time() + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def in_process(script: list[tuple[str, ...]], seconds: float) -> int:
    """Return the steps played in so many seconds; the resets are part of it."""
    env = make(ENV, VARIANT)
    steps, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        for index, turns in enumerate(script):
            env.reset(options={"index": index})
            for turn in turns:
                env.step(turn)
            steps += len(turns)
    return steps


async def remote(address: str, script: list[tuple[str, ...]], seconds: float, sessions: int) -> int:
    """The same through OpenEnv's client, in so many sessions at once."""

    async def play(client: Any, began: float) -> int:
        steps, index = 0, 0
        while time.perf_counter() - began < seconds:
            await client.reset(index=index % TASKS)
            for turn in script[index % TASKS]:
                result = await client.step({"text": turn})
            assert result.reward == 1.0
            steps += len(script[index % TASKS])
            index += 1
        return steps

    clients = [GenericEnvClient(base_url=address) for _ in range(sessions)]
    for client in clients:
        await client.connect()
    began = time.perf_counter()
    steps = sum(await asyncio.gather(*(play(client, began) for client in clients)))
    for client in clients:
        await client.close()
    return steps


if __name__ == "__main__":
    main()
