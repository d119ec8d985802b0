"""Whether training brought back-tracking, and whether it is used: R1's "aha moment" (arXiv 2501.12948) measured.

A longer trace and one quoted transcript prove neither. Three numbers do: how often traces hold a marker before and
after (a rate that was there already was sharpened, not discovered), and what accuracy loses when markers cannot be
sampled (if nothing, they are decoration). Texts are what the model wrote, without the environment's words.

The last number needs a third run, sampled from the trained model with the ids of `tokens_to_ban` in
`SamplingParams.banned`; a marker that can be spelt from other tokens still appears, so that its rate there is checked.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

PHRASES = (
    "wait",
    "hmm",
    "on second thought",
    "let me check",
    "let me re-check",
    "let me recheck",
    "let me verify",
    "let me double-check",
    "let me reconsider",
    "let me rethink",
    "let me try again",
    "let's check",
    "let's verify",
    "let's reconsider",
    "i made a mistake",
    "i made an error",
    "that's not right",
    "that is not right",
    "that's wrong",
    "that is wrong",
    "this is wrong",
    "start over",
    "go back",
)
"""Phrases of doubt and return. Words like "but" or "check" are left out: they are common without either."""

PRESENT = 0.005
"""A rate of traces with a marker under this counts as absent."""
USED = 0.05
"""Loss of accuracy without markers from which they count as used."""

Verdict = Literal["used", "decoration", "not present", "undetermined"]


@dataclass(frozen=True)
class Markers:
    """What counts as back-tracking or self-checking.

    For an organism whose traces have a symbol for it, `Markers(("~",))`; with a letter for a symbol also
    `whole_words=False`.
    """

    phrases: tuple[str, ...] = PHRASES
    """Found whatever their case, across any white space."""
    whole_words: bool = True
    """Whether a phrase has to begin and end at a word boundary."""

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        def one(phrase: str) -> str:
            body = r"\s+".join(map(re.escape, phrase.split()))
            before = r"(?<!\w)" if self.whole_words and phrase[:1].isalnum() else ""
            after = r"(?!\w)" if self.whole_words and phrase[-1:].isalnum() else ""
            return before + body + after

        return re.compile("|".join(map(one, sorted(self.phrases, key=len, reverse=True))), re.IGNORECASE)

    def count(self, text: str) -> int:
        """Return how many markers a text holds; overlapping ones count once."""
        return len(self._pattern.findall(text))


def tokens_to_ban(vocabulary: Iterable[str], markers: Markers) -> tuple[int, ...]:
    """Return the ids whose own text holds a marker, for the run without markers.

    Args:
        vocabulary: The decoded text of each id, in order.
        markers: What to forbid. A phrase of several tokens is not reached in this way.
    """
    return tuple(i for i, token in enumerate(vocabulary) if markers.count(token))


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
class Estimate:
    """A number with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Aha:
    """Back-tracking before and after training."""

    rate_before: Estimate
    """Share of traces with a marker."""
    rate_after: Estimate
    rate_change: Estimate
    density_before: float
    """Markers per 1,000 characters: a rate that rises with length alone leaves this where it was."""
    density_after: float
    length_change: Estimate
    """Characters per trace, after - before."""
    accuracy_with: Estimate | None
    """Of the trained model's traces with a marker; None if there are none. Hard problems bring both markers and
    failures, so this and the next say nothing about what markers do: the ablation does."""
    accuracy_without: Estimate | None
    ablation: Estimate | None
    """Accuracy without markers - accuracy with them allowed; None without such a run."""
    verdict: Verdict
    sentence: str = field(repr=False)


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
    rates = [share(h, run.problems, level) for h, run in zip(hits, (before, after), strict=True)]
    ablation = None
    if without is not None:
        ablation = change(_share_of(without), _share_of(after), level)
    verdict, reason = _judge(rates[1], len(after.texts), without, ablation, markers)
    return Aha(
        rate_before=rates[0],
        rate_after=rates[1],
        rate_change=change((hits[1], after.problems), (hits[0], before.problems), level),
        density_before=_density(before, markers),
        density_after=_density(after, markers),
        length_change=_length_change(before, after, level),
        accuracy_with=_accuracy(after, [hit > 0 for hit in hits[1]], level),
        accuracy_without=_accuracy(after, [hit == 0 for hit in hits[1]], level),
        ablation=ablation,
        verdict=verdict,
        sentence=f"{_history(*rates)}; {reason}.",
    )


Sample = tuple[Sequence[float], Sequence[str] | None]
"""Zeros and ones, and the problem of each."""


def share(values: Sequence[float], problems: Sequence[str] | None, level: float = 0.95) -> Estimate:
    """Return a share of zeros and ones with Wilson's score interval.

    With problems, n is replaced by the effective sample size n / deff (Korn and Graubard 1998, whose interval is
    Clopper-Pearson's), deff being the ratio of the clustered to the binomial variance and at least 1. Where all
    values agree there is no deff, and each problem counts once.
    """
    p = float(np.mean(values))
    n = _effective(np.asarray(values, dtype=np.float64), problems)
    low, high = _wilson(p, n, level)
    return Estimate(p, low, high)


def change(now: Sample, then: Sample, level: float = 0.95) -> Estimate:
    """Return the difference of two shares with Newcombe's hybrid score interval (1998, method 10).

    Samples count as independent; where both hold the same problems, the interval is wider than it need be.
    """
    a, b = share(*now, level), share(*then, level)
    d = a.value - b.value
    return Estimate(
        d,
        d - math.hypot(a.value - a.low, b.high - b.value),
        d + math.hypot(a.high - a.value, b.value - b.low),
    )


def _hits(run: Run, markers: Markers) -> list[float]:
    return [float(markers.count(text) > 0) for text in run.texts]


def _share_of(run: Run) -> Sample:
    return run.outcomes, run.problems


def _density(run: Run, markers: Markers) -> float:
    return 1000 * sum(map(markers.count, run.texts)) / max(1, sum(map(len, run.texts)))


def _accuracy(run: Run, which: Sequence[bool], level: float) -> Estimate | None:
    places = [i for i, wanted in enumerate(which) if wanted]
    problems = None if run.problems is None else [run.problems[i] for i in places]
    return share([run.outcomes[i] for i in places], problems, level) if places else None


def _length_change(before: Run, after: Run, level: float) -> Estimate:
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
        return Estimate(d, -math.inf, math.inf)
    if not total:
        return Estimate(d, d, d)
    freedom = total**2 / sum(e**2 / f for e, f in zip(errors, freedoms, strict=True))
    half = float(t.ppf((1 + level) / 2, freedom)) * math.sqrt(total)
    return Estimate(d, d - half, d + half)


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


def _history(before: Estimate, after: Estimate) -> str:
    rates = (
        f"{before.value:.1%} [{before.low:.1%}, {before.high:.1%}] of traces held a marker before training and "
        f"{after.value:.1%} [{after.low:.1%}, {after.high:.1%}] after"
    )
    if before.low >= PRESENT:
        return f"{rates}, so the base model had it already"
    if before.high < PRESENT:
        return f"{rates}, so the base model practically never did it"
    return rates


def _judge(
    rate: Estimate, n: int, without: Run | None, ablation: Estimate | None, markers: Markers
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
    what = f"accuracy changed by {ablation.value:+.1%} [{ablation.low:+.1%}, {ablation.high:+.1%}] without markers"
    if ablation.high < 0 and ablation.value <= -USED:
        return "used", what
    if ablation.low > -USED:
        return "decoration", f"{what}: less than {USED:.0%} is lost"
    return "undetermined", f"{what}: sample more"
