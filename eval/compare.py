"""Compares run directories of one environment: pass@k of each run, and every difference, with intervals.

    comparison = compare_runs(["base=runs/a", "sft=runs/b", "rl=runs/c"])

The first run is the reference. Runs must have drawn the same problems of the same variants with the same
sampling settings, or the comparison is refused. Every problem contributes its first n samples, n being the
smallest number that all problems of all runs have, so that no curve is extrapolated and none changes its
set of problems with k. At temperature 0 samples of a problem are copies, and one of each is used. The result depends
on the runs and on `seed` alone.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from palestra.envs.errors import UsageError
from palestra.envs.sandbox import DEFAULT_SANDBOX
from palestra.eval.comparison import Comparison, Curve, Difference, RunCurve, RunInfo, VariantComparison
from palestra.eval.controls import hold_against
from palestra.eval.loading import LoadedRun, load_control, load_runs, samples_to_compare
from palestra.eval.reach import Reach, check_used, read_reach
from palestra.eval.settings import DEFAULT_ENGINE
from palestra.eval.stats.bounds import unseen_rate
from palestra.eval.stats.chance import MAX_CHANCE
from palestra.eval.stats.intervals import ProblemBootstrap
from palestra.eval.stats.passk import FloatArray, IntArray, k_grid, pass_at_k_curve
from palestra.eval.stats.verdict import Evidence, VerdictRule, verdict
from palestra.eval.verdicts import RunVerdict

__all__ = [
    "Comparison",
    "Curve",
    "Difference",
    "RunCurve",
    "RunInfo",
    "VariantComparison",
    "compare_runs",
]

EVERY_K = 128
"""Up to this many samples, bands run over every k; beyond, over `k_grid`, which costs less and shows the same."""
FEW_PROBLEMS = 20
"""Percentile intervals over fewer problems are too narrow."""


def compare_runs(
    runs: Sequence[str | Path],
    *,
    variants: Sequence[str] | None = None,
    samples: int | None = None,
    resamples: int = 2000,
    alpha: float = 0.05,
    seed: int = 0,
    controls: Sequence[str | Path] = (),
    chance: str | Path | None = None,
    likelihoods: Sequence[str | Path] = (),
) -> Comparison:
    """Compare runs, the first being the reference, and judge what training did to each of the others.

    Args:
        runs: Run directories; a string may be "LABEL=PATH". The label is otherwise the folder's name. One run
            alone gives curves and no difference.
        variants: Compare these variants only.
        samples: Samples of each problem to compare; None for as many as every run has. Later samples of a run took
            no part in choosing the candidates for a discovery or a loss, and so can confirm them.
        resamples: Bootstrap resamples.
        alpha: One minus the coverage.
        seed: Seed of the bootstrap.
        controls: Runs of the base sampled in another way (power sampling, a low temperature), on the same problems.
        chance: Run of the policy `random` on the same problems: its success rates are the chance rates.
        likelihoods: Files of `palestra likelihood`, each about the base and one of the others: what they show to be
            within the base's reach is no discovery.

    Raises:
        UsageError: A folder is no run, two runs share a label, or the runs cannot be compared; the message
            names the difference.
        PalestraError: A run holds samples that ended in an infrastructure error, or a damaged file.
    """
    loaded = load_runs(runs, variants)
    n = samples_to_compare(loaded, samples)
    others = [load_control(control, loaded[0]) for control in controls]
    for control in others:
        _check_control(loaded[0], control)
    guesser = None if chance is None else load_control(chance, loaded[0])
    if guesser is not None:
        _check_guesser(guesser)
    reaches = [read_reach(path) for path in likelihoods]
    check_used(reaches, loaded)
    rule = VerdictRule(alpha=alpha, resamples=resamples, seed=seed)
    names = sorted(loaded[0].outcomes, key=lambda name: (name != "test", name))
    warnings = tuple(f"{run.info.label} {what}" for run in loaded for what in _lacking(run))
    return Comparison(
        env=loaded[0].env,
        sampling=loaded[0].info.manifest["sampling"],
        n=n,
        runs=tuple(run.info for run in loaded),
        variants=tuple(_compare_variant(name, loaded, n, rule, others, guesser, reaches) for name in names),
        alpha=alpha,
        resamples=resamples,
        seed=seed,
        notes=(*warnings, *_notes(loaded, n), *_chance_notes(guesser)),
        warnings=warnings,
    )


def _compare_variant(
    name: str,
    runs: Sequence[LoadedRun],
    n: int,
    rule: VerdictRule,
    controls: Sequence[LoadedRun],
    guesser: LoadedRun | None,
    reaches: Sequence[Reach],
) -> VariantComparison:
    problems = tuple(sorted(runs[0].keys[name]))
    bootstrap = ProblemBootstrap(len(problems), resamples=rule.resamples, alpha=rule.alpha, seed=rule.seed)
    ks = np.arange(1, n + 1) if n <= EVERY_K else k_grid(n)
    successes = [run.successes(name, problems, n) for run in runs]
    curves: list[FloatArray] = [pass_at_k_curve(n, c)[:, ks - 1] for c in successes]
    labels = [run.info.label for run in runs]
    last = len(runs) - 1
    chance = None if guesser is None else _rates(guesser, name, problems)
    verdicts = tuple(
        RunVerdict(name, run.info.label, labels[0], problems, verdict(evidence, rule))
        for run, evidence in zip(runs[1:], _evidence(name, problems, runs, successes, n, chance, reaches), strict=True)
        if n > 1
    )
    pairs = [(i, 0) for i in range(1, len(runs))] + [(last, j) for j in range(1, last)]
    return VariantComparison(
        name=name,
        problems=problems,
        keys=tuple(runs[0].keys[name][problem] for problem in problems),
        runs=tuple(
            RunCurve(label, bootstrap.curve(curve), ks, c)
            for curve, label, c in zip(curves, labels, successes, strict=True)
        ),
        differences=tuple(
            Difference(
                label=f"{labels[i]} - {labels[j]}",
                intervals=bootstrap.curve(curves[i] - curves[j], bounds=(-1.0, 1.0)),
                ks=ks,
                first=labels[i],
                second=labels[j],
            )
            for i, j in pairs
        ),
        verdicts=verdicts,
        controls=tuple(
            hold_against(bootstrap, control, runs[0], found, c, n, successes[0])
            for found, c in zip(verdicts, successes[1:], strict=False)  # no verdicts with one sample
            for control in controls
        ),
        chance=chance,
    )


def _rates(guesser: LoadedRun, variant: str, problems: Sequence[int]) -> FloatArray:
    n = guesser.samples_per_problem()
    return guesser.successes(variant, problems, n) / n


def _check_control(base: LoadedRun, control: LoadedRun) -> None:
    ours, theirs = (run.info.manifest.get("model") for run in (base, control))
    if isinstance(ours, dict) and isinstance(theirs, dict):
        ours, theirs = (model.get("weights", model.get("name")) for model in (ours, theirs))
    if ours != theirs:
        raise UsageError(
            f"the control {control.info.label} is of another model than {base.info.label} ({theirs} and {ours}): a "
            "control is the base itself, sampled in another way."
        )


def _check_guesser(guesser: LoadedRun) -> None:
    model = guesser.info.manifest.get("model")
    name = model.get("name") if isinstance(model, dict) else model
    if name != "random":
        raise UsageError(
            f"{guesser.info.label} is a run of {name}: chance rates are those of `palestra eval --model random`."
        )


def _evidence(
    variant: str,
    problems: Sequence[int],
    runs: Sequence[LoadedRun],
    successes: Sequence[IntArray],
    n: int,
    chance: FloatArray | None,
    reaches: Sequence[Reach],
) -> list[Evidence]:
    """Gather what was measured of every run but the first against the first."""
    fresh = [run.later(variant, problems, n) for run in runs]
    seeds = [run.info.manifest.get("seed") for run in runs]
    return [
        Evidence(
            n,
            successes[0],
            successes[i],
            fresh_base=fresh[0],
            fresh_trained=fresh[i],
            chance=chance,
            base_low=_base_low(runs[0], runs[i], variant, problems, reaches),
            # The seed of a sample depends on the run's seed and on what the sample is, not on the model.
            same_seeds=seeds[0] == seeds[i],
        )
        for i in range(1, len(runs))
    ]


def _base_low(
    base: LoadedRun, trained: LoadedRun, variant: str, problems: Sequence[int], reaches: Sequence[Reach]
) -> FloatArray:
    low = np.zeros(len(problems))
    for reach in reaches:
        if reach.is_of(base, trained):
            low = np.maximum(low, reach.bounds(base, variant, problems))
    return low


def _notes(runs: Sequence[LoadedRun], n: int) -> list[str]:
    notes = []
    if runs[0].deterministic:
        notes.append("The temperature is 0: samples of a problem are copies of one another, and one of each is used.")
    notes += [
        f"{run.info.label} has {run.samples_per_problem()} samples of every problem; the first {n} are used, "
        "the others only to confirm what one model can solve and another cannot."
        for run in runs
        if run.samples_per_problem() > n and not run.deterministic
    ]
    notes += [
        f"{variant} has {len(keys)} problems: intervals over fewer than {FEW_PROBLEMS} are too narrow."
        for variant, keys in sorted(runs[0].keys.items())
        if len(keys) < FEW_PROBLEMS
    ]
    notes += [
        f"{variant} holds {len(keys) - kinds} of its {len(keys)} problems again: intervals count each of them and are "
        "too narrow."
        for variant, keys in sorted(runs[0].keys.items())
        if (kinds := len(set(keys.values()))) < len(keys)
    ]
    for run in runs[1:]:
        ours, theirs = (_made_with(each.info.manifest) for each in (runs[0], run))
        notes += [
            f"{name} is {ours[name]} in {runs[0].info.label} and {theirs[name]} in {run.info.label}: their difference "
            "may be due to that."
            for name in ours
            if ours[name] != theirs[name]
        ]
    return notes


def _lacking(run: LoadedRun) -> list[str]:
    """Say what a run was asked for and lacks; while it is not finished, only of which problems."""
    manifest = run.info.manifest
    unfinished = f"is not finished: every problem has {run.samples_per_problem()} samples so far."
    asked: dict[str, dict[str, int]] = manifest.get("variants", {})
    older = {"samples": manifest["samples"]} if "samples" in manifest else {}
    notes = [unfinished] if manifest["status"] != "done" else []
    for variant, outcomes in run.outcomes.items():
        wanted = asked.get(variant, older)
        problems, samples = len(outcomes), min(map(len, outcomes.values()))
        if problems < wanted.get("problems", 0):
            notes.append(f"holds {problems} of the {wanted['problems']} problems of {variant} that it was asked for.")
        if manifest["status"] == "done" and samples < wanted.get("samples", 0):
            notes.append(
                f"has lost samples: it was finished with {wanted['samples']} of every problem and has {samples} "
                f"without a gap, on {variant}; resume it to draw the others again."
            )
    return notes


def _chance_notes(guesser: LoadedRun | None) -> list[str]:
    if guesser is None or unseen_rate(n := guesser.samples_per_problem()) <= MAX_CHANCE:
        return []
    return [
        f"{guesser.info.label} has {n} guesses at each problem: one that guessing solves {unseen_rate(n):.0%} of the "
        "time may look as if guessing never did."
    ]


def _made_with(manifest: Mapping[str, Any]) -> dict[str, object]:
    """Return what a difference between runs may be due to besides the model."""
    drew = manifest.get("palestra", "unknown")
    scored = manifest.get("rescored", {}).get("palestra", drew)
    return {
        "the version of palestra": drew if scored == drew else f"{drew} (scored by {scored})",
        "the engine": manifest.get("engine", DEFAULT_ENGINE),
        "the sandbox": manifest.get("sandbox", DEFAULT_SANDBOX),
    }
