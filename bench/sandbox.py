"""Measure what running a piece of code costs: our sandboxes, what they are built from, and what others offer.

Run: `python bench/sandbox.py` (twenty minutes), `--quick` (three), `--only local bubblewrap`, `--json FILE`, `--gate`.
All ways are measured in turns, round after round, so that whatever else the machine does hits all of them; on a
busy machine only the ratios mean something. Latency is measured at two paces: calls without a pause, and calls with
one between them. What is not installed (docker, llm-sandbox, smolagents, ipykernel) is
left out, with a note. Every call prints `42` and is checked to have done so.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from processes import descendants, still_there
from sandbox_modes import (
    BUBBLEWRAP,
    DOCKER,
    DOCKER_EXEC,
    DOCKER_EXEC_LOADED,
    LOCAL,
    MODES,
    PRINTED,
    Call,
    Mode,
    UnavailableError,
)

from palestra.envs.errors import PalestraError
from palestra.envs.sandbox import Sandbox, open_sandbox
from palestra.envs.sandbox.containers import connect

IN_FLIGHT = (1, 8, 64)
TIME_LIMITS_S = (0.2, 0.5, 1.0)
NEXT, APART = "one right after the other", "20 ms apart"
PACES = {NEXT: 0.0, APART: 0.02}
"""How calls follow each other, and the seconds between them: without any, all that goes with a call has to be done
before the next one (the next child above all); an agent's calls have a model's turns between them."""
GATES = (
    (NEXT, LOCAL, BUBBLEWRAP, 3.0),
    (NEXT, LOCAL, DOCKER_EXEC, 12.0),
    (NEXT, DOCKER, DOCKER_EXEC, 6.0),
    (NEXT, LOCAL, DOCKER_EXEC_LOADED, 20.0),
    (NEXT, DOCKER, DOCKER_EXEC_LOADED, 20.0),
    (APART, LOCAL, BUBBLEWRAP, 3.0),
    (APART, LOCAL, DOCKER_EXEC, 12.0),
)
"""Pace, mode, reference, and how many times faster its median has to be, on a busy machine too.

