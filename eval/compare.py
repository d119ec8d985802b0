"""Compares run directories of one environment: pass@k of each run, and every difference, with intervals.

    comparison = compare_runs(["base=runs/a", "sft=runs/b", "rl=runs/c"])

The first run is the reference. Runs must have drawn the same problems of the same variants with the same
sampling settings, or the comparison is refused. Every problem contributes its first n samples, n being the
smallest number that all problems of all runs have, so that no curve is extrapolated and none changes its
set of problems with k. The result depends on the runs and on `seed` alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from palestra.envs.errors import PalestraError, UsageError, unknown_name
from palestra.eval.comparison import Comparison, Curve, Difference, RunCurve, RunInfo, VariantComparison
from palestra.eval.records import first_difference, read_manifest, read_rows, sample_id, sample_name
from palestra.eval.stats.intervals import ProblemBootstrap
from palestra.eval.stats.passk import FloatArray, IntArray, pass_at_k_curve

__all__ = [
    "Comparison",
    "Curve",
    "Difference",
    "RunCurve",
    "RunInfo",
    "VariantComparison",
    "compare_runs",
]

FEW_PROBLEMS = 20
"""Percentile intervals over fewer problems are too narrow."""


def compare_runs(
    runs: Sequence[str | Path],
    *,
    variants: Sequence[str] | None = None,
    resamples: int = 2000,
    alpha: float = 0.05,
    seed: int = 0,
) -> Comparison:
    """Compare runs, the first being the reference.

    Args:
        runs: Run directories; a string may be "LABEL=PATH". The label is otherwise the folder's name. One run
            alone gives curves and no difference.
        variants: Compare these variants only.
        resamples: Bootstrap resamples.
        alpha: One minus the coverage.
        seed: Seed of the bootstrap.

    Raises:
        UsageError: A folder is no run, two runs share a label, or the runs cannot be compared; the message
            names the difference.
        PalestraError: A run holds samples that ended in an infrastructure error, or a damaged file.
    """
    if not runs:
        raise UsageError("give at least one run directory.")
    loaded = [_load(*_label_and_path(run), variants) for run in runs]
    _check_comparable(loaded)
    n = min(run.samples_per_problem() for run in loaded)
    if n == 0:
        label = next(run.info.label for run in loaded if run.samples_per_problem() == 0)
        raise UsageError(f"{label} has problems without a first sample; resume it until every problem has one.")
    names = sorted(loaded[0].outcomes, key=lambda name: (name != "test", name))
    return Comparison(
        env=loaded[0].env,
        sampling=loaded[0].info.manifest["sampling"],
        n=n,
        runs=tuple(run.info for run in loaded),
        variants=tuple(_compare_variant(name, loaded, n, resamples, alpha, seed) for name in names),
        alpha=alpha,
        resamples=resamples,
        seed=seed,
        notes=tuple(_notes(loaded, n)),
    )


@dataclass(frozen=True)
class _Run:
    info: RunInfo
    env: str
    outcomes: dict[str, dict[int, dict[int, float]]]
    """Variant, problem, sample -> outcome."""
    keys: dict[str, dict[int, str]]
    """Variant, problem -> content key."""

    def samples_per_problem(self) -> int:
        """Number of samples, counted from sample 0 without a gap, that every problem has."""
        return min(_unbroken(samples) for problems in self.outcomes.values() for samples in problems.values())

    def successes(self, variant: str, problems: Sequence[int], n: int) -> IntArray:
        drawn = self.outcomes[variant]
        return np.array([sum(drawn[p][s] for s in range(n)) for p in problems]).astype(np.int64)


def _unbroken(samples: dict[int, float]) -> int:
    # A killed run has gaps where slow episodes were in flight; counting past them would favour fast ones.
    count = 0
    while count in samples:
        count += 1
    return count


def _label_and_path(run: str | Path) -> tuple[str, Path]:
    label, separator, rest = str(run).partition("=")
    if separator and label and rest and not Path(run).exists():
        return label, Path(rest)
    return Path(run).resolve().name, Path(run)


def _load(label: str, path: Path, variants: Sequence[str] | None) -> _Run:
    manifest = read_manifest(path)
    rows = read_rows(path)
    if not rows:
        raise UsageError(f"{path} holds no samples yet; run `palestra eval` on it first.")
    if not isinstance(manifest.get("sampling"), dict):
        raise UsageError(f'the manifest of {path} does not state its "sampling" settings; evaluate it again.')
    known = {row["variant"] for row in rows}
    for name in variants or ():
        if name not in known:
            raise unknown_name(f"variant of run {label}", name, known)
    rows = [row for row in rows if not variants or row["variant"] in variants]
    broken = [row for row in rows if row["error"] is not None]
    if broken:
        listed = "; ".join(f"{sample_name(sample_id(row))}: {row['error']}" for row in broken[:3])
        raise PalestraError(
            f"{path} has {len(broken)} samples that ended in an infrastructure error ({listed}"
            f"{'; ...' if len(broken) > 3 else ''}); resume the run to draw them again."
        )
    outcomes: dict[str, dict[int, dict[int, float]]] = {}
    keys: dict[str, dict[int, str]] = {}
    for row in rows:
        variant, problem, sample = sample_id(row)
        outcomes.setdefault(variant, {}).setdefault(problem, {})[sample] = row["outcome"]
        if keys.setdefault(variant, {}).setdefault(problem, row["key"]) != row["key"]:
            raise PalestraError(f"{path} holds two different tasks as problem {problem} of {variant}.")
    return _Run(RunInfo(label, path, manifest), rows[0]["env"], outcomes, keys)


def _check_comparable(runs: Sequence[_Run]) -> None:
    labels = [run.info.label for run in runs]
    for label in labels:
        if labels.count(label) > 1:
            raise UsageError(f'two runs are labelled "{label}"; name them with LABEL=PATH.')
    base = runs[0]
    for run in runs[1:]:
        ours, theirs = base.info.label, run.info.label
        if run.env != base.env:
            raise UsageError(f"{ours} is a run of {base.env} and {theirs} of {run.env}; compare one environment.")
        settings = base.info.manifest["sampling"], run.info.manifest["sampling"]
        if found := first_difference(*settings, "sampling"):
            raise UsageError(
                f"{found[0]} is {found[1]} in {ours} and {found[2]} in {theirs}; evaluate both with the same settings."
            )
        if run.keys.keys() != base.keys.keys():
            odd = ", ".join(sorted(run.keys.keys() ^ base.keys.keys()))
            raise UsageError(
                f"{ours} and {theirs} were not evaluated on the same variants ({odd} is in one only); "
                "evaluate both on them, or name the variants to compare."
            )
        for variant, keys in base.keys.items():
            _check_problems(variant, (ours, keys), (theirs, run.keys[variant]))


def _check_problems(variant: str, first: tuple[str, dict[int, str]], second: tuple[str, dict[int, str]]) -> None:
    if first[1] == second[1]:
        return
    odd = min(p for p in first[1].keys() | second[1].keys() if first[1].get(p) != second[1].get(p))
    for (label, keys), (other, _) in ((first, second), (second, first)):
        if odd not in keys:
            raise UsageError(
                f"problem {odd} of {variant} is in {other} and not in {label}; evaluate both on the same problems."
            )
    raise UsageError(
        f"problem {odd} of {variant} is another task in {first[0]} (key {first[1][odd]}) than in {second[0]} "
        f"(key {second[1][odd]}); evaluate both with the same version of the environment."
    )


def _compare_variant(
    name: str, runs: Sequence[_Run], n: int, resamples: int, alpha: float, seed: int
) -> VariantComparison:
    problems = tuple(sorted(runs[0].keys[name]))
    bootstrap = ProblemBootstrap(len(problems), resamples=resamples, alpha=alpha, seed=seed)
    successes = [run.successes(name, problems, n) for run in runs]
    curves: list[FloatArray] = [pass_at_k_curve(n, c) for c in successes]
    labels = [run.info.label for run in runs]
    last = len(runs) - 1
    pairs = [(i, 0) for i in range(1, len(runs))] + [(last, j) for j in range(1, last)]
    return VariantComparison(
        name=name,
        problems=problems,
        keys=tuple(runs[0].keys[name][problem] for problem in problems),
        runs=tuple(
            RunCurve(label, bootstrap.curve(curve), c)
            for curve, label, c in zip(curves, labels, successes, strict=True)
        ),
        differences=tuple(
            Difference(
                label=f"{labels[i]} - {labels[j]}",
                intervals=bootstrap.curve(curves[i] - curves[j], bounds=(-1.0, 1.0)),
                first=labels[i],
                second=labels[j],
            )
            for i, j in pairs
        ),
    )


def _notes(runs: Sequence[_Run], n: int) -> list[str]:
    notes = [
        f"{run.info.label} is not finished: every problem has {run.samples_per_problem()} samples so far."
        for run in runs
        if run.info.manifest["status"] != "done"
    ]
    more = [run for run in runs if run.samples_per_problem() > n]
    notes += [
        f"{run.info.label} has {run.samples_per_problem()} samples of every problem; the first {n} are used, "
        "as many as every run has."
        for run in more
    ]
    notes += [
        f"{variant} has {len(keys)} problems: intervals over fewer than {FEW_PROBLEMS} are too narrow."
        for variant, keys in sorted(runs[0].keys.items())
        if len(keys) < FEW_PROBLEMS
    ]
    for run in runs[1:]:
        versions = runs[0].info.manifest.get("versions"), run.info.manifest.get("versions")
        if found := first_difference(*versions, "versions"):
            notes.append(f"{found[0]} is {found[1]} in {runs[0].info.label} and {found[2]} in {run.info.label}.")
    return notes
