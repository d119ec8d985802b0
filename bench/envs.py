"""Time our environments against others on the same small tasks: CPU microseconds per step, in turns, in one run.

Run: `python bench/envs.py` (some minutes), `--quick` (under one), `--peer-python NAME=PATH` for systems that live in
another virtual environment (see `peers-envs.txt`), `--json FILE`, `--gate` (exit 1 unless the ratios below hold).
Each system plays in a process of its own; the processes take turns, round after round in another order, so that
whatever else the machine does hits all of them. Time is CPU time, of threads and ended children too. What is not
installed is left out with a note.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from envs_contenders import CONTENDERS, Contender

HERE = Path(__file__).parent
OURS = {
    "our time / this": {"guess": "palestra guess", "sum": "palestra sum", "item": "palestra item"},
    "ours in groups / this": {"guess": "palestra guess, groups", "sum": "palestra sum, groups"},
    "ours unsplit / this": {"guess": "palestra guess, unsplit"},
    "ours from rows / this": {"sum": "palestra sum, rows", "retry": "palestra retry"},
}
_RESAMPLES = 2_000
_ROUND_LIMIT = {"verifiers sum": 2}
"""Rounds of systems of which one takes long."""


class Gate(NamedTuple):
    """At most how many times the reference's time per step a system may take; with room for noise."""

    name: str
    reference: str
    most: float


GATES = (
    Gate("palestra guess", "bare guess", 5.0),
    Gate("palestra guess, groups", "bare guess", 3.5),
    Gate("palestra guess", "gem guess, seeded", 1.5),
    Gate("palestra guess, groups", "gem guess, seeded", 1.0),
    Gate("palestra guess, unsplit", "gem guess, seeded", 1.2),
    Gate("palestra guess", "textarena guess", 1.5),
    Gate("palestra guess", "openenv guess", 1 / 50),
    Gate("palestra sum", "gem sum", 1.0),
    Gate("palestra sum, groups", "skyrl-gym sum", 1.0),
    Gate("palestra sum, rows", "gem sum", 1.0),
    Gate("palestra sum, rows", "skyrl-gym sum", 1.0),
    Gate("palestra retry", "skyrl-gym retry", 1.0),
    Gate("palestra sum", "verifiers sum", 1 / 1000),
)
"""Measured (docs/results/envs.md): 2.8, 2.2, 1.1, 0.88, 1.0, 0.78, 1/200, 0.28, 0.67, 0.09, 0.67, 0.80, 1/110,000."""


@dataclass
class Row:
    """What was measured of one system."""

    name: str
    contender: Contender
    version: str = ""
    us_per_step: list[float] = field(default_factory=list)
    """By round."""
    episodes_per_s: list[float] = field(default_factory=list)
    steps: int = 0