Against a bare `docker exec` these guard against getting worse: docs/results/sandbox.md has what was measured."""
_BACKENDS = {"local": LOCAL, "docker": DOCKER}
_WARM_MS = 50.0
_SETTLED_S = 1.5
_ORPHANS_LIMIT_S = 20.0
_HOST = """\
import sys, time
from palestra.envs.sandbox import open_sandbox
sandbox = open_sandbox(sys.argv[1])
session = sandbox.session()
session.run("kept = 1")
busy = [place.submit("while True: pass", timeout=600) for place in (sandbox, sandbox, session)]
print("started", flush=True)
time.sleep(600)
"""


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    rounds: int
    calls: int
    """Calls of a mode in a round and pace, if they take no longer than `seconds`."""
    seconds: float
    rate_rounds: int
    rate_seconds: float
    time_outs: int
    kills: int


QUICK = Effort(rounds=6, calls=10, seconds=0.4, rate_rounds=1, rate_seconds=0.5, time_outs=4, kills=2)
FULL = Effort(rounds=40, calls=25, seconds=0.8, rate_rounds=4, rate_seconds=2.0, time_outs=20, kills=10)


@dataclass
class Row:
    """What was measured of a mode."""

    name: str
    isolation: str
    rounds: dict[str, list[list[float]]] = field(default_factory=lambda: {pace: [] for pace in PACES})
    """Pace -> milliseconds of each call, by round."""
    rates: dict[int, list[float]] = field(default_factory=dict)
    """In flight -> executions per second, by round."""

    def all(self, pace: str) -> list[float]:
        """The durations of all calls at a pace."""
        return [duration for durations in self.rounds[pace] for duration in durations]


@contextmanager
def opened(modes: list[Mode], notes: list[str]) -> Iterator[dict[Mode, Call]]:
    """Open all modes that can be opened here; the others get a note."""
    with ExitStack() as stack:
        calls = {}
        for mode in modes:
            try:
                call = stack.enter_context(mode.open())
                check(call())
            except (UnavailableError, PalestraError, WrongOutputError, OSError) as error:
                notes.append(f"{mode.name}: left out, {error}")
            except Exception as error:  # of somebody else's package: whatever it raises, the others are measured
                notes.append(f"{mode.name}: left out, {type(error).__name__}: {error}")
            else:
                calls[mode] = call
        yield calls


class WrongOutputError(Exception):
    """A call did not print what it should."""


def check(printed: str) -> None:
    """Raise unless the code did what it should."""
    if printed != PRINTED:
        raise WrongOutputError(f"it printed {printed[:200]!r}")


def latencies(call: Call, effort: Effort, pause: float) -> list[float]:
    """Return the milliseconds of some calls with a pause before each, after one that does not count."""
    check(call())
    durations: list[float] = []
    end = time.perf_counter() + effort.seconds
    while not durations or (len(durations) < effort.calls and time.perf_counter() < end):
        time.sleep(pause)
        began = time.perf_counter()
        printed = call()
        durations.append(1e3 * (time.perf_counter() - began))
        check(printed)
    return durations


def rate(call: Call, in_flight: int, seconds: float, *, warm_up: bool) -> float:
    """Return the calls per second of so many threads, each of which always has one under way."""
    count = [0] * in_flight
    started: list[float] = []
    barrier = threading.Barrier(in_flight, lambda: started.append(time.perf_counter()))

    def loop(index: int) -> float:
        if warm_up:
            check(call())
        barrier.wait()
        while time.perf_counter() < started[0] + seconds:
            check(call())
            count[index] += 1
        return time.perf_counter()

    with ThreadPoolExecutor(in_flight) as threads:
        ended = max(threads.map(loop, range(in_flight)))
    return sum(count) / (ended - started[0])


def compare(calls: dict[Mode, Call], effort: Effort) -> list[Row]:
    """Measure all modes in turns."""
    rows = {mode: Row(mode.name, mode.isolation) for mode in calls}
    for number in range(effort.rounds):
        progress(f"latency, round {number + 1} of {effort.rounds}")
        for mode, call in calls.items():
            for pace, pause in PACES.items():
                rows[mode].rounds[pace].append(latencies(call, effort, pause))
    for number in range(effort.rate_rounds):
        for in_flight in IN_FLIGHT:
            progress(f"executions/s with {in_flight} in flight, round {number + 1} of {effort.rate_rounds}")
            for mode, call in calls.items():
                if mode.at_once is None or in_flight <= mode.at_once:
                    warm_up = statistics.median(rows[mode].all(NEXT)) < _WARM_MS
                    found = rate(call, in_flight, effort.rate_seconds, warm_up=warm_up)
                    rows[mode].rates.setdefault(in_flight, []).append(found)
    progress("")
    return list(rows.values())


def speed_up(row: Row, reference: Row, pace: str, draws: int = 1000) -> tuple[float, float, float]:
    """Return how many times faster a mode is than another (medians), and a 95% bootstrap interval over rounds."""
    rng = np.random.default_rng(0)
    count = min(len(row.rounds[pace]), len(reference.rounds[pace]))
    ratios = []
    for _ in range(draws):
        chosen = rng.integers(count, size=count)
        ours, theirs = (np.median(np.concatenate([r.rounds[pace][i] for i in chosen])) for r in (row, reference))
        ratios.append(theirs / ours)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return statistics.median(reference.all(pace)) / statistics.median(row.all(pace)), float(low), float(high)


def time_outs(sandbox: Sandbox, effort: Effort) -> dict[float, list[float]]:
    """Return by time limit how many milliseconds later the caller of an endless loop got the result."""
    late: dict[float, list[float]] = {}
    for _ in range(effort.time_outs):
        for limit in TIME_LIMITS_S:
            began = time.perf_counter()
            result = sandbox.run("while True: pass", timeout=limit)
            late.setdefault(limit, []).append(1e3 * (time.perf_counter() - began - limit))
            if result.status != "timeout":
                raise WrongOutputError(f"an endless loop ended with {result.status}")
    return late


def orphans(backend: str, effort: Effort) -> list[float]:
    """Return the milliseconds from SIGKILL of a host, whose sandbox is busy, until no process of it is left."""
    durations = []
    for _ in range(effort.kills):
        command = [sys.executable, "-c", _HOST, backend]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as host:
            assert host.stdout is not None
            host.stdout.readline()
            left = _settled(lambda pid=host.pid: descendants(pid, *_container_processes(backend, pid)))  # type: ignore[misc]
            began = time.perf_counter()
            host.kill()
            while left := still_there(left):
                time.sleep(0.001)
                if time.perf_counter() > began + _ORPHANS_LIMIT_S:
                    raise WrongOutputError(f"{len(left)} processes outlived their killed host")
            durations.append(1e3 * (time.perf_counter() - began))
    return durations


def _settled(count: Callable[[], dict[int, str]]) -> dict[int, str]:
    """Return the processes when they have stayed the same for some time: all that is to run runs."""
    seen, since = count(), time.perf_counter()
    while time.perf_counter() < since + _SETTLED_S:
        time.sleep(0.05)
        if (now := count()) != seen:
            seen, since = now, time.perf_counter()
    return seen


def _container_processes(backend: str, host: int) -> list[int]:
    """Return the first process of each container that a host process has."""
    if backend != "docker":
        return []
    client = connect()
    try:
        listed = client.api.containers(filters={"label": f"palestra.pid={host}"})
        states = [client.api.inspect_container(summary["Id"])["State"] for summary in listed]
        return [state["Pid"] for state in states]
    finally:
        client.close()


def progress(text: str) -> None:
    """Show on a terminal what is being done; an empty text takes that away."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


