"""What the base reaches without training: power sampling, a low temperature, or its own samples at equal tokens.

A gain that another way of sampling the base has as well is no evidence that training added anything.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from palestra.eval.control_results import ControlResult, EqualTokens
from palestra.eval.loading import LoadedRun
from palestra.eval.records import read_rows
from palestra.eval.stats.intervals import Interval, ProblemBootstrap
from palestra.eval.stats.passk import FloatArray, IntArray, pass_at_k
from palestra.eval.stats.reliability import best_of_k, majority_at_k
from palestra.eval.verdicts import RunVerdict


def hold_against(
    bootstrap: ProblemBootstrap,
    control: LoadedRun,
    base: LoadedRun,
    found: RunVerdict,
    trained: IntArray,
    n: int,
    successes: IntArray,
) -> ControlResult:
    """Hold a trained run against a control on one variant.

    Args:
        bootstrap: Resamples of the m problems.
        control: Run of the base sampled in another way; all its samples are used.
        base: Run of the base.
        found: The verdict on the trained run.
        trained: Its successes among n samples of each problem, shape (m,).
        n: Samples of base and trained run that are compared.
        successes: Successes of the base, in the same order.
    """
    ours = control.samples_per_problem()
    counts = control.successes(found.variant, found.problems, ours)
    last = max(1, min(n, ours) // 2)

    def one_try(values: FloatArray) -> Interval:
        return bootstrap.curve(values[:, None], bounds=(-1.0, 1.0)).interval(0)

    reached, gain = counts / ours - successes / n, (trained - successes) / n
    samples = Samples(base.info.path, found.variant, found.problems, n)
    spent, plain = Samples(control.info.path, found.variant, found.problems, ours).tokens(), samples.tokens()
    cost = spent / plain if spent and plain else None
    discovered = found.verdict.discovered.confirmed
    return ControlResult(
        variant=found.variant,
        run=found.run,
        base=found.base,
        control=control.info.label,
        reached=one_try(reached),
        gain=one_try(gain),
        share=share_of_gain(bootstrap, reached, gain),
        beyond=one_try(gain - reached),
        beyond_last=one_try(np.asarray(pass_at_k(n, trained, last)) - np.asarray(pass_at_k(ours, counts, last))),
        last_k=last,
        discovered=int(discovered.sum()),
        also_solved=int((counts[discovered] > 0).sum()),
        cost=cost,
        equal_tokens=None if cost is None else _equal_tokens(bootstrap, samples, min(n, max(1, round(cost)))),
    )


def _equal_tokens(bootstrap: ProblemBootstrap, samples: "Samples", votes: int) -> EqualTokens | None:
    majority, best = samples.majority(votes), samples.most_probable(votes)
    if majority is None:
        return None
    return EqualTokens(
        votes,
        bootstrap.curve(majority[:, None]).interval(0),
        None if best is None else bootstrap.curve(best[:, None]).interval(0),
    )


def share_of_gain(bootstrap: ProblemBootstrap, reached: FloatArray, gain: FloatArray) -> Interval | None:
    """Return mean(reached) / mean(gain) with a percentile interval; None where the gain's interval is not above 0.

    Args:
        bootstrap: Resamples of the m problems.
        reached: Gain of the control per problem, shape (m,).
        gain: Gain of the trained model, in the same order.
    """
    interval = bootstrap.curve(gain[:, None], bounds=(-1.0, 1.0)).interval(0)
    if interval.low <= 0:
        return None
    means = bootstrap.resampled_means(np.stack([reached, gain], axis=1))
    ratios = means[:, 0] / np.where(means[:, 1] > 0, means[:, 1], np.nan)
    low, high = np.nanquantile(ratios, [bootstrap.alpha / 2, 1 - bootstrap.alpha / 2])
    return Interval(float(reached.mean() / gain.mean()), float(low), float(high))


class Samples:
    """What voting needs of a run on one variant: answers, log-probabilities and tokens of each sample."""

    def __init__(self, path: Path, variant: str, problems: Sequence[int], n: int) -> None:
        rows: dict[int, list[dict[str, Any]]] = {problem: [] for problem in problems}
        for row in read_rows(path):
            if row["variant"] == variant and row["problem"] in rows and row["sample"] < n and row["error"] is None:
                rows[row["problem"]].append(row)
        self.rows = [rows[problem] for problem in problems]

    def tokens(self) -> float | None:
        """Return the tokens drawn per episode, None if some were not recorded."""
        drawn = [row.get("tokens_drawn") or row["tokens_out"] for rows in self.rows for row in rows]
        return None if not drawn or None in drawn or not any(drawn) else float(np.mean(drawn))

    def majority(self, votes: int) -> FloatArray | None:
        """Return maj@votes of each problem, shape (m,); None if no answers were recorded."""
        if not any(row.get("answer") for rows in self.rows for row in rows):
            return None
        return np.array([_majority(rows, votes) for rows in self.rows])

    def most_probable(self, votes: int) -> FloatArray | None:
        """Return, of each problem, the chance that the most probable of `votes` samples is right, shape (m,)."""
        if any(row.get("logprob") is None for rows in self.rows for row in rows):
            return None
        return np.array(
            [best_of_k([r["logprob"] for r in rows], [r["outcome"] for r in rows], votes) for rows in self.rows]
        )


def _majority(rows: Sequence[dict[str, Any]], votes: int) -> float:
    # An episode without an answer votes for nothing that another one votes for.
    names = [row.get("answer") or f"none-{i}" for i, row in enumerate(rows)]
    counts = Counter(names)
    right = {name for name, row in zip(names, rows, strict=True) if row["outcome"] == 1.0}
    places = {name: place for place, name in enumerate(counts)}
    return sum(majority_at_k(list(counts.values()), places[name], votes) for name in right)
