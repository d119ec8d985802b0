"""Draws the fresh samples of a confirmation (docs/statistics.md, 9), of the candidates and no other problem."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from palestra.envs.errors import UsageError
from palestra.envs.sandbox import DEFAULT_SANDBOX
from palestra.eval.loading import LoadedRun, load_runs, samples_to_compare
from palestra.eval.run import evaluate
from palestra.eval.settings import DEFAULT_ENGINE, EvalSettings
from palestra.eval.stats.discovery import DiscoveryRule, candidates, samples_needed


class Confirmation(NamedTuple):
    """What was drawn of one model on one variant."""

    run: str
    """Label of the run that was extended."""
    variant: str
    candidates: int
    samples: int
    """Fresh samples of each candidate."""


def confirm(
    base: str | Path, trained: str | Path, *, samples: int | None = None, base_url: str | None = None
) -> Iterator[Confirmation]:
    """Extend both runs on the problems that the other model solves and this one did not; yields what was drawn.

    Of each candidate as many samples are drawn as confirm one alone at the level of the first of them, if none
    succeeds: enough whatever the others show. Interrupted, the same call goes on.

    Args:
        base: Run of the base.
        trained: Run of the trained model.
        samples: The first so many samples of each problem choose the candidates; None for as many as both runs have.
        base_url: Address of the server of an `openai:` model.

    Raises:
        UsageError: The runs cannot be compared, one of them was imported, or their temperature is 0.
        PalestraError: As for `evaluate`.
    """
    runs = load_runs([base, trained], None)
    if runs[0].deterministic:
        raise UsageError("at temperature 0 fresh samples are copies and confirm nothing; evaluate above it.")
    n = samples_to_compare(runs, samples)
    rule = DiscoveryRule()
    for weak, strong in ((runs[0], runs[1]), (runs[1], runs[0])):
        settings = _settings(weak, base_url)
        for variant, keys in sorted(weak.keys.items()):
            problems = sorted(keys)
            chosen = candidates(
                (n, weak.successes(variant, problems, n)), (n, strong.successes(variant, problems, n)), rule
            )
            count = int(chosen.sum())
            fresh = samples_needed(rule.budget, rule.eta, rule.q / count) if count else 0
            rows = [problems[row] for row in np.flatnonzero(chosen)]
            only = {(variant, problem, sample) for problem in rows for sample in range(n + fresh)}
            if only:
                evaluate(settings.model_copy(update={"variant": (variant,)}), only=only)
            yield Confirmation(weak.info.label, variant, count, fresh)


def _settings(run: LoadedRun, base_url: str | None) -> EvalSettings:
    manifest = run.info.manifest
    if "imported" in manifest:
        raise UsageError(f"{run.info.path} was imported: nothing more can be sampled of its model.")
    sampling = dict(manifest["sampling"])
    power = {f"power_{name}": value for name, value in sampling.pop("power", {}).items()}
    banned = tuple(sampling.pop("banned", ()))
    settings = EvalSettings(
        model=manifest["model"]["name"],
        env=run.env,
        out=run.info.path,
        seed=manifest["seed"],
        sandbox=manifest.get("sandbox", DEFAULT_SANDBOX),
        engine=manifest.get("engine", DEFAULT_ENGINE),
        ban=banned,
        **sampling,
        **power,
    )
    return settings.model_copy(update={"base_url": base_url}) if settings.served else settings
