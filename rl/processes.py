"""Training in several processes, started by `accelerate launch` or torchrun: what they have to do together.

Invariant: between two gatherings every process makes the same collective calls in the same order. Rollouts are ragged,
so they make none: the weights are whole on every process while it samples.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from trl.models import unwrap_model_for_generation

from palestra.envs.errors import UsageError


def rank() -> int:
    """Return the number of this process; 0 writes and speaks. Known before anything is set up."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """Return how many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def sharding() -> Literal["FSDP", "DEEPSPEED"] | None:
    """Return who will put the weights into shards: `accelerate launch` says so to the processes it starts."""
    for name in ("FSDP", "DEEPSPEED"):
        if os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true":
            return name
    return None


def join() -> None:
    """Meet the other processes, for what gathers before a trainer is made."""
    PartialState(cpu=not torch.accelerator.is_available())


def share(batch: int, name: str) -> int:
    """Return this process's part of a batch.

    Raises:
        UsageError: The batch does not divide by the processes; `name` is its setting.
    """
    if batch % world():
        raise UsageError(f"{name} ({batch}) must be a multiple of the number of processes ({world()})")
    return batch // world()


def gather(values: list[Any]) -> list[Any]:
    """Return the values of all processes, in their order, on every one."""
    return list(gather_object(values))


@contextmanager
def whole_weights(trainer: Any) -> Iterator[Any]:
    """Yield the trainer's model with all its weights on every process, and its own forward pass, to sample from.

    Args:
        trainer: Its `fused_forward` is what TRL has put in the place of the model's forward pass, None for nothing.

    Raises:
        UsageError: The model is sharded by the first FSDP, whose modules cannot be kept whole.
    """
    if isinstance(trainer.model_wrapped, FullyShardedDataParallel):
        raise UsageError("FSDP of version 1 is not supported; set fsdp_version: 2 in the configuration of accelerate")
    parts = [module for module in trainer.model_wrapped.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        # Of ZeRO-3, this gathers.
        with (
            unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator) as model,
            _own_forward(model, trainer.fused_forward),
            trainer.accelerator.autocast(),
        ):
            yield model
    finally:
        again = trainer.accelerator.state.fsdp_plugin.reshard_after_forward if parts else False
        for part in parts:
            part.set_reshard_after_forward(again, recurse=False)
            part.reshard()


@contextmanager
def _own_forward(model: Any, fused: Any) -> Iterator[None]:
    """Have a model's class decide how it computes: through what replaces it, `Decoder` cannot see.

    For mixed precision, accelerate has wrapped that and kept it; its `autocast` is then what the wrapper was for.
    """
    there = vars(model)
    forward, wrapped = there.get("forward"), there.get("_original_forward")
    replaced = fused is not None and (forward is fused or wrapped is fused)
    if replaced:
        del model.forward
    try:
        yield
    finally:
        if replaced:
            model.forward = forward
