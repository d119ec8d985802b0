"""Rejection-sampling fine-tuning: sample, keep the right episodes, fine-tune on the very tokens, and again.

A round is the unit of resuming: its model is kept once it is whole, and what the round before left is removed.
"""

import json
import shutil
import time
from pathlib import Path
from typing import Any

from transformers import set_seed
from trl import SFTConfig

from palestra.agents.codec import ChatCodec
from palestra.agents.engine import SamplingParams
from palestra.agents.models import LoadedModel, load_model
from palestra.agents.transformers_engine import TransformersEngine
from palestra.envs.errors import PalestraError, UsageError
from palestra.envs.folders import write_json
from palestra.rl.data import index_stream, training_row
from palestra.rl.processes import gather, join, rank, sharding, share, world
from palestra.rl.progress import ProgressCallback
from palestra.rl.rundir import RunFolder
from palestra.rl.sampler import GroupSampler, Sample, SamplerSettings
from palestra.rl.settings import RFTSettings
from palestra.rl.sft import count_trained, trainer_on
from palestra.rl.train import common_arguments

FACTS = "round.json"


def fine_tune_on_own(settings: RFTSettings, run: RunFolder) -> None:
    """Run the rounds, going on after the last whole one, and save the model in `run.out`.

    Raises:
        UsageError: The model does not load, or its weights would be in shards.
        PalestraError: A round brought no right episode.
    """
    join()
    if sharding():
        raise UsageError("rft keeps the model whole; start it with rl/recipes/ddp.yaml, not with FSDP or DeepSpeed")
    own = share(settings.prompts, "prompts")
    facts, last = _resume(run.out)
    loaded = load_model(str(last) if last else settings.model, to_train=True)
    codec = ChatCodec(loaded.tokenizer)
    sampler = _sampler(settings, codec, loaded)
    stream = index_stream(settings.seed)
    for _ in range(facts["rounds"] * settings.prompts):
        next(stream)
    began, before = time.perf_counter(), facts["seconds"]
    while not _done(settings, facts):
        number = facts["rounds"]
        set_seed(settings.seed + number)
        tasks = [next(stream) for _ in range(settings.prompts)][rank() * own :][:own]
        groups = sampler.sample(tasks, loaded.model, f"rft|{settings.seed}|{number}")
        rows = gather([training_row(s.trajectory) for group in groups for s in right(group, settings.keep)])
        if not rows:
            raise PalestraError(
                f"none of the {settings.prompts * settings.group_size} episodes of round {number + 1} was right, so "
                "there is nothing to learn from; raise --group-size or --prompts, or begin with `palestra sft`"
            )
        steps = _train(rows, settings, run, loaded, codec, number)
        facts = {
            "rounds": number + 1,
            "optimiser_steps": facts["optimiser_steps"] + steps,
            "episodes_sampled": facts["episodes_sampled"] + settings.prompts * settings.group_size,
            "tokens_sampled": facts["tokens_sampled"] + int(sampler.statistics["tokens_sampled"]),
            "tokens_trained": facts["tokens_trained"] + settings.epochs * count_trained(rows),
            "seconds": before + time.perf_counter() - began,
            "history": [*facts["history"], {"round": number + 1, "rows": len(rows), **sampler.statistics}],
        }
        if not rank():
            _keep(run.out, loaded, facts)
    if rank():
        return
    loaded.model.save_pretrained(run.out)
    loaded.tokenizer.save_pretrained(run.out)
    history = facts.pop("history")
    run.finish(resumed_from=0 if last is None else int(last.name.split("-")[1]), cost=facts, history=history)
    shutil.rmtree(run.out / "rounds")


def right(group: list[Sample], most: int) -> list[Sample]:
    """Return the right episodes of a group, each token sequence once, at most `most`."""
    found: dict[tuple[int, ...], Sample] = {}
    for sample in group:
        if sample.reward == 1.0:
            found.setdefault(tuple(sample.trajectory.completion_ids), sample)
    return list(found.values())[:most]


def _done(settings: RFTSettings, facts: dict[str, Any]) -> bool:
    if settings.token_budget:
        return bool(facts["tokens_sampled"] >= settings.token_budget)
    return bool(facts["rounds"] >= settings.rounds)


def _sampler(settings: RFTSettings, codec: ChatCodec, loaded: LoadedModel) -> GroupSampler:
    chosen = SamplerSettings(
        settings.env,
        settings.variant,
        SamplingParams(max_tokens=settings.max_tokens, temperature=settings.temperature),
        settings.group_size,
        settings.seed,
        loaded.max_length,
    )
    return GroupSampler(chosen, codec, lambda model: TransformersEngine(model, codec.stop_ids, codec.pad_id))


def _train(
    rows: list[dict[str, Any]],
    settings: RFTSettings,
    run: RunFolder,
    loaded: LoadedModel,
    codec: ChatCodec,
    number: int,
) -> int:
    """Fine-tune on the rows; returns the optimiser steps."""
    arguments = {**common_arguments(settings, run), "save_strategy": "no", "seed": settings.seed + number}
    size = min(settings.batch_size, len(rows))
    trainer = trainer_on(
        rows,
        loaded,
        codec,
        SFTConfig(
            **arguments,
            num_train_epochs=settings.epochs,
            per_device_train_batch_size=-(-size // world()),
            learning_rate=settings.lr,
            lr_scheduler_type="constant",
            max_length=None,
            packing=False,
        ),
        [ProgressCallback(f"rft {settings.env}, round {number + 1}", {"loss": "loss"})],
    )
    trainer.train()
    return int(trainer.state.global_step)


def _keep(out: Path, loaded: LoadedModel, facts: dict[str, Any]) -> None:
    """Keep the model of a round; the facts are written last, so that they stand for a whole one."""
    folder = out / "rounds" / f"round-{facts['rounds']}"
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    write_json(folder / FACTS, facts)
    for other in (out / "rounds").iterdir():
        if other != folder:
            shutil.rmtree(other)


def _resume(out: Path) -> tuple[dict[str, Any], Path | None]:
    """Return the facts of the last whole round, and its folder."""
    whole = [path.parent for path in (out / "rounds").glob(f"round-*/{FACTS}")]
    if not whole:
        names = ("rounds", "optimiser_steps", "episodes_sampled", "tokens_sampled", "tokens_trained", "seconds")
        return {**dict.fromkeys(names, 0), "history": []}, None
    last = max(whole, key=lambda path: int(path.name.split("-")[1]))
    return json.loads((last / FACTS).read_text(encoding="utf-8")), last
