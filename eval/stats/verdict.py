"""What training did to a model: a set of labels with reasons, at a stated budget (docs/statistics.md, 12).

A run can discover and lose at once, so the verdict is a set. From the simultaneous band of the paired
difference Delta_k (trained minus base) over k = 1..K, K = n/2 or where guessing sets in, and the margin eps:

    DISCOVER     >= 1 problem that the base cannot solve within its budget, confirmed on fresh samples
    LOSE         the same with the models swapped
    SHARPEN      Delta_1 > 0, Delta_K < eps, and beyond what two copies of the base would show the trained model
                 alone solves less than eps of the problems
    SHRINK       Delta_K < 0
    NO EFFECT    Delta within +-eps at every k, and none of the above
    NOT DECIDED  none of the above

NO EFFECT excludes the labels of an effect: a handful of discoveries leaves Delta within the margin, and both labels
together would contradict each other.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from palestra.eval.stats.chance import MAX_CHANCE, MAX_INFLATION, chance_limit
from palestra.eval.stats.coverage import excess
from palestra.eval.stats.crossover import crossover_interval
from palestra.eval.stats.discovery import Discoveries, DiscoveryRule, Fresh, candidates, confirm, samples_needed
from palestra.eval.stats.exact import Floats, theta
from palestra.eval.stats.intervals import CurveIntervals, Interval, ProblemBootstrap
from palestra.eval.stats.paired import Clusters
from palestra.eval.stats.parts import Part
from palestra.eval.stats.passk import Counts, IntArray, checked_counts, k_grid, pass_at_k_curve
from palestra.eval.stats.plan import samples_for_variance, variance_parts
from palestra.eval.stats.problems import label_problems
from palestra.eval.stats.seeds import ONE_SEED


class Label(StrEnum):
    """What training did."""

    DISCOVER = "DISCOVER"
    LOSE = "LOSE"
    SHARPEN = "SHARPEN"
    SHRINK = "SHRINK"
    NO_EFFECT = "NO EFFECT"
    NOT_DECIDED = "NOT DECIDED"


@dataclass(frozen=True)
class VerdictRule:
    """What the labels mean."""

    discovery: DiscoveryRule = field(default_factory=DiscoveryRule)
    margin: float = 0.05
    """eps: a smaller difference in pass@k counts as none."""
    alpha: float = 0.05
    """One minus the joint coverage of the band."""
    resamples: int = 2000
    seed: int = 0
    """Seed of the bootstrap."""


@dataclass(frozen=True)
class Evidence:
    """What was measured on one split: n samples of each of m problems by both models, and what was drawn after."""

    n: int
    base: Counts
    """Successes of the base, shape (m,)."""
    trained: Counts
    """Successes of the trained model, in the same order."""
    fresh_base: Fresh | None = None
    """Fresh samples of the base on the candidates for a discovery."""
    fresh_trained: Fresh | None = None
    """Fresh samples of the trained model on the candidates for a loss."""
    controls: Mapping[str, Fresh] = field(default_factory=dict)
    """Other ways to run the base on the candidates for a discovery, e.g. with the answer format shown: it counts
    as discovered only what they all fail at."""
    chance: Floats | None = None
    """Chance rate of each problem, shape (m,); None for none."""
    base_low: Floats | None = None
    """Least success probability of the base on each problem, known otherwise than by counting its successes (such as
    `mis_lower_bound`), shape (m,): a problem that it solves within the budget is not discovered."""
    clusters: Clusters | None = None
    """One cluster label per problem."""
    same_seeds: bool = False
    """Whether sample j of both models may have been drawn with the same random numbers."""
    k_limit: int | None = None
    """Greatest k at which claims are allowed, e.g. `valid_k` of the verifier."""

    @property
    def chance_rates(self) -> Floats:
        """Chance rates, 0 where none were given."""
        return np.zeros(len(self.base)) if self.chance is None else self.chance

    def discovery_candidates(self, rule: DiscoveryRule) -> npt.NDArray[np.bool_]:
        """Tell which problems need fresh samples of the base, shape (m,)."""
        return self._unlike_base(rule) & ~self.within_reach(rule)

    def within_reach(self, rule: DiscoveryRule) -> npt.NDArray[np.bool_]:
        """Tell which problems look discovered, and are known to be within the base's reach, shape (m,)."""
        low = np.zeros(len(self.base)) if self.base_low is None else np.asarray(self.base_low, dtype=np.float64)
        return self._unlike_base(rule) & (theta(low, rule.budget) > rule.eta)

    def _unlike_base(self, rule: DiscoveryRule) -> npt.NDArray[np.bool_]:
        return candidates((self.n, self.base), (self.n, self.trained), rule, chance=self.chance_rates)

    def loss_candidates(self, rule: DiscoveryRule) -> npt.NDArray[np.bool_]:
        """Tell which problems need fresh samples of the trained model, shape (m,)."""
        return candidates((self.n, self.trained), (self.n, self.base), rule, chance=self.chance_rates)

    def last_k(self) -> int:
        """Return the greatest k of any claim about curves: n/2, the limit, or where guessing sets in; may be 0."""
        limit = self.n // 2 if self.k_limit is None else min(self.n // 2, self.k_limit)
        return chance_limit(self.chance_rates, limit)


