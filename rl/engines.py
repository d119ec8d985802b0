"""Which engine samples for a training run."""

from collections.abc import Callable
from typing import Any

from palestra.agents.codec import ChatCodec
from palestra.agents.engine import Engine
from palestra.agents.models import base_of, check_model, is_adapter
from palestra.agents.transformers_engine import TransformersEngine
from palestra.agents.vllm_engine import VLLMEngine
from palestra.agents.vllm_server import VLLMServerEngine
from palestra.envs.errors import UsageError
from palestra.rl.processes import world
from palestra.rl.settings import TrainSettings


def engine_of(settings: TrainSettings, codec: ChatCodec, max_length: int | None) -> Callable[[Any], Engine]:
    """Return what makes the engine that samples with a model's present weights.

    Raises:
        UsageError: vLLM does not take the model, no server answers, or several processes would share one vLLM.
        MissingPrerequisiteError: vLLM is not installed.
    """
    if settings.engine == "transformers":
        return lambda model: TransformersEngine(model, codec.stop_ids, codec.pad_id)
    if world() > 1:
        raise UsageError("vLLM samples for one process only so far; use --engine transformers with several")
    if settings.engine == "vllm":
        # Of an adapter, vLLM loads the base; the merged weights come with the first step.
        source = base_of(settings.model) if is_adapter(settings.model) else check_model(settings.model)
        return VLLMEngine(source, codec.stop_ids, max_length, settings.vllm_memory).with_weights
    return VLLMServerEngine(settings.engine, codec.stop_ids).with_weights
