"""Which engine samples for a training run."""

import os
from collections.abc import Callable
from typing import Any

from palestra.agents.codec import ChatCodec
from palestra.agents.engine import Engine
from palestra.agents.models import check_model
from palestra.agents.transformers_engine import TransformersEngine
from palestra.agents.vllm_engine import VLLMEngine
from palestra.agents.vllm_server import VLLMServerEngine
from palestra.envs.errors import UsageError
from palestra.rl.settings import TrainSettings


def engine_of(settings: TrainSettings, codec: ChatCodec, max_length: int | None) -> Callable[[Any], Engine]:
    """Return what makes the engine that samples with a model's present weights.

    Raises:
        UsageError: vLLM does not take the model, no server answers, or several processes would share one vLLM.
        MissingPrerequisiteError: vLLM is not installed.
    """
    if settings.engine == "transformers":
        return lambda model: TransformersEngine(model, codec.stop_ids, codec.pad_id)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("vLLM samples for one process only so far; use --engine transformers with several")
    if settings.engine == "vllm":
        return VLLMEngine(check_model(settings.model), codec.stop_ids, max_length, settings.vllm_memory).with_weights
    return VLLMServerEngine(settings.engine, codec.stop_ids).with_weights
