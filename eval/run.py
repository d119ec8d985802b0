"""Sampling runs: many episodes per problem, resumable, every seed a function of what it is for."""

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from palestra import __version__
from palestra.agents.progress import ProgressReport
from palestra.envs.errors import PalestraError, UsageError
from palestra.envs.registry import make, spec
from palestra.envs.sandbox import DEFAULT_SANDBOX
from palestra.envs.sandbox.shared import enforced, use_sandbox
from palestra.eval.episodes import episodes, model_identity, record, sample_seed, training_cost
from palestra.eval.records import SampleId, missing_samples
from palestra.eval.settings import DEFAULT_ENGINE, POLICIES, PROBLEMS, EvalSettings
from palestra.eval.store import UNBEGUN, RunStore

__all__ = ["POLICIES", "evaluate", "sample_seed"]

HOPELESS = 16
"""Episodes in which a tool's machinery fails, all from the first on, before the others are not sampled any more."""


def evaluate(settings: EvalSettings, *, only: Collection[SampleId] | None = None) -> RunStore:
    """Sample until every problem of every variant has `settings.samples` finished episodes.

    Episodes that the run already holds are not sampled again; a larger number of samples or problems extends
    the run, and leaves what is there as it is.

    Args:
        settings: What to sample, and how.
        only: Draw these samples beside what is there, instead of those that the settings' numbers mean.

    Returns:
        The closed store of the run.

    Raises:
        UsageError: Unknown environment, variant or model; an unusable folder, or one that holds other settings.
        PalestraError: Episodes failed through their tools' machinery; running again samples those anew. If the first
            `HOPELESS` all did, the others are left for that, too.
    """
    use_sandbox(settings.sandbox)
    spec(settings.env)
    problems = _problems(settings) if only is None else {}
    wanted = _wanted(settings, problems) if only is None else set(only)
    fixed = {
        "env": settings.env,
        "model": model_identity(settings),
        "seed": settings.seed,
        "sandbox": settings.sandbox,
        "engine": settings.engine,
        "sampling": settings.sampling,
        **({} if settings.shard is None else {"shard": settings.shard}),
    }
    with _open(settings.out, fixed) as store:
        if only is None:
            asked = _asked(settings, problems, store.manifest)
            store.update_manifest(**asked, **training_cost(settings), palestra=__version__)
        done = store.done()
        todo = sorted(wanted - done)
        with ProgressReport(f"eval {settings.out.name}", "episodes", len(wanted), len(wanted & done)) as progress:
            solved, reasons = 0, Counter[str]()
            for number, played in enumerate(episodes(settings, todo), 1):
                trajectory = played.trajectory
                store.append(record(settings, played), trajectory.to_json())
                solved += trajectory.outcome == 1.0
                reasons.update([trajectory.error] if trajectory.error else [])
                text = f"solved {solved / number:.3f}" + (f"  errors {reasons.total()}" if reasons else "")
                progress.update(len(wanted & done) + number, text)
                if reasons.total() == number == HOPELESS:
                    break
        if measures := enforced(settings.sandbox):
            store.update_manifest(enforced=measures)
        if reasons:
            untried = f"; the other {len(todo) - number} were not tried" if number < len(todo) else ""
            raise PalestraError(
                f"{reasons.total()} episodes ended because a tool's machinery failed, not the model "
                f"({reasons.most_common(1)[0][0]}){untried}; mend that and run the same command again"
            )
        if only is None or not missing_samples(store.manifest, store.done()):
            store.finish()
    return store


def _problems(settings: EvalSettings) -> dict[str, list[int]]:
    count, or_all = settings.problems or PROBLEMS, settings.problems is None
    return {v: make(settings.env, v).distinct_indices(count, or_all=or_all) for v in settings.variant}


def _asked(settings: EvalSettings, problems: Mapping[str, list[int]], there: Mapping[str, Any]) -> dict[str, Any]:
    """Return the manifest's entries of how much is asked for; of a finished run, no less than it was finished with."""
    variants: dict[str, dict[str, int]] = dict(there.get("variants", {}))
    for variant, indices in problems.items():
        now = {"problems": len(indices), "samples": settings.samples}
        before = variants.get(variant, now) if there["status"] == "done" else now
        variants[variant] = {name: max(count, before[name]) for name, count in now.items()}
    return {"problems": settings.problems or PROBLEMS, "samples": settings.samples, "variants": variants}


def _wanted(settings: EvalSettings, problems: Mapping[str, list[int]]) -> set[SampleId]:
    return {
        (variant, problem, sample)
        for variant, indices in problems.items()
        for problem in indices
        for sample in range(settings.samples)
        if settings.in_shard(sample)
    }


def _open(out: Path, fixed: dict[str, Any]) -> RunStore:
    if not (out / "manifest.json").exists():
        if out.is_dir() and any(entry.name not in UNBEGUN for entry in out.iterdir()):
            raise UsageError(f"'{out}' is not empty and holds no evaluation; choose another --out")
        return RunStore.create(out, fixed)
    with RunStore.open(out) as store:
        # It was sampled when there was no other.
        store.update_manifest(**{"sandbox": DEFAULT_SANDBOX, "engine": DEFAULT_ENGINE, **store.manifest})
        if not store.done() and not store.samples():  # it died before its first episode: nothing to protect
            store.update_manifest(**fixed)
    return RunStore.open(out, expect={"shard": None, **fixed})