def versions() -> dict[str, str]:
    """Return what was measured with, and on what."""
    found = {"date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "kernel": platform.release()}
    found |= {"machine": f"{platform.machine()}, {os.cpu_count()} processors", "python": platform.python_version()}
    for package in ("palestra", "numpy", "sympy", "docker", "llm-sandbox", "smolagents", "ipykernel"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    try:
        said = subprocess.run(["bwrap", "--version"], capture_output=True, check=True, encoding="utf-8").stdout
        found["bubblewrap"] = said.split()[-1]
    except OSError:
        pass
    try:
        client = connect()
        found["docker daemon"] = str(client.version()["Version"])
        client.close()
    except PalestraError:
        pass
    return found


def summary(rows: list[Row], pace: str) -> list[dict[str, Any]]:
    """Return a row of the table for each mode."""
    named = {row.name: row for row in rows}
    table = []
    for row in rows:
        p50, p95 = np.quantile(row.all(pace), (0.5, 0.95))
        line: dict[str, Any] = {"mode": row.name, "n": len(row.all(pace)), "p50_ms": float(p50), "p95_ms": float(p95)}
        line |= {f"per_s_{n}": statistics.median(row.rates[n]) if n in row.rates else None for n in IN_FLIGHT}
        for key, reference in (
            ("vs_bubblewrap", BUBBLEWRAP),
            ("vs_docker_exec", DOCKER_EXEC),
            ("vs_docker_exec_loaded", DOCKER_EXEC_LOADED),
        ):
            line[key] = speed_up(row, named[reference], pace) if reference in named else None
        table.append(line | {"isolation": row.isolation})
    return table


def show(table: list[dict[str, Any]], pace: str) -> None:
    """Print the table of a pace."""
    ratios = "times faster, median (95% interval) than"
    print(f"\nCalls {pace}\n\n{'':26}{'n':>5}{'p50':>9}{'p95':>9}  {'executions/s in flight':^24}  {ratios:^66}")
    counts = "".join(f"{n:>8}" for n in IN_FLIGHT)
    print(
        f"{'':31}{'ms':>9}{'ms':>9}  {counts}  {'bubblewrap':>22}{'docker exec':>22}{'+ numpy, sympy':>22}  isolation"
    )
    for line in table:
        rates = "".join(f"{line[f'per_s_{n}'] or 0:8.0f}" if line[f"per_s_{n}"] else f"{'-':>8}" for n in IN_FLIGHT)
        keys = ("vs_bubblewrap", "vs_docker_exec", "vs_docker_exec_loaded")
        ratios = "".join(f"{_interval(line[key]):>22}" for key in keys)
        print(
            f"{line['mode']:26}{line['n']:5}{line['p50_ms']:9.2f}{line['p95_ms']:9.2f}  {rates}  {ratios}"
            f"  {line['isolation']}"
        )


def _interval(ratio: tuple[float, float, float] | None) -> str:
    return "-" if ratio is None else f"{ratio[0]:.3g} ({ratio[1]:.3g}-{ratio[2]:.3g})"


def failed_gates(tables: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Return what is wrong with the ratios that have to hold on any machine."""
    wrong = []
    for pace, mode, reference, least in GATES:
        medians = {line["mode"]: line["p50_ms"] for line in tables[pace]}
        if mode not in medians or reference not in medians:
            wrong.append(f"{mode} against {reference}: not measured")
        elif (ratio := medians[reference] / medians[mode]) < least:
            wrong.append(f"{pace}, {mode} is {ratio:.1f} times as fast as {reference}, not {least:g} times")
    return wrong


def endings(backends: list[str], effort: Effort, notes: list[str]) -> dict[str, Any]:
    """Measure and print how time limits are kept, and what a killed host leaves."""
    found: dict[str, Any] = {}
    for backend in backends:
        progress(f"{backend}: time limits and orphans")
        try:
            with open_sandbox(backend) as sandbox:
                late = time_outs(sandbox, effort)
            after_kill = orphans(backend, effort)
        except (PalestraError, WrongOutputError) as error:
            notes.append(f"{backend}: time limits and orphans not measured, {error}")
            continue
        found[backend] = {"late_ms": late, "gone_after_kill_ms": after_kill}
        progress("")
        limits = "; ".join(f"{k:g} s: {statistics.median(v):.1f}, at most {max(v):.1f}" for k, v in late.items())
        print(f"{backend}: the result of an endless loop came later than asked for, by ms: {limits}")
        print(
            f"{backend}: no process left after SIGKILL of the host: median {statistics.median(after_kill):.0f} ms, "
            f"at most {max(after_kill):.0f} ms (n = {len(after_kill)})"
        )
    return found


def main(argv: list[str]) -> int:
    """Measure, print, and decide."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="measure for about a minute")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="modes whose name contains one of these")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements")
    parser.add_argument("--gate", action="store_true", help="exit 1 unless the ratios hold that have to")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of what removes containers
    effort = QUICK if options.quick else FULL
    modes = [mode for mode in MODES if options.only is None or any(name in mode.name for name in options.only)]
    if not modes:
        parser.error(f"--only: no such mode; there are: {', '.join(mode.name for mode in MODES)}")
    notes: list[str] = []
    facts = versions()
    load = os.getloadavg()
    with opened(modes, notes) as calls:
        rows = compare(calls, effort)
    tables = {pace: summary(rows, pace) for pace in PACES}
    for pace, table in tables.items():
        show(table, pace)
    print()
    measured = {row.name for row in rows}
    ends = endings([name for name, mode in _BACKENDS.items() if mode in measured], effort, notes)
    facts["load"] = " -> ".join("/".join(f"{value:.1f}" for value in values) for values in (load, os.getloadavg()))
    print("; ".join(f"{key} {value}" for key, value in facts.items()))
    for note in notes:
        print(f"note: {note}")
    wrong = failed_gates(tables) if options.gate else []
    for reason in wrong:
        print(f"GATE: {reason}")
    if options.json is not None:
        report = {"facts": facts, "tables": tables, "endings": ends, "notes": notes, "rows": [asdict(r) for r in rows]}
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