@dataclass(frozen=True)
class Curves:
    """What the curves show up to the last k."""

    ks: IntArray
    delta: CurveIntervals
    """Trained minus base at `ks`, with the band."""
    excess: Interval
    """Share solved by the trained model alone, beyond two copies of the base, at the last k."""
    crossover: Interval
    """First k where the trained model no longer leads: 0 never led, infinity leads to the end."""


@dataclass(frozen=True)
class Verdict:
    """Labels with what they rest on."""

    labels: tuple[Label, ...]
    reasons: dict[Label, str]
    """Why each label was given, or not."""
    budget: str
    """What the verdict is about, in words."""
    needs: tuple[str, ...]
    """What would decide what is undecided: fresh samples for candidates that had too few and, without any label,
    what the curves lack."""
    discovered: Discoveries
    lost: Discoveries
    problems: npt.NDArray[np.str_]
    """`ProblemLabel` of each problem, shape (m,)."""
    curves: Curves | None
    """None where guessing allows no claim about curves."""


def verdict(evidence: Evidence, rule: VerdictRule | None = None) -> Verdict:
    """Judge one split.

    Draw first, ask `Evidence.discovery_candidates` and `Evidence.loss_candidates` which problems need fresh
    samples, draw those (`samples_needed` says how many), and judge.

    Args:
        evidence: What was measured.
        rule: What the labels mean; None for the defaults.

    Raises:
        ValueError: Fewer than 2 samples or 1 problem, counts that do not fit, or fewer than 10 clusters.
    """
    rule = rule or VerdictRule()
    if evidence.n < 2 or len(evidence.base) < 1:
        raise ValueError("a verdict needs at least 2 samples of each of at least 1 problem.")
    checked_counts(evidence.n, evidence.base)
    checked_counts(evidence.n, evidence.trained)
    if len(evidence.chance_rates) != len(evidence.base):
        raise ValueError(
            f"chance needs one rate per problem ({len(evidence.base)}), not {len(evidence.chance_rates)}."
        )
    gains = evidence.discovery_candidates(rule.discovery)
    discovered = confirm(gains, evidence.fresh_base, rule.discovery, controls=tuple(evidence.controls.values()))
    lost = confirm(evidence.loss_candidates(rule.discovery), evidence.fresh_trained, rule.discovery)
    curves = _curves(evidence, rule)
    parts = _parts(curves, rule.margin) if curves else {}
    labels = [label for label, found in ((Label.DISCOVER, discovered), (Label.LOSE, lost)) if found.confirmed.any()]
    labels += [label for label, needed in parts.items() if all(part.state == "holds" for part in needed)]
    if labels != [Label.NO_EFFECT]:
        labels = [label for label in labels if label is not Label.NO_EFFECT]
    reasons = {
        Label.DISCOVER: _discovery_reason(discovered, "base", "trained", rule.discovery, evidence.fresh_base),
        Label.LOSE: _discovery_reason(lost, "trained", "base", rule.discovery, evidence.fresh_trained),
        **{label: "; ".join(map(str, needed)) for label, needed in parts.items()},
    }
    if reached := int(evidence.within_reach(rule.discovery).sum()):
        reasons[Label.DISCOVER] += f"; {reached} more within the base's reach by its likelihood of the solutions"
    if discovered.confirmed.any() and not evidence.controls:
        reasons[Label.DISCOVER] += "; no control with the answer format shown to the base was run"
    needs = _discovery_needs(rule.discovery, (discovered, evidence.fresh_base), (lost, evidence.fresh_trained))
    if not labels:
        reasons[Label.NOT_DECIDED] = _undecided_reason(evidence, parts)
        needs += _part_needs(evidence, parts)
    return Verdict(
        labels=tuple(labels) or (Label.NOT_DECIDED,),
        reasons=reasons,
        budget=_budget(evidence, rule, curves),
        needs=tuple(needs),
        discovered=discovered,
        lost=lost,
        problems=label_problems(
            evidence.n,
            evidence.base,
            evidence.trained,
            discovered=discovered.confirmed,
            lost=lost.confirmed,
            rule=rule.discovery,
            alpha=rule.alpha,
        ),
        curves=curves,
    )


