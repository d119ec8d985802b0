"""Scores a run again: its stored turns are played once more, and the environment of today says what they are worth."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from palestra import __version__
from palestra.agents.progress import ProgressReport
from palestra.envs.core import TextEnv
from palestra.envs.errors import PalestraError, UsageError
from palestra.envs.registry import make
from palestra.envs.sandbox import DEFAULT_SANDBOX
from palestra.envs.sandbox.shared import use_sandbox
from palestra.eval.episodes import answer_digest
from palestra.eval.records import SampleRecord, read_manifest, read_samples, read_trajectory, sample_name
from palestra.eval.store import RunStore


@dataclass(frozen=True)
class Rescored:
    """What scoring again changed."""

    samples: int
    """Samples scored."""
    gained: int
    """Failures that are successes now."""
    lost: int
    """Successes that are failures now."""
    replies: int
    """Episodes in which the environment now answers a turn with another text than the model saw."""


def rescore(run: str | Path, out: str | Path) -> Rescored:
    """Play the stored turns of a run again and write what they are worth now as a new run.

    Everything but outcomes, process terms and answers stays as it was, seeds included. An episode that ends earlier
    now (an answer that counts as right now) keeps the turns up to there.

    Raises:
        UsageError: `run` is no run, was imported, or `out` already holds one.
        PalestraError: A trajectory is missing or damaged, a problem is another task now, or an episode would now go
            on beyond what the model was asked for.
    """
    manifest = read_manifest(run)
    if "imported" in manifest:
        raise UsageError(f"{run} was imported and holds no turns that could be scored again.")
    samples = read_samples(run)
    use_sandbox(manifest.get("sandbox", DEFAULT_SANDBOX))
    kept = {name: value for name, value in manifest.items() if name not in ("v", "status")}
    changes: Counter[str] = Counter()
    envs: dict[str, TextEnv] = {}
    with (
        RunStore.create(out, {**kept, "rescored": {"from": str(run), "palestra": __version__}}) as store,
        ProgressReport(f"score {Path(run).name}", "episodes", len(samples)) as progress,
    ):
        try:
            for number, sample in enumerate(samples, 1):
                stored = read_trajectory(run, sample.part, sample.offset)
                if sample.error is None:
                    env = envs.setdefault(sample.variant, make(sample.env, sample.variant))
                    record, trajectory = _scored(env, sample, stored, changes)
                else:  # nothing is known of it; it is drawn again when the run is resumed
                    record, trajectory = sample, stored
                store.append(record, trajectory)
                changes[f"{sample.outcome:g} to {record.outcome:g}"] += 1
                progress.update(number)
        finally:
            for env in envs.values():
                env.close()
        if manifest["status"] == "done":
            store.finish()
    return Rescored(len(samples), changes["0 to 1"], changes["1 to 0"], changes["replies"])


def _scored(
    env: TextEnv, sample: SampleRecord, stored: dict[str, Any], changes: Counter[str]
) -> tuple[SampleRecord, dict[str, Any]]:
    observation, _ = env.reset(options={"index": sample.problem})
    assert env.task is not None
    messages = stored["messages"]
    if env.task.key != sample.key or observation != messages[0]["content"]:
        raise PalestraError(
            f"problem {sample.problem} of {sample.variant} is another task now; evaluate again instead of scoring."
        )
    played = [messages[0]]
    process: dict[str, float] = {}
    outcome, over, replied = 0.0, False, False
    for message in messages[1:]:
        if message["role"] != "assistant":
            replied |= message["content"] != observation
            continue
        if over:
            break
        observation, _, terminated, truncated, info = env.step(message["content"])
        over = terminated or truncated
        outcome = info["reward"]["outcome"]
        for name, value in info["reward"]["process"].items():
            process[name] = process.get(name, 0.0) + value
        played.append(message)
        if observation:
            played.append({"role": info["role"], "content": observation})
    env.end_episode()
    if not over and sample.stop != "length":
        raise PalestraError(
            f"{sample_name(sample.id)} would go on now, beyond what the model was asked for; evaluate again instead "
            "of scoring."
        )
    changes["replies"] += replied
    turns = sum(message["role"] == "assistant" for message in played)
    answer = answer_digest(played, fenced=env.answers_in_fences)
    record = replace(sample, outcome=outcome, process=process, turns=turns, answer=answer)
    scored = {**stored, "messages": played, "outcome": outcome, "process": process}
    if "tokens" in stored:
        kept = stored["tokens"]["turns"][:turns]
        scored["tokens"] = {"completion_ids": stored["tokens"]["completion_ids"][: kept[-1][1]], "turns": kept}
    return record, scored
