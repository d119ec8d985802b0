"""Whether training brought back-tracking, and whether it is used: R1's "aha moment" (arXiv 2501.12948) measured.

A longer trace and one quoted transcript prove neither. Three numbers do: how often traces hold a marker before and
after (a rate that was there already was sharpened, not discovered), and what accuracy loses when markers cannot be
sampled (if nothing, they are decoration). Texts are what the model wrote, without the environment's words.

The last number needs a third run, sampled from the trained model with `palestra eval --ban`; a marker that can be
spelt from other tokens still appears, so that its rate there is checked.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from palestra.agents.markers import Markers
from palestra.eval.stats.intervals import Interval

PRESENT = 0.005
"""A rate of traces with a marker under this counts as absent."""
USED = 0.05
"""Loss of accuracy without markers from which they count as used."""

Verdict = Literal["used", "decoration", "not present", "undetermined"]


@dataclass(frozen=True)
class Run:
    """Traces of one model and their strict outcomes.

    Raises:
        ValueError: The lengths differ, or there are no traces.
    """

    texts: Sequence[str]
    outcomes: Sequence[float]
    problems: Sequence[str] | None = None
    """Which problem each trace belongs to: its traces are alike, and intervals allow for that."""

    def __post_init__(self) -> None:
        if not self.texts or len(self.texts) != len(self.outcomes):
            raise ValueError(f"{len(self.texts)} texts with {len(self.outcomes)} outcomes")
        if self.problems is not None and len(self.problems) != len(self.texts):
            raise ValueError(f"{len(self.texts)} texts with {len(self.problems)} problems")


@dataclass(frozen=True, slots=True)
class Aha:
    """Back-tracking before and after training."""

    rate_before: Interval
    """Share of traces with a marker."""
    rate_after: Interval
    rate_change: Interval
    density_before: float
    """Markers per 1,000 characters: a rate that rises with length alone leaves this where it was."""
    density_after: float
    length_change: Interval
    """Characters per trace, after - before."""
    accuracy_with: Interval | None
    """Of the trained model's traces with a marker; None if there are none. Hard problems bring both markers and
    failures, so this and the next say nothing about what markers do: the ablation does."""
    accuracy_without: Interval | None
    within: Interval | None
    """`within_problems` of the trained model."""
    ablation: Interval | None
    """Accuracy without markers - accuracy with them allowed; None without such a run."""
    verdict: Verdict
    sentence: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Traces:
    """What the traces of one run hold."""

    count: int
    rate: Interval
    """Share of traces with a marker."""
    density: float
    """Markers per 1,000 characters."""
    characters: float
    """Mean length of a trace."""
    accuracy_with: Interval | None
    """Of the traces with a marker."""
    accuracy_without: Interval | None
    within: Interval | None
    """`within_problems`."""


def describe(run: Run, markers: Markers, level: float = 0.95) -> Traces:
    """Return what the traces of a run hold."""
    hits = _hits(run, markers)
    return Traces(
        count=len(hits),
        rate=share(hits, run.problems, level),
        density=_density(run, markers),
        characters=float(np.mean([len(text) for text in run.texts])),
        accuracy_with=_accuracy(run, [hit > 0 for hit in hits], level),
        accuracy_without=_accuracy(run, [hit == 0 for hit in hits], level),
        within=within_problems(run, markers, level),
    )


def aha(
    before: Run, after: Run, without: Run | None = None, *, markers: Markers | None = None, level: float = 0.95
) -> Aha:
    """Measure back-tracking in two runs, and what it does where a third run without markers is given.

    Args:
        before: The base model.
        after: The trained model, on problems of the same distribution.
        without: The trained model, on the same problems as `after`, with markers banned.
        markers: What counts; by default English phrases.
        level: Of every interval.
    """
    markers = markers or Markers()
    hits = [_hits(run, markers) for run in (before, after)]
    was, now = (describe(run, markers, level) for run in (before, after))
    ablation = None
    if without is not None:
        ablation = change(_share_of(without), _share_of(after), level)
    verdict, reason = _judge(now.rate, now.count, without, ablation, markers)
    return Aha(
        rate_before=was.rate,
        rate_after=now.rate,
        rate_change=change((hits[1], after.problems), (hits[0], before.problems), level),
        density_before=was.density,
        density_after=now.density,
        length_change=_length_change(before, after, level),
        accuracy_with=now.accuracy_with,
        accuracy_without=now.accuracy_without,
        within=now.within,
        ablation=ablation,
        verdict=verdict,
        sentence=f"{_history(was.rate, now.rate)}; {reason}.",
    )


Sample = tuple[Sequence[float], Sequence[str] | None]
"""Zeros and ones, and the problem of each."""


def share(values: Sequence[float], problems: Sequence[str] | None, level: float = 0.95) -> Interval:
    """Return a share of zeros and ones with Wilson's score interval.

    With problems, n is replaced by the effective sample size n / deff (Korn and Graubard 1998, whose interval is
    Clopper-Pearson's), deff being the ratio of the clustered to the binomial variance and at least 1. Where all
    values agree there is no deff, and each problem counts once.
    """
    p = float(np.mean(values))
    n = _effective(np.asarray(values, dtype=np.float64), problems)
    low, high = _wilson(p, n, level)
    return Interval(p, low, high)


def change(now: Sample, then: Sample, level: float = 0.95) -> Interval:
    """Return the difference of two shares with Newcombe's hybrid score interval (1998, method 10).

    Samples count as independent; where both hold the same problems, the interval is wider than it need be.
    """
    a, b = share(*now, level), share(*then, level)
    d = a.estimate - b.estimate
    return Interval(
        d,
        d - math.hypot(a.estimate - a.low, b.high - b.estimate),
        d + math.hypot(a.high - a.estimate, b.estimate - b.low),
    )


def within_problems(run: Run, markers: Markers, level: float = 0.95) -> Interval | None:
    """Return how much likelier traces with a marker are to succeed than those without one of the same problem.

    Mantel and Haenszel's risk difference: the mean over problems with both kinds of traces, weighted by n1 n0 / (n1 +
    n0), with a t interval whose variance is that between problems (of two or more). How hard a problem is plays no
    part in it; what else differs between traces does, so this is no effect of markers: the ablation is.

    Returns:
        None if no problem has both kinds, or it is not known whose trace is whose.
    """
    from scipy.stats import t

    if run.problems is None:
        return None
    outcomes: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for hit, outcome, problem in zip(_hits(run, markers), run.outcomes, run.problems, strict=True):
        outcomes[problem][int(hit)].append(outcome)
    both = [(without, with_) for without, with_ in outcomes.values() if without and with_]
    if not both:
        return None
    differences = np.array([np.mean(with_) - np.mean(without) for without, with_ in both])
    weights = np.array([len(without) * len(with_) / (len(without) + len(with_)) for without, with_ in both])
    weights /= weights.sum()
    d, g = float(weights @ differences), len(both)
    variance = float((weights**2) @ (differences - d) ** 2) * g / max(1, g - 1)
    if not variance:  # one problem, or all alike: nothing says how much the next one would differ
        return Interval(d, -1.0, 1.0)
    half = float(t.ppf((1 + level) / 2, g - 1)) * math.sqrt(variance)
    return Interval(d, max(-1.0, d - half), min(1.0, d + half))


def _hits(run: Run, markers: Markers) -> list[float]:
    return [float(markers.count(text) > 0) for text in run.texts]


def _share_of(run: Run) -> Sample:
    return run.outcomes, run.problems


def _density(run: Run, markers: Markers) -> float:
    return 1000 * sum(map(markers.count, run.texts)) / max(1, sum(map(len, run.texts)))


def _accuracy(run: Run, which: Sequence[bool], level: float) -> Interval | None:
    places = [i for i, wanted in enumerate(which) if wanted]
    problems = None if run.problems is None else [run.problems[i] for i in places]
    return share([run.outcomes[i] for i in places], problems, level) if places else None


def _length_change(before: Run, after: Run, level: float) -> Interval:
    """Welch's t interval; with problems, of clustered means."""
    from scipy.stats import t

    means, errors, freedoms = [], [], []
    for run in (before, after):
        lengths = np.array([len(text) for text in run.texts], dtype=np.float64)
        variance, clusters = _variance_of_mean(lengths, run.problems)
        means.append(lengths.mean())
        errors.append(variance)
        freedoms.append(clusters - 1)
    d, total = float(means[1] - means[0]), sum(errors)
    if min(freedoms) < 1:
        return Interval(d, -math.inf, math.inf)
    if not total:
        return Interval(d, d, d)
    freedom = total**2 / sum(e**2 / f for e, f in zip(errors, freedoms, strict=True))
    half = float(t.ppf((1 + level) / 2, freedom)) * math.sqrt(total)
    return Interval(d, d - half, d + half)


