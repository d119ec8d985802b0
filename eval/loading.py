"""Loads runs for a comparison, and refuses those that cannot be compared.

Runs must have drawn the same problems of the same variants with the same sampling settings.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from palestra.envs.errors import PalestraError, UsageError, unknown_name
from palestra.eval.columns import Columns, read_columns
from palestra.eval.comparison import RunInfo
from palestra.eval.records import first_difference, read_manifest, sample_name
from palestra.eval.settings import POLICIES
from palestra.eval.stats.discovery import Fresh
from palestra.eval.stats.passk import IntArray


@dataclass(frozen=True)
class LoadedRun:
    """The samples of one run."""

    info: RunInfo
    env: str
    """Environment id."""
    outcomes: dict[str, dict[int, npt.NDArray[np.uint8]]]
    """Variant, problem -> outcomes of its samples, counted from sample 0 without a gap."""
    keys: dict[str, dict[int, str]]
    """Variant, problem -> content key."""

    @property
    def deterministic(self) -> bool:
        """Whether the samples of a problem are copies of one another, which tell no more than one of them."""
        return bool(self.info.manifest["sampling"].get("temperature") == 0)

    def samples_per_problem(self) -> int:
        """Number of samples, counted from sample 0 without a gap, that every problem has."""
        return min(len(outcomes) for problems in self.outcomes.values() for outcomes in problems.values())

    def successes(self, variant: str, problems: Sequence[int], n: int) -> IntArray:
        """Count the successes among the first n samples of each problem."""
        drawn = self.outcomes[variant]
        return np.array([int(drawn[p][:n].sum()) for p in problems]).astype(np.int64)

    def later(self, variant: str, problems: Sequence[int], n: int) -> Fresh | None:
        """Return the samples that come after the first n of each problem; None where there are none."""
        drawn = self.outcomes[variant]
        fresh = np.array([len(drawn[p]) - n for p in problems]).astype(np.int64)
        if not np.any(fresh > 0):
            return None
        return Fresh(fresh, np.array([int(drawn[p][n:].sum()) for p in problems]).astype(np.int64))


def load_runs(runs: Sequence[str | Path], variants: Sequence[str] | None) -> list[LoadedRun]:
    """Load run directories, the first being the reference.

    Args:
        runs: Run directories; a string may be "LABEL=PATH". The label is otherwise the folder's name.
        variants: Load these variants only; None for all.

    Raises:
        UsageError: A folder is no run or one shard of it, two runs share a label, or the runs cannot be compared;
            the message names the difference.
        PalestraError: A run holds samples that ended in an infrastructure error, or a damaged file.
    """
    if not runs:
        raise UsageError("give at least one run directory.")
    loaded = [_load(*_label_and_path(run), variants) for run in runs]
    _check_comparable(loaded)
    return loaded


def load_control(run: str | Path, base: LoadedRun) -> LoadedRun:
    """Load a run of the base sampled in another way, or of a guesser, on the base's problems.

    Args:
        run: Run directory, as for `load_runs`.
        base: The run it stands beside; it may have been sampled with other settings.

    Raises:
        UsageError: It is no run, or of another environment or other problems.
        PalestraError: As for `load_runs`.
    """
    control = _load(*_label_and_path(run), list(base.keys))
    _check_same_problems(base, control)
    return control


def _label_and_path(run: str | Path) -> tuple[str, Path]:
    label, separator, rest = str(run).partition("=")
    if separator and label and rest and not Path(run).exists():
        return label, Path(rest)
    return Path(run).resolve().name, Path(run)


def _load(label: str, path: Path, variants: Sequence[str] | None) -> LoadedRun:
    manifest = read_manifest(path)
    if "shard" in manifest:
        raise UsageError(f"{path} is shard {manifest['shard']} of a run; join its shards with `palestra merge` first.")
    columns = read_columns(path)
    if not len(columns.problem):
        raise UsageError(f"{path} holds no samples yet; run `palestra eval` on it first.")
    if not isinstance(manifest.get("sampling"), dict):
        raise UsageError(f'the manifest of {path} does not state its "sampling" settings; evaluate it again.')
    for name in variants or ():
        if name not in columns.variants:
            raise unknown_name(f"variant of run {label}", name, columns.variants)
    chosen = [name for name in columns.variants if not variants or name in variants]
    broken = [(key, error) for key, error in columns.broken if key[0] in chosen]
    if broken:
        listed = "; ".join(f"{sample_name(key)}: {error}" for key, error in broken[:3])
        raise PalestraError(
            f"{path} has {len(broken)} samples that ended in an infrastructure error ({listed}"
            f"{'; ...' if len(broken) > 3 else ''}); resume the run to draw them again."
        )
    outcomes: dict[str, dict[int, npt.NDArray[np.uint8]]] = {}
    keys: dict[str, dict[int, str]] = {}
    for name in chosen:
        outcomes[name], keys[name] = _by_problem(columns, name, path)
    return LoadedRun(RunInfo(label, path, manifest), columns.env, outcomes, keys)


def _by_problem(columns: Columns, variant: str, path: Path) -> tuple[dict[int, npt.NDArray[np.uint8]], dict[int, str]]:
    rows = np.flatnonzero(columns.variant == columns.variants.index(variant))
    rows = rows[np.lexsort((columns.sample[rows], columns.problem[rows]))]
    problems, starts = np.unique(columns.problem[rows], return_index=True)
    outcomes, keys = {}, {}
    for problem, part in zip(problems.tolist(), np.split(rows, starts[1:]), strict=True):
        if np.any(columns.key[part] != columns.key[part[0]]):
            raise PalestraError(f"{path} holds two different tasks as problem {problem} of {variant}.")
        keys[problem] = columns.keys[columns.key[part[0]]]
        # A killed run has gaps where slow episodes were in flight; counting past them would favour fast ones.
        gaps = np.flatnonzero(columns.sample[part] != np.arange(len(part)))
        outcomes[problem] = columns.outcome[part[: gaps[0] if len(gaps) else None]]
    return outcomes, keys


def _check_comparable(runs: Sequence[LoadedRun]) -> None:
    labels = [run.info.label for run in runs]
    for label in labels:
        if labels.count(label) > 1:
            raise UsageError(f'two runs are labelled "{label}"; give each a label of its own with LABEL=PATH.')
    base = runs[0]
    for run in runs[1:]:
        ours, theirs = base.info.label, run.info.label
        settings = base.info.manifest["sampling"], run.info.manifest["sampling"]
        # Policies that need no model draw no tokens.
        models = [each.info.manifest.get("model") for each in (base, run)]
        scripted = any(isinstance(model, dict) and model.get("name") in POLICIES for model in models)
        if not scripted and (found := first_difference(*settings, "sampling")):
            raise UsageError(
                f"{found[0]} is {found[1]} in {ours} and {found[2]} in {theirs}; evaluate both with the same settings."
            )
        _check_same_problems(base, run)


def _check_same_problems(base: LoadedRun, run: LoadedRun) -> None:
    ours, theirs = base.info.label, run.info.label
    if run.env != base.env:
        raise UsageError(f"{ours} is a run of {base.env} and {theirs} of {run.env}; compare one environment.")
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


def samples_to_compare(runs: Sequence[LoadedRun], samples: int | None = None) -> int:
    """Return how many samples of each problem to compare: as many as every run has, or the number asked for.

    At temperature 0 it is 1: intervals and confirmations from copies would be narrow for no reason.

    Raises:
        UsageError: Some problem has no first sample, or fewer than asked for.
    """
    least = min(runs, key=LoadedRun.samples_per_problem)
    n = least.samples_per_problem()
    if n == 0:
        raise UsageError(
            f"{least.info.label} has problems without a first sample; resume it until every problem has one."
        )
    if samples is not None and not 1 <= samples <= n:
        raise UsageError(f"{least.info.label} has {n} samples of every problem; compare 1 to {n}, not {samples}.")
    return 1 if least.deterministic else samples or n