def _curves(evidence: Evidence, rule: VerdictRule) -> Curves | None:
    last = evidence.last_k()
    if last == 0:
        return None
    ks = k_grid(last)
    bootstrap = ProblemBootstrap(
        len(evidence.base),
        clusters=evidence.clusters,
        resamples=rule.resamples,
        alpha=rule.alpha,
        seed=rule.seed,
    )
    n, base, trained = evidence.n, evidence.base, evidence.trained
    delta = (pass_at_k_curve(n, trained) - pass_at_k_curve(n, base))[:, ks - 1]
    beyond = excess(n, base, n, trained, last, same_seeds=evidence.same_seeds)
    return Curves(
        ks=ks,
        delta=bootstrap.curve(delta, bounds=(-1.0, 1.0)),
        excess=bootstrap.curve(beyond[:, None], bounds=(-1.0, 1.0)).interval(0),
        crossover=crossover_interval(bootstrap, ks, delta),
    )


def _parts(curves: Curves, margin: float) -> dict[Label, tuple[Part, ...]]:
    def delta(column: int, threshold: float, *, above: bool) -> Part:
        k = int(curves.ks[column])
        return Part(f"Delta at k={k}", curves.delta.band(column), threshold, above, k)

    end = len(curves.ks) - 1
    lowest, highest = int(curves.delta.band_low.argmin()), int(curves.delta.band_high.argmax())
    alone = Part(f"the share solved by it alone at k={curves.ks[end]}, over A/A,", curves.excess, margin, above=False)
    return {
        Label.SHARPEN: (delta(0, 0.0, above=True), delta(end, margin, above=False), alone),
        Label.SHRINK: (delta(end, 0.0, above=False),),
        Label.NO_EFFECT: (delta(lowest, -margin, above=True), delta(highest, margin, above=False)),
    }


