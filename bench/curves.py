"""Learning curves of arms over training seeds, as a table, and what one arm has over the first.

    python bench/curves.py --arm outcome runs/outcome-{0,1,2} --arm turn runs/turn-{0,1,2} [--reach 0.5]

Reads the validations (`--validate-every`) that `palestra train` left in the runs' manifests. The runs of an arm stand
in the order of their training seeds, and arms are compared seed by seed: differences at equal optimiser steps (the
last that all runs have) and at equal sampled tokens (all of the run of the pair that sampled less), and with `--reach`
the ratio of the environment steps (turns played) until pass@1 reached it first, linear between validations. Intervals
are 95 %, t over seeds; ratios are averaged by their logarithms.
"""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from palestra.eval.stats.arms import at_cost


@dataclass(frozen=True)
class Curve:
    """Validations of one run; all of shape (validations,)."""

    steps: np.ndarray
    scores: np.ndarray
    tokens: np.ndarray
    """Sampled until then."""
    turns: np.ndarray
    """Played until then."""

    def at(self, tokens: float) -> float:
        """Return pass@1 when so many tokens had been sampled."""
        return float(at_cost(self.tokens, self.scores[None], tokens)[0])

    def turns_until(self, score: float) -> float:
        """Return the turns played when pass@1 first reached a score; infinity if it never did."""
        there = np.flatnonzero(self.scores >= score)
        if not len(there):
            return math.inf
        after = int(there[0])
        if after == 0:
            return 0.0
        before = after - 1
        share = (score - self.scores[before]) / (self.scores[after] - self.scores[before])
        return float(self.turns[before] + share * (self.turns[after] - self.turns[before]))


def read(run: str) -> Curve:
    """Read a run's curve.

    Raises:
        SystemExit: The run has no manifest, or was not validated.
    """
    try:
        manifest = json.loads((Path(run) / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SystemExit(f"{run}: no manifest that can be read ({error})") from error
    size = manifest["config"]["group_size"]
    tokens = turns = 0.0
    rows = []
    for log in manifest.get("history", []):
        tokens += log.get("episodes/tokens_sampled", 0.0)
        turns += log.get("episodes/turns", 0.0) * log.get("episodes/groups_sampled", 0.0) * size
        if "validation/pass@1" in log:
            rows.append((log["step"], log["validation/pass@1"], tokens, turns))
    if len(rows) < 2:
        raise SystemExit(f"{run}: fewer than two validations; train with --validate-every")
    return Curve(*np.array(rows).T)


def interval(values: Sequence[float]) -> str:
    """Return mean and 95 % t interval."""
    mean = float(np.mean(values))
    if len(values) == 1:
        return f"{mean:+.3f} (one run)"
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return f"{mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}]"


def ratio(values: Sequence[float]) -> str:
    """Return geometric mean and 95 % t interval of ratios, or what there is where an arm never got there."""
    if not all(0 < v < math.inf for v in values):
        return "not defined: " + ", ".join("never" if v in (0.0, math.inf) else f"{v:.2f}" for v in values)
    if len(values) == 1:
        return f"{values[0]:.2f} (one run)"
    logs = np.log(values)
    half = float(stats.t.ppf(0.975, len(logs) - 1) * stats.sem(logs))
    return f"{np.exp(logs.mean()):.2f} [{np.exp(logs.mean() - half):.2f}, {np.exp(logs.mean() + half):.2f}]"


def print_curves(arms: dict[str, list[Curve]]) -> None:
    """Print a row per run."""
    steps = max((curves[0].steps for curves in arms.values()), key=len)
    print("| pass@1 after step | " + " | ".join(f"{s:g}" for s in steps) + " | tokens sampled | turns played |")
    print("|---" * (len(steps) + 3) + "|")
    for name, curves in arms.items():
        for seed, curve in enumerate(curves):
            scores = " | ".join(f"{s:.3f}".lstrip("0") for s in curve.scores) + " | " * (len(steps) - len(curve.steps))
            print(f"| {name}, seed {seed} | {scores} | {curve.tokens[-1]:,.0f} | {curve.turns[-1]:,.0f} |")


def print_comparisons(arms: dict[str, list[Curve]], reach: float | None) -> None:
    """Print every arm's gain, and what it has over the first."""
    first, *others = arms
    last = min(len(curve.steps) for curves in arms.values() for curve in curves) - 1
    step = arms[first][0].steps[last]
    for name, curves in arms.items():
        print(f"{name}: gain {interval([c.scores[-1] - c.scores[0] for c in curves])}", end="")
        if reach is not None:
            print(f"; turns until {reach:g}: " + ", ".join(f"{c.turns_until(reach):,.0f}" for c in curves), end="")
        print()

    def over_seeds(name: str, measure: Callable[[Curve, Curve], float]) -> list[float]:
        return [measure(a, b) for a, b in zip(arms[name], arms[first], strict=True)]

    for name in others:
        steps = over_seeds(name, lambda a, b: float(a.scores[last] - b.scores[last]))
        tokens = over_seeds(name, _at_equal_tokens)
        print(f"{name} - {first}: {interval(steps)} at step {step:g}, {interval(tokens)} at equal tokens")
        if reach is not None:
            ratios = over_seeds(name, lambda a, b: _quotient(b.turns_until(reach), a.turns_until(reach)))
            print(f"{first} needs {ratio(ratios)} times the turns of {name} to reach {reach:g}")


def _at_equal_tokens(a: Curve, b: Curve) -> float:
    tokens = float(min(a.tokens[-1], b.tokens[-1]))
    return a.at(tokens) - b.at(tokens)


def _quotient(a: float, b: float) -> float:
    return math.inf if math.isinf(a) else a / b if b else math.nan


def main() -> None:
    """Read, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", nargs="+", action="append", required=True, metavar=("NAME", "RUN"))
    parser.add_argument("--reach", type=float, help="pass@1 whose first reaching is compared")
    args = parser.parse_args()
    arms = {name: [read(run) for run in runs] for name, *runs in args.arm}
    if len({len(curves) for curves in arms.values()}) > 1:
        parser.error("every arm needs a run per training seed, the same seeds in the same order")
    all_steps = [tuple(curve.steps) for curves in arms.values() for curve in curves]
    longest = max(all_steps, key=len)
    if any(steps != longest[: len(steps)] for steps in all_steps):
        parser.error("the runs were not validated after the same steps; train all with the same --validate-every")
    print_curves(arms)
    print_comparisons(arms, args.reach)


if __name__ == "__main__":
    main()