def _variance_of_mean(values: NDArray[np.float64], problems: Sequence[str] | None) -> tuple[float, int]:
    """Return the variance of a mean, clustered by problem if given, and the number of clusters."""
    residuals = values - values.mean()
    if problems is not None:
        sums: dict[str, float] = defaultdict(float)
        for problem, residual in zip(problems, residuals, strict=True):
            sums[problem] += residual
        residuals = np.array(list(sums.values()))
    g = len(residuals)
    return float((residuals**2).sum() / len(values) ** 2 * g / max(1, g - 1)), g


def _effective(values: NDArray[np.float64], problems: Sequence[str] | None) -> float:
    n, p = len(values), float(values.mean())
    if problems is None:
        return float(n)
    variance, clusters = _variance_of_mean(values, problems)
    if p in (0.0, 1.0) or clusters == 1:
        return float(clusters)
    return min(float(n), p * (1 - p) / variance) if variance else float(n)


def _wilson(p: float, n: float, level: float) -> tuple[float, float]:
    from scipy.stats import norm

    z = float(norm.ppf((1 + level) / 2))
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def _history(before: Interval, after: Interval) -> str:
    rates = (
        f"{before.estimate:.1%} [{before.low:.1%}, {before.high:.1%}] of traces held a marker before training and "
        f"{after.estimate:.1%} [{after.low:.1%}, {after.high:.1%}] after"
    )
    if before.low >= PRESENT:
        return f"{rates}, so the base model had it already"
    if before.high < PRESENT:
        return f"{rates}, so the base model practically never did it"
    return rates


def _judge(
    rate: Interval, n: int, without: Run | None, ablation: Interval | None, markers: Markers
) -> tuple[Verdict, str]:
    if rate.high < PRESENT:
        return "not present", f"the trained model does it in fewer than {PRESENT:.1%} of traces"
    if rate.low < PRESENT:
        return "undetermined", f"{n} traces cannot tell its rate from {PRESENT:.1%}: sample more"
    if without is None or ablation is None:
        return "undetermined", "whether it is of use needs a run with the markers banned"
    left = float(np.mean(_hits(without, markers)))
    if left >= PRESENT:
        return "undetermined", f"{left:.1%} of traces of the run without markers still hold one: ban more tokens"
    what = f"accuracy changed by {ablation.estimate:+.1%} [{ablation.low:+.1%}, {ablation.high:+.1%}] without markers"
    if ablation.high < 0 and ablation.estimate <= -USED:
        return "used", what
    if ablation.low > -USED:
        return "decoration", f"{what}: less than {USED:.0%} is lost"
    return "undetermined", f"{what}: sample more"