def _discovery_reason(found: Discoveries, weak: str, strong: str, rule: DiscoveryRule, fresh: Fresh | None) -> str:
    what = f"{weak} pass@{rule.budget} <= {rule.eta:g} and {strong} p >= {rule.delta:g}"
    tried, confirmed = int(found.candidates.sum()), int(found.confirmed.sum())
    if not tried:
        return f"no problem is a candidate for {what}"
    candidates = f"{tried} candidate{'s' * (tried > 1)}"
    if fresh is None:
        return f"{candidates} for {what}, none confirmed: there are no fresh samples"
    if not confirmed:
        return f"{candidates} for {what}, none confirmed on fresh samples"
    return (
        f"{confirmed} of {candidates} confirmed on fresh samples for {what}, at least {found.at_least} of them "
        f"with {1 - rule.q:.0%} confidence"
    )


def _undecided_reason(evidence: Evidence, parts: dict[Label, tuple[Part, ...]]) -> str:
    if not parts:
        rates = np.asarray(evidence.chance_rates, dtype=np.float64)
        if evidence.k_limit is not None and evidence.k_limit < 1:
            reason = "claims are limited to k < 1"
        elif rates.mean() > MAX_CHANCE:
            reason = f"guessing alone reaches pass@1 of {rates.mean():.2f}, more than {MAX_CHANCE:g}"
        else:
            often = int((rates > 1 - 1 / MAX_INFLATION).sum())
            reason = f"guessing alone solves {often} of the problems in more than 9 of 10 attempts; leave them out"
        return f"{reason}: no claim about curves can be made"
    failing = [f"{label}: {part}" for label, needed in parts.items() for part in needed if part.state != "holds"]
    return "; ".join(failing)


def _discovery_needs(
    rule: DiscoveryRule, gains: tuple[Discoveries, Fresh | None], losses: tuple[Discoveries, Fresh | None]
) -> list[str]:
    needs = []
    for label, model, (found, fresh) in ((Label.DISCOVER, "base", gains), (Label.LOSE, "trained model", losses)):
        if found.confirmed.any() or not found.candidates.any():
            continue
        # At this level the first of the candidates can be confirmed even if all others are refuted.
        samples = samples_needed(rule.budget, rule.eta, rule.q / int(found.candidates.sum()))
        drawn = 0 if fresh is None else int(np.asarray(fresh.n)[found.candidates].min())
        if drawn < samples:
            needs.append(f"{label}: {samples} fresh samples of the {model} on each candidate instead of {drawn}")
    return needs


def _part_needs(evidence: Evidence, parts: dict[Label, tuple[Part, ...]]) -> list[str]:
    needs = []
    for label, needed in parts.items():
        # A label that one part rules out needs no more data.
        if any(part.state == "ruled out" for part in needed):
            continue
        needs += [f"{label}: {part.name} {_more(part, evidence)}" for part in needed if part.state == "open"]
    # With few samples, two parts of a label are about the same k.
    return list(dict.fromkeys(needs))


def _more(part: Part, evidence: Evidence) -> str:
    """Say what would decide an open part."""
    m = len(evidence.base)
    problems = part.problems_needed(m)
    if problems is None or part.shrink is None:
        return f"lies at {part.threshold:g}: no number decides"
    text = f"is decided by about {max(problems, m + 1)} problems instead of {m}"
    if part.k is None or m < 2:
        return text
    total = variance_parts(evidence.n, evidence.trained, evidence.base, part.k).total
    samples = samples_for_variance(evidence.n, evidence.trained, evidence.base, part.k, total * part.shrink**2)
    return f"{text}, or {samples} samples instead of {evidence.n}" if (samples or 0) > evidence.n else text


def _budget(evidence: Evidence, rule: VerdictRule, curves: Curves | None) -> str:
    shown = f"curves up to k={curves.ks[-1]}" if curves else "no claim about curves"
    guessing = "; no chance rate given: guessing is taken never to succeed" if evidence.chance is None else ""
    return (
        f"at budget K={rule.discovery.budget}; {shown}, from n={evidence.n} samples of each of "
        f"m={len(evidence.base)} problems; margin {rule.margin:g}; population: new problems of the same generator; "
        f"{ONE_SEED}{guessing}"
    )
