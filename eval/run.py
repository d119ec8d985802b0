"""Sampling runs: many episodes per problem, resumable, every seed a function of what it is for."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from palestra.agents.policies import OraclePolicy, RandomPolicy, play
from palestra.agents.progress import ProgressReport
from palestra.agents.rollout import Episode
from palestra.agents.trajectory import Trajectory
from palestra.envs.errors import PalestraError, UsageError
from palestra.envs.registry import make, spec
from palestra.envs.sandbox import DEFAULT_SANDBOX
from palestra.envs.sandbox.shared import enforced, use_sandbox
from palestra.eval.settings import EvalSettings
from palestra.eval.store import RunStore, SampleRecord

POLICIES = ("oracle", "random")
"""Model names that need no model."""


def evaluate(settings: EvalSettings) -> RunStore:
    """Sample until every problem of every variant has `settings.samples` finished episodes.

    Episodes that the run already holds are not sampled again; a larger number of samples or problems extends
    the run, and leaves what is there as it is.

    Returns:
        The closed store of the run.

    Raises:
        UsageError: Unknown environment, variant or model; an unusable folder, or one that holds other settings.
        PalestraError: Episodes failed through their tools' machinery; running again samples those anew.
    """
    use_sandbox(settings.sandbox)
    spec(settings.env)
    problems = {v: make(settings.env, v).distinct_indices(settings.problems) for v in settings.variant}
    wanted = {(v, problem, sample) for v in problems for problem in problems[v] for sample in range(settings.samples)}
    fixed = {
        "env": settings.env,
        "model": _identity(settings.model),
        "seed": settings.seed,
        "sandbox": settings.sandbox,
        "sampling": settings.model_dump(include={"temperature", "top_p", "max_tokens"}),
    }
    with _open(settings.out, fixed) as store:
        store.update_manifest(problems=settings.problems, samples=settings.samples, palestra=version("palestra"))
        done = store.done()
        todo = sorted(wanted - done)
        with ProgressReport(f"eval {settings.out.name}", "episodes", len(wanted), len(wanted & done)) as progress:
            solved, reasons = 0, Counter[str]()
            for count, (key, trajectory) in enumerate(_episodes(settings, todo), 1):
                store.append(_record(settings, key, trajectory), trajectory.to_json())
                solved += trajectory.outcome == 1.0
                reasons.update([trajectory.error] if trajectory.error else [])
                text = f"solved {solved / count:.3f}" + (f"  errors {reasons.total()}" if reasons else "")
                progress.update(len(wanted & done) + count, text)
        if measures := enforced(settings.sandbox):
            store.update_manifest(enforced=measures)
        if reasons:
            raise PalestraError(
                f"{reasons.total()} episodes ended because a tool's machinery failed, not the model "
                f"({reasons.most_common(1)[0][0]}); mend that and run the same command again"
            )
        store.finish()
    return store


def sample_seed(run_seed: int, env: str, variant: str, problem: int, sample: int) -> int:
    """Return the 64-bit seed of one sample: it depends on nothing but what the sample is."""
    text = f"{run_seed}|{env}|{variant}|{problem}|{sample}"
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big")


def _open(out: Path, fixed: dict[str, Any]) -> RunStore:
    if not (out / "manifest.json").exists():
        if out.is_dir() and any(out.iterdir()):
            raise UsageError(f"'{out}' is not empty and holds no evaluation; choose another --out")
        return RunStore.create(out, fixed)
    with RunStore.open(out) as store:
        if "sandbox" not in store.manifest:  # it was sampled when there was no other
            store.update_manifest(sandbox=DEFAULT_SANDBOX)
        if not store.done() and not store.samples():  # it died before its first episode: nothing to protect
            store.update_manifest(**fixed)
    return RunStore.open(out, expect=fixed)


def _identity(model: str) -> dict[str, str]:
    """Name the model and, for a folder, the digest of its weights."""
    if model in POLICIES:
        return {"name": model}
    from palestra.agents.models import weight_files

    digest = sha256()
    for path in weight_files(model):
        digest.update(path.read_bytes())
    return {"name": model, "weights": digest.hexdigest()[:16]}


def _episodes(
    settings: EvalSettings, todo: list[tuple[str, int, int]]
) -> Iterator[tuple[tuple[str, int, int], Trajectory]]:
    if not todo:
        return
    if settings.model in POLICIES:
        yield from _policy_episodes(settings, todo)
        return
    from palestra.agents.codec import ChatCodec
    from palestra.agents.engine import SamplingParams
    from palestra.agents.models import load_model
    from palestra.agents.rollout import rollout
    from palestra.agents.transformers_engine import TransformersEngine

    loaded = load_model(settings.model)
    codec = ChatCodec(loaded.tokenizer)
    engine = TransformersEngine(loaded.model, codec.stop_ids, codec.pad_id)
    params = SamplingParams(settings.max_tokens, settings.temperature, settings.top_p)
    for variant in settings.variant:
        keys = {Episode(p, _seed(settings, (v, p, s))): (v, p, s) for v, p, s in todo if v == variant}
        for episode, trajectory in rollout(
            lambda variant=variant: make(settings.env, variant, syntax=codec.syntax),  # type: ignore[misc]
            list(keys),
            engine,
            codec,
            params,
            concurrency=settings.concurrency,
            max_length=loaded.max_length,
        ):
            yield keys[episode], trajectory


def _policy_episodes(
    settings: EvalSettings, todo: list[tuple[str, int, int]]
) -> Iterator[tuple[tuple[str, int, int], Trajectory]]:
    with ExitStack() as made:
        envs = {variant: made.enter_context(make(settings.env, variant)) for variant in settings.variant}
        for key in todo:
            policy = OraclePolicy() if settings.model == "oracle" else RandomPolicy(_seed(settings, key))
            yield key, play(envs[key[0]], policy, key[1])


def _seed(settings: EvalSettings, key: tuple[str, int, int]) -> int:
    return sample_seed(settings.seed, settings.env, *key)


def _record(settings: EvalSettings, key: tuple[str, int, int], trajectory: Trajectory) -> SampleRecord:
    variant, problem, sample = key
    return SampleRecord(
        env=settings.env,
        variant=variant,
        problem=problem,
        key=trajectory.key,
        sample=sample,
        seed=_seed(settings, key),
        outcome=trajectory.outcome,
        process=trajectory.process,
        turns=len(trajectory.turns),
        tokens_in=len(trajectory.prompt_ids) + len(trajectory.mask) - trajectory.sampled,
        tokens_out=trajectory.sampled,
        wall_s=round(trajectory.wall_s, 3),
        stop=trajectory.stop,
        error=trajectory.error,
    )
