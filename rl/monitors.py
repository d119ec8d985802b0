"""Early warnings of training, from per-step numbers: reward hacking, collapse, and repetition. No trainer in here.

A monitor looks at blocks of `window` steps, compares a block with an earlier one, and moves its reference when it
has spoken, so that it says a thing once. `update` returns sentences; `state` and `restore` carry it over a resume.
Give it every episode sampled: dynamic sampling keeps the mixed groups only, whose success rate says nothing.
"""

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from statistics import median, variance
from typing import Any

from palestra.rl.credit.rewards import EpisodeRewards

LEVEL = 1e-4
"""Level of the tests: a monitor looks again and again, and at the most striking blocks."""
LEAST_GROWTH = 0.05
"""A share that grew by less is not worth a sentence."""


class _ShareMonitor:
    """Follows a share over blocks of steps."""

    def __init__(self, window: int, terms: Mapping[str, float]) -> None:
        self.window = window
        self._terms = terms
        self._block = self._empty()
        self._reference: dict[str, Any] | None = None

    def _empty(self) -> dict[str, Any]:
        counts = dict.fromkeys(("steps", "groups", "total", "hits", "solved", "hits2", "total2", "both"), 0)
        return {**counts, "terms": dict.fromkeys(self._terms, 0.0)}

    def _count(self, hits: int, total: int) -> None:
        """Add a group: things that are alike, of which some are hits."""
        block = self._block
        block["groups"] += 1
        block["hits"] += hits
        block["total"] += total
        block["hits2"] += hits * hits
        block["total2"] += total * total
        block["both"] += hits * total

    def _end_step(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Return the reference and the block that just ended, if the share grew from the one to the other.

        The reference is the lowest block since the last warning.
        """
        block, before = self._block, self._reference
        block["steps"] += 1
        if block["steps"] < self.window:
            return None
        self._block = self._empty()
        grown = before is not None and _grew(before, block)
        if before is None or grown or _share(block) < _share(before):
            self._reference = block
        return (before, block) if grown and before is not None else None

    def state(self) -> dict[str, Any]:
        """Return what a resumed run has to restore, as JSON takes it."""
        return deepcopy({"reference": self._reference, "block": self._block})

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._reference, self._block = deepcopy((state["reference"], state["block"]))


class HackingMonitor(_ShareMonitor):
    """Warns when episodes that earn much process reward and fail become more frequent.

    Such episodes are what a gamed process term looks like, and also what half-learned tasks look like: the
    sentence says what became of the share that is solved.

    Args:
        maxima: The largest total per episode of each process term, as the environment declares it.
        window: Steps per block.
        high: Share of the summed maxima from which process reward is high.
    """

    def __init__(self, maxima: Mapping[str, float], *, window: int = 10, high: float = 0.5) -> None:
        self.maxima = {name: most for name, most in maxima.items() if most > 0}
        self.high = high
        super().__init__(window, self.maxima)

    def update(self, episodes: Sequence[EpisodeRewards], group_size: int) -> list[str]:
        """Take the episodes of a step and return at most one warning.

        Args:
            episodes: Broken ones included; members of a group stand together.
            group_size: Episodes per group, which are alike: the test allows for that.
        """
        for start in range(0, len(episodes), group_size):
            whole = [e for e in episodes[start : start + group_size] if e.outcome is not None]
            failed = [e for e in whole if not e.outcome]
            self._count(sum(map(self.is_hacked, failed)), len(whole))
            self._block["solved"] += len(whole) - len(failed)
            for name, most in self.maxima.items():
                self._block["terms"][name] += sum(e.terms.get(name, 0.0) for e in failed) / most
        grown = self._end_step()
        return [self._sentence(*grown)] if grown else []

    def is_hacked(self, episode: EpisodeRewards) -> bool:
        """Whether an episode failed with high process reward; False where no term can be earned."""
        most = sum(self.maxima.values())
        return bool(most) and episode.outcome == 0 and sum(episode.process) >= self.high * most

    def _sentence(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
        def mean(block: Mapping[str, Any], name: str) -> float:
            return float(block["terms"][name] / max(1, block["total"] - block["solved"]))

        term = max(self.maxima, key=lambda name: mean(now, name) - mean(before, name))
        return (
            f"{_share(now):.0%} of the last {now['total']} episodes earned at least {self.high:.0%} of the process "
            f"reward and failed, up from {_share(before):.0%}, while the share solved went from "
            f"{before['solved'] / max(1, before['total']):.0%} to {now['solved'] / max(1, now['total']):.0%}: "
            f"'{term}' grew most in failed episodes ({mean(before, term):.2f} to {mean(now, term):.2f} of its "
            "maximum) and may be gamed"
        )


class RepetitionMonitor(_ShareMonitor):
    """Warns when turns that repeat themselves become more frequent: the echo trap of RAGEN, arXiv 2504.20073.

    Args:
        window: Steps per block.
    """

    def __init__(self, *, window: int = 10) -> None:
        super().__init__(window, {})

    def update(self, groups: Sequence[Sequence[str]]) -> list[str]:
        """Take what the model wrote in a step, for each group of episodes all their turns; at most one warning."""
        for turns in groups:
            self._count(sum(map(is_repetitive, turns)), len(turns))
        grown = self._end_step()
        if not grown:
            return []
        before, block = grown
        return [
            f"{_share(block):.0%} of the last {block['total']} turns repeat themselves, up from "
            f"{_share(before):.0%}: the policy may be falling into an echo trap"
        ]


def is_repetitive(text: str, *, size: int = 8, least: int = 64) -> bool:
    """Whether a text says the same again and again: under a quarter of its pieces of `size` characters differ.

    A text shorter than `least` characters is never called so.
    """
    if len(text) < least:
        return False
    pieces = [text[i : i + size] for i in range(len(text) - size + 1)]
    return len(set(pieces)) < len(pieces) / 4


class CollapseMonitor:
    """Warns of a collapse, and of the signs of one that RAGEN (arXiv 2504.20073) and DAPO (2503.14476) describe.

    - The reward's standard deviation inside groups halves and the outcome does not rise: nothing is left to
      compare, and the reward is about to fall. Where the outcome rises, the deviation falls because tasks
      are solved, and nothing is said.
    - Entropy falls under 15% of what it was in the first block, before 95% is solved.
    - The outcome falls to under two thirds of its best block.
    - The gradient's norm is not finite, or 10 times its median over the last two windows.

    Args:
        window: Steps per block.
    """

    def __init__(self, *, window: int = 10) -> None:
        self.window = window
        self._block: dict[str, list[float]] = {"outcome": [], "deviation": [], "entropy": []}
        self._reference: dict[str, list[float]] | None = None
        self._best: list[float] | None = None
        self._first_entropy: float | None = None
        self._entropy_said = False
        self._norms: list[float] = []
        self._quiet = 0

    def update(self, *, outcome: float, deviation: float, entropy: float, gradient_norm: float) -> list[str]:
        """Take the numbers of a step and return at most one warning per sign.

        Args:
            outcome: Mean strict outcome.
            deviation: Mean over groups of the reward's standard deviation inside the group.
            entropy: Mean entropy per sampled token, in nats.
            gradient_norm: Before clipping.
        """
        warnings = self._spike(gradient_norm)
        for name, value in (("outcome", outcome), ("deviation", deviation), ("entropy", entropy)):
            self._block[name].append(value)
        if len(self._block["outcome"]) == self.window:
            block, self._block = self._block, {name: [] for name in self._block}
            warnings += self._variance(block) + self._entropy(block) + self._fall(block["outcome"])
        return warnings

    def _variance(self, block: dict[str, list[float]]) -> list[str]:
        before = self._reference
        if before is None or _mean(block["deviation"]) > _mean(before["deviation"]):
            self._reference = block
            return []
        if _exceeds(block["outcome"], before["outcome"]):
            self._reference = block
            return []
        halved = _mean(block["deviation"]) < 0.5 * _mean(before["deviation"])
        if not halved or not _exceeds(before["deviation"], block["deviation"]):
            return []
        self._reference = block
        return [
            f"the reward's standard deviation inside groups fell from {_mean(before['deviation']):.3f} to "
            f"{_mean(block['deviation']):.3f} while the outcome went from {_mean(before['outcome']):.1%} to "
            f"{_mean(block['outcome']):.1%}: groups lose their contrast, a collapse may follow"
        ]

    def _entropy(self, block: dict[str, list[float]]) -> list[str]:
        now = _mean(block["entropy"])
        if self._first_entropy is None:
            self._first_entropy = now
        low = now < 0.15 * self._first_entropy
        if not low or self._entropy_said or _mean(block["outcome"]) >= 0.95:
            self._entropy_said &= low
            return []
        self._entropy_said = True
        return [
            f"entropy fell from {self._first_entropy:.3f} to {now:.3f} nats per token with "
            f"{_mean(block['outcome']):.0%} solved: little is explored any more"
        ]

    def _fall(self, outcome: list[float]) -> list[str]:
        best = self._best
        if best is None or _mean(outcome) >= _mean(best):
            self._best = outcome
            return []
        if _mean(outcome) > _mean(best) * 2 / 3 or not _exceeds(best, outcome):
            return []
        self._best = outcome
        return [
            f"the share solved fell from {_mean(best):.1%} to {_mean(outcome):.1%}: training undoes what the model "
            "could do; a lower --lr, more --prompts, or --beta hold it"
        ]

    def _spike(self, norm: float) -> list[str]:
        usual = median(self._norms) if len(self._norms) >= self.window else None
        spike = not math.isfinite(norm) or (usual is not None and norm > 10 * usual)
        if math.isfinite(norm) and norm > 0:  # a step without contrast has no gradient and is no measure
            self._norms = [*self._norms, norm][-2 * self.window :]
        quiet, self._quiet = self._quiet, max(0, self._quiet - 1)
        if not spike:
            return []
        self._quiet = self.window
        if quiet:
            return []
        against = f", {norm / usual:.0f} times its usual size" if usual and math.isfinite(norm) else ""
        return [f"the gradient's norm is {norm:.3g}{against}: the policy may not recover from this step"]

    def state(self) -> dict[str, Any]:
        """Return what a resumed run has to restore."""
        state = {
            "block": self._block,
            "reference": self._reference,
            "best": self._best,
            "first_entropy": self._first_entropy,
            "entropy_said": self._entropy_said,
            "norms": self._norms,
            "quiet": self._quiet,
        }
        return deepcopy(state)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._block, self._reference, self._norms = deepcopy((state["block"], state["reference"], state["norms"]))
        self._best = list(state["best"]) if state.get("best") else None
        self._first_entropy, self._entropy_said = state["first_entropy"], state["entropy_said"]
        self._quiet = state["quiet"]


class LimitMonitor:
    """Says once that the limit of tokens per turn ends many turns: what was cut is seldom right, whatever was learned.

    Args:
        window: Steps after which it judges.
        share: Of turns, from which it speaks.
    """

    def __init__(self, *, window: int = 10, share: float = 0.2) -> None:
        self.window, self.share = window, share
        self._steps, self._cut, self._turns = 0, 0, 0
        self._said = False

    def update(self, cut: Sequence[bool], limit: int) -> list[str]:
        """Take whether the limit cut each turn of a step; returns at most one warning."""
        self._steps += 1
        self._cut += sum(cut)
        self._turns += len(cut)
        if self._said or self._steps < self.window:
            return []
        found = self._cut / max(1, self._turns)
        self._steps = self._cut = self._turns = 0
        if found < self.share:
            return []
        self._said = True
        return [f"--max-tokens {limit} cut {found:.0%} of the turns of the last {self.window} steps: raise it"]

    def state(self) -> dict[str, Any]:
        """Return what a resumed run has to restore."""
        return {"steps": self._steps, "cut": self._cut, "turns": self._turns, "said": self._said}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._steps, self._cut, self._turns = state["steps"], state["cut"], state["turns"]
        self._said = state["said"]


def _share(block: Mapping[str, Any]) -> float:
    return float(block["hits"] / max(1, block["total"]))


def _effective(block: Mapping[str, Any]) -> tuple[int, int]:
    """Return hits and misses as if groups held independent things: counts divided by the design effect."""
    p, n, groups = _share(block), block["total"], block["groups"]
    squares = block["hits2"] - 2 * p * block["both"] + p * p * block["total2"]
    if p in (0.0, 1.0) or groups < 2:
        n = min(n, groups)
    elif squares > 0:
        n = min(n, p * (1 - p) * n * n * (groups - 1) / groups / squares)
    return round(p * n), round((1 - p) * n)


def _grew(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a share grew, by Fisher's exact test of two proportions on effective counts."""
    from scipy.stats import fisher_exact

    if _share(now) - _share(before) < LEAST_GROWTH:
        return False
    return bool(fisher_exact([_effective(now), _effective(before)], alternative="greater").pvalue < LEVEL)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _exceeds(high: Sequence[float], low: Sequence[float]) -> bool:
    """Whether one block's mean is above another's, by Welch's one-sided test on its steps."""
    from scipy.stats import t

    gap = _mean(high) - _mean(low)
    parts = [variance(values) / len(values) if len(values) > 1 else 0.0 for values in (high, low)]
    error = sum(parts)
    if gap <= 0 or error == 0:
        return gap > 0
    freedom = error**2 / sum(part**2 / (len(high) - 1) for part in parts)
    return bool(t.sf(gap / math.sqrt(error), freedom) < LEVEL)
