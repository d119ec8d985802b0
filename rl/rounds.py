"""Learning from the model's own episodes in rounds: sample groups, make rows of them, train, and again.

A round is the unit of resuming: its model is kept once it is whole, and what the round before left is removed.
"""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import set_seed

from palestra.agents.codec import ChatCodec
from palestra.agents.engine import SamplingParams
from palestra.agents.models import LoadedModel, load_model
from palestra.agents.transformers_engine import TransformersEngine
from palestra.envs.errors import PalestraError, UsageError
from palestra.envs.folders import write_json
from palestra.rl.data import index_stream
from palestra.rl.processes import gather, join, rank, sharding, share, world
from palestra.rl.rundir import RunFolder
from palestra.rl.sampler import GroupSampler, Sample, SamplerSettings
from palestra.rl.settings import RFTSettings
from palestra.rl.train import common_arguments

FACTS = "round.json"

Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Learner:
    """What is made of the sampled groups, and how it is learned from."""

    rows: Callable[[list[Sample]], Rows]
    """The training rows of a group."""
    nothing: Callable[[list[list[Sample]]], str]
    """Says why these groups gave no row, and what to do."""
    tokens: Callable[[Rows], int]
    """Counts the tokens that carry loss."""
    train: Callable[[Rows, int], tuple[int, dict[str, float]]]
    """Trains on the rows of a round, by its number from 0; returns the optimiser steps and what is to be noted."""


def learn_in_rounds(
    settings: RFTSettings, run: RunFolder, learner_of: Callable[[LoadedModel, ChatCodec], Learner]
) -> None:
    """Run the rounds, going on after the last whole one, and save the model in `run.out`.

    Arms with the same settings sample the same episodes in their first round.

    Raises:
        UsageError: The model does not load, or its weights would be in shards.
        PalestraError: A round brought nothing to learn from.
    """
    join()
    if sharding():
        command = run.manifest["command"]
        raise UsageError(
            f"{command} keeps the model whole; start it with rl/recipes/ddp.yaml, not with FSDP or DeepSpeed"
        )
    own = share(settings.prompts, "prompts")
    facts, last = _resume(run.out)
    loaded = load_model(str(last) if last else settings.model, to_train=True)
    codec = ChatCodec(loaded.tokenizer)
    learner = learner_of(loaded, codec)
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
        rows = gather([row for group in groups for row in learner.rows(group)])
        if not rows:
            raise PalestraError(f"in round {number + 1}, {learner.nothing(sampler.sampled)}")
        steps, noted = learner.train(rows, number)
        facts = {
            "rounds": number + 1,
            "optimiser_steps": facts["optimiser_steps"] + steps,
            "episodes_sampled": facts["episodes_sampled"] + settings.prompts * settings.group_size,
            "tokens_sampled": facts["tokens_sampled"] + int(sampler.statistics["tokens_sampled"]),
            "tokens_trained": facts["tokens_trained"] + settings.epochs * learner.tokens(rows),
            "seconds": before + time.perf_counter() - began,
            "history": [*facts["history"], {"round": number + 1, "rows": len(rows), **sampler.statistics, **noted}],
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


def round_arguments(settings: RFTSettings, run: RunFolder, rows: int, number: int) -> dict[str, Any]:
    """Return the arguments that TRL's trainer of a round is given by every arm."""
    return {
        **common_arguments(settings, run),
        "save_strategy": "no",
        "seed": settings.seed + number,
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": -(-min(settings.batch_size, rows) // world()),
        "learning_rate": settings.lr,
        "lr_scheduler_type": "constant",
        "max_length": None,
    }


def distinct(group: list[Sample], reward: float) -> list[Sample]:
    """Return the episodes of a group that earned `reward`, each token sequence once; broken ones earned none."""
    found: dict[tuple[int, ...], Sample] = {}
    for sample in group:
        if sample.reward == reward and sample.trajectory.sampled:
            found.setdefault(tuple(sample.trajectory.completion_ids), sample)
    return list(found.values())


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
