"""Chooses example trajectories for a report, so that each kind of outcome is seen."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import Any, NamedTuple

import numpy as np

from palestra.eval.comparison import Comparison, RunInfo, VariantComparison
from palestra.eval.records import read_rows, read_trajectory, sample_id

Pointers = dict[tuple[str, int], dict[int, dict[str, Any]]]


@dataclass(frozen=True)
class Example:
    """One trajectory to show."""

    stratum: str
    """Why it was chosen, e.g. "solved by rl only"."""
    run: str
    """Label of the run."""
    variant: str
    """Name of the variant."""
    problem: int
    """Index of the problem."""
    sample: int
    """Index of the sample."""
    successes: int
    """Successes of this run among the first n samples of this problem."""
    trajectory: dict[str, Any]
    """As stored."""


def choose_examples(comparison: Comparison, limit: int) -> list[Example]:
    """Choose up to `limit` trajectories, evenly over strata and variants, of the first and the last run.

    Strata: problems that only the last run solved in n samples, only the first, both, neither. Of each
    problem chosen, both runs show one sample: their first success, or their first sample. The choice
    depends on the runs and on the comparison's seed alone.

    Raises:
        PalestraError: A trajectory file is missing or damaged.
    """
    shown = [0] if len(comparison.runs) == 1 else [0, len(comparison.runs) - 1]
    picks = sorted(islice(_picks(comparison), max(limit, 0) // len(shown)))
    pointers = {index: _pointers(comparison.runs[index]) for index in shown if picks}
    return [_example(comparison, index, pick, pointers[index]) for pick in picks for index in shown]


class _Pick(NamedTuple):
    variant: int
    """Index of the variant."""
    stratum: int
    """Index of the stratum."""
    row: int
    """Row of the problem within the variant."""


def _strata(comparison: Comparison, variant: VariantComparison) -> list[tuple[str, list[int]]]:
    """Sort the rows of a variant's problems into named strata."""
    first, last = comparison.runs[0].label, comparison.runs[-1].label
    solved_first = variant.runs[0].successes > 0
    solved_last = variant.runs[-1].successes > 0
    if len(comparison.runs) == 1:
        masks = {f"solved by {first}": solved_first, f"not solved by {first}": ~solved_first}
    else:
        masks = {
            f"solved by {last} only": solved_last & ~solved_first,
            f"solved by {first} only": solved_first & ~solved_last,
            "solved by both": solved_first & solved_last,
            "solved by neither": ~solved_first & ~solved_last,
        }
    return [(name, np.flatnonzero(mask).tolist()) for name, mask in masks.items()]


def _picks(comparison: Comparison) -> Iterator[_Pick]:
    """Yield one problem of each stratum of each variant, then a second one of each, and so on."""
    rng = np.random.default_rng(comparison.seed)
    queues = []
    for v, variant in enumerate(comparison.variants):
        for s, (_, rows) in enumerate(_strata(comparison, variant)):
            queues.append([_Pick(v, s, rows[i]) for i in rng.permutation(len(rows))])
    for turn in zip_longest(*queues):
        yield from (pick for pick in turn if pick is not None)


def _example(comparison: Comparison, index: int, pick: _Pick, pointers: Pointers) -> Example:
    run, variant = comparison.runs[index], comparison.variants[pick.variant]
    problem = variant.problems[pick.row]
    samples = pointers[variant.name, problem]
    sample = next((s for s in range(comparison.n) if samples[s]["outcome"] == 1.0), 0)
    return Example(
        stratum=_strata(comparison, variant)[pick.stratum][0],
        run=run.label,
        variant=variant.name,
        problem=problem,
        sample=sample,
        successes=int(variant.runs[index].successes[pick.row]),
        trajectory=read_trajectory(run.path, samples[sample]["part"], samples[sample]["offset"]),
    )


def _pointers(run: RunInfo) -> Pointers:
    pointers: Pointers = {}
    for row in read_rows(run.path):
        variant, problem, sample = sample_id(row)
        pointers.setdefault((variant, problem), {})[sample] = row
    return pointers
