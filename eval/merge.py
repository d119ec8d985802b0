"""Joins shards of an evaluation, drawn at several places at once, to the run that one place would have drawn."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from palestra.envs.errors import PalestraError, UsageError
from palestra.eval.records import (
    MANIFEST,
    SampleId,
    SampleRecord,
    first_difference,
    missing_samples,
    read_manifest,
    read_samples,
    read_trajectory,
    sample_name,
)
from palestra.eval.store import RunStore

_OF_A_SHARD = ("v", "status", "shard", "samples", "problems", "variants", "enforced", "palestra", "versions")
"""Manifest entries that need not agree."""


class Merged(NamedTuple):
    """What became of the shards."""

    samples: int
    """Finished samples of the run."""
    missing: int
    """Samples that the shards were to draw and did not; `palestra eval --out RUN` without `--shard` draws them."""


def merge(shards: Sequence[str | Path], out: str | Path) -> Merged:
    """Join shards to one run, by what their samples are: the order of the shards and of their lines plays no role.

    A sample that two shards hold is kept once if it is the same; samples that ended in an infrastructure error are
    left out. Interrupted, the same call goes on.

    Args:
        shards: Run directories of one environment, model, seed and sampling; they stay as they are.
        out: A new folder, or one that this very call has begun.

    Raises:
        UsageError: A folder is no run, the shards are not of one evaluation, or `out` holds another run or is a shard.
        PalestraError: Two shards hold different samples under one name, or a file is damaged.
    """
    if not shards:
        raise UsageError("give the shards to merge.")
    if Path(out).resolve() in [Path(shard).resolve() for shard in shards]:
        raise UsageError(f"{out} is one of the shards, which stay as they are; choose a new folder.")
    manifests = [read_manifest(shard) for shard in shards]
    for shard, manifest in zip(shards[1:], manifests[1:], strict=True):
        if found := first_difference(_shared(manifests[0]), _shared(manifest), "manifest"):
            entry, first, other = found
            raise UsageError(
                f"{shards[0]} and {shard} are not of one evaluation: {entry.removeprefix('manifest.')} is {first} and "
                f"{other}."
            )
    content = _content(manifests)
    if (Path(out) / MANIFEST).exists():
        store = RunStore.open(out, expect=content)
    else:
        store = RunStore.create(out, content)
    with store:
        held = {sample.id: sample for sample in store.samples()}
        for shard in shards:
            for sample in read_samples(shard):
                if sample.error is None and not _held(held, sample, shard):
                    store.append(sample, read_trajectory(shard, sample.part, sample.offset))
                    held[sample.id] = sample
        missing = missing_samples(content, held.keys())
        if not missing:
            store.finish()
    return Merged(len(held), missing)


def _content(manifests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the manifest of the whole run says."""
    content = {name: value for name, value in manifests[0].items() if name not in ("v", "status", "shard")}
    for name in ("samples", "problems"):
        content[name] = max(manifest.get(name, 0) for manifest in manifests)
    if all("variants" in manifest for manifest in manifests):
        content["variants"] = _asked(manifests)
    if versions := list(dict.fromkeys(manifest["palestra"] for manifest in manifests if "palestra" in manifest)):
        content["palestra"] = " and ".join(versions)
    return content


def _asked(manifests: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Return the problems and samples that were asked for of each variant, the most of any shard."""
    asked: dict[str, dict[str, int]] = {}
    for manifest in manifests:
        for variant, counts in manifest["variants"].items():
            most = asked.setdefault(variant, dict(counts))
            most.update({name: max(most[name], count) for name, count in counts.items()})
    return asked


def _shared(manifest: Mapping[str, Any]) -> dict[str, Any]:
    shared = {name: value for name, value in manifest.items() if name not in _OF_A_SHARD}
    model = shared.get("model")
    if isinstance(model, dict) and "weights" in model:  # the same weights may lie in another folder
        shared["model"] = model["weights"]
    return shared


def _held(held: Mapping[SampleId, SampleRecord], sample: SampleRecord, shard: str | Path) -> bool:
    if sample.id not in held:
        return False
    there = held[sample.id]
    if (there.seed, there.key, there.outcome) != (sample.seed, sample.key, sample.outcome):
        raise PalestraError(
            f"{sample_name(sample.id)} of {shard} is another one than an earlier shard or the run itself holds "
            f"(seed {sample.seed} and {there.seed}, outcome {sample.outcome:g} and {there.outcome:g})."
        )
    return True