class Player:
    """A process that plays one system."""

    def __init__(self, name: str, python: str, stack: ExitStack) -> None:
        command = [python, str(HERE / "envs_contenders.py"), name]
        quiet = {**os.environ, "PYTHONWARNINGS": "ignore", "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=quiet
        )
        stack.callback(self._end)
        self.hello = self._answer()

    def play(self, seconds: float) -> dict[str, float]:
        """Let it play for so many CPU seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"missing": "its process ended"}
        return answer

    def _end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def main() -> int:
    """Measure, print the tables, and say whether the gates hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds, without verifiers")
    parser.add_argument("--peer-python", action="append", default=[], metavar="NAME=PATH", help="interpreter for NAME")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only systems whose name begins so")
    parser.add_argument("--json", type=Path, help="write everything measured")
    parser.add_argument("--gate", action="store_true", help="exit 1 unless the ratios hold")
    args = parser.parse_args()
    pythons = dict(entry.partition("=")[::2] for entry in args.peer_python)
    rounds, seconds = (7, 0.1) if args.quick else (25, 0.3)
    names = [n for n in CONTENDERS if not args.only or n.startswith(tuple(args.only))]
    if args.quick:
        names = [n for n in names if n not in _ROUND_LIMIT]

    rows, notes = measure(names, pythons, rounds, seconds)
    many = json.loads(
        subprocess.run(
            [sys.executable, str(HERE / "envs_many.py"), *["--quick"] * args.quick],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )
    print(report(rows, notes, many, rounds))
    if args.json:
        raw = {
            name: {"version": r.version, "steps": r.steps, "us_per_step": r.us_per_step} for name, r in rows.items()
        }
        args.json.write_text(json.dumps({"systems": raw, "many": many, "notes": notes}, indent=1), encoding="utf-8")
    broken = [gate for gate in GATES if not holds(gate, rows)]
    for gate in broken:
        print(f"not held: {gate.name} takes more than {gate.most:.3g} times as long as {gate.reference}")
    return int(args.gate and bool(broken))


def measure(
    names: list[str], pythons: dict[str, str], rounds: int, seconds: float
) -> tuple[dict[str, Row], list[str]]:
    """Let all systems play, in turns."""
    rows, notes, players = {}, [], {}
    with ExitStack() as stack:
        for name in names:
            system = name.partition(" ")[0]
            player = Player(name, pythons.get(name, pythons.get(system, sys.executable)), stack)
            if "missing" in player.hello:
                notes.append(f"{name}: left out, {player.hello['missing']}")
                continue
            players[name] = player
            rows[name] = Row(name, CONTENDERS[name], player.hello["version"])
        rng = random.Random(0)
        for done in range(rounds):
            for name in rng.sample(list(players), len(players)):
                if done >= _ROUND_LIMIT.get(name, rounds):
                    continue
                played = players[name].play(seconds)
                if "missing" in played:
                    notes.append(f"{name}: stopped in round {done + 1}, {played['missing']}")
                    del players[name]
                    continue
                rows[name].us_per_step.append(1e6 * played["cpu_s"] / played["steps"])
                rows[name].episodes_per_s.append(played["episodes"] / played["cpu_s"])
                rows[name].steps += int(played["steps"])
    return {name: row for name, row in rows.items() if row.us_per_step}, notes


def ratios(row: Row, reference: Row) -> list[float]:
    """Return how many times the reference's time per step the system took, round by round."""
    if len(row.us_per_step) == len(reference.us_per_step):
        return [a / b for a, b in zip(row.us_per_step, reference.us_per_step, strict=True)]
    return [statistics.median(row.us_per_step) / statistics.median(reference.us_per_step)]


def holds(gate: Gate, rows: dict[str, Row]) -> bool:
    """Whether a gate holds; one whose systems were not measured does."""
    if gate.name not in rows or gate.reference not in rows:
        return True
    return statistics.median(ratios(rows[gate.name], rows[gate.reference])) <= gate.most


def interval(values: list[float]) -> str:
    """Write a median with its 95% bootstrap interval over rounds."""
    median = statistics.median(values)
    if len(values) < 5:
        return f"{median:.3g}"
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(_RESAMPLES))
    return f"{median:.3g} ({medians[_RESAMPLES // 40]:.3g}-{medians[-_RESAMPLES // 40]:.3g})"


def report(rows: dict[str, Row], notes: list[str], many: dict[str, float], rounds: int) -> str:
    """Write what was measured as Markdown."""
    lines = [
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, Python "
        f"{platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}; {rounds} rounds, medians with 95% intervals",
        "",
    ]
    for task in dict.fromkeys(row.contender.task for row in rows.values()):
        lines += [
            f"| {task} | | n steps | CPU us per step | episodes per CPU-s | {' | '.join(OURS)} |",
            f"|{'---|' * (5 + len(OURS))}",
        ]
        for row in rows.values():
            if row.contender.task == task:
                ours = [names.get(task) for names in OURS.values()]
                beside = [interval(ratios(rows[name], row)) if name in rows else "-" for name in ours]
                title = f"{row.name.partition(' ')[0]} {row.version}".strip()
                lines.append(
                    f"| {title} | {row.contender.note} | {row.steps:,} | {interval(row.us_per_step)} | "
                    f"{statistics.median(row.episodes_per_s):,.3g} | {' | '.join(beside)} |"
                )
        lines.append("")
    lines += [f"- {name}: {value:,.4g}" for name, value in many.items()]
    return "\n".join([*lines, *(f"- {note}" for note in notes)])


if __name__ == "__main__":
    raise SystemExit(main())
