"""Plans from pilot runs what a claim needs, per variant, in words and as JSON."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from palestra.envs.errors import UsageError
from palestra.eval.loading import load_runs, samples_to_compare
from palestra.eval.stats.plan import Plan, plan


class VariantPlan(NamedTuple):
    """What it takes on one variant."""

    variant: str
    problems: int
    """Problems of the pilot."""
    samples: int
    """Samples of each in the pilot."""
    plan: Plan

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values; null where no number does."""
        found = self.plan
        return {
            "variant": self.variant,
            "k": found.k,
            "delta": found.delta,
            "pilot": {"problems": self.problems, "samples": self.samples},
            "variance": {"total": round(found.parts.total, 6), "sampling": round(found.parts.sampling, 6)},
            "problems": found.problems,
            "samples": found.samples,
            "seeds": found.seeds,
            "discovery_samples": found.discovery_samples,
        }

    def __str__(self) -> str:
        found = self.plan
        if found.samples is None:
            samples = f"no number of samples of {self.problems} problems does"
        else:
            samples = f"or {found.samples} samples of each of {self.problems} problems"
        seeds = (
            "" if found.seeds is None else f"; {found.seeds} training seeds per method for a claim about the method"
        )
        if found.problems is None:
            takes = (
                f"nothing can be planned for a difference of {found.delta:g} in pass@{found.k} from {self.problems} "
                "problems that show no spread: draw more of them, or more samples"
            )
        else:
            takes = (
                f"a difference of {found.delta:g} in pass@{found.k} takes {found.problems} problems with "
                f"{self.samples} samples each; {samples}"
            )
        return (
            f"{self.variant}: {takes}{seeds}. Showing one problem out of reach takes "
            f"{found.discovery_samples} samples of it without a success."
        )


def plan_runs(
    runs: Sequence[str | Path],
    *,
    variants: Sequence[str] | None = None,
    k: int = 1,
    delta: float = 0.05,
    seed_sd: float | None = None,
    power: float = 0.8,
) -> list[VariantPlan]:
    """Plan how to show a difference of `delta` in pass@k, variant by variant.

    Args:
        runs: One pilot run, or two of different models, as for `compare_runs`.
        variants: Plan for these variants only.
        k: Attempts, at most half of the pilot's samples.
        delta: Difference that shall be found, > 0.
        seed_sd: Standard deviation between the training seeds of a method, > 0.
        power: Chance of finding the difference.

    Raises:
        UsageError: More than two runs, too few samples or problems, a value out of range, or as for `load_runs`.
        PalestraError: As for `load_runs`.
    """
    if len(runs) > 2:
        raise UsageError(f"a pilot is one run or two, not {len(runs)}.")
    if seed_sd is not None and not 0 < seed_sd < math.inf:
        raise UsageError(f"the standard deviation between seeds must be a number > 0, not {seed_sd:g}.")
    loaded = load_runs(runs, variants)
    n = samples_to_compare(loaded)
    plans = []
    for variant, keys in sorted(loaded[0].keys.items(), key=lambda item: (item[0] != "test", item[0])):
        base, *trained = [run.successes(variant, sorted(keys), n) for run in loaded]
        try:
            found = plan(n, base, trained[0] if trained else None, k=k, delta=delta, seed_sd=seed_sd, power=power)
        except ValueError as error:
            raise UsageError(f"{variant}: {error}") from error
        plans.append(VariantPlan(variant, len(keys), n, found))
    return plans
