"""Sampling with a vLLM server (`vllm serve`) on this machine: token ids in, token ids out, over HTTP.

The server must have been started with `VLLM_SERVER_DEV_MODE=1` if a model is trained: weights then reach it through
files in shared memory, without a copy on disk. It keeps prefixes, so a turn costs its new tokens only.
"""

import tempfile
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Self

import httpx

from palestra.agents.engine import Completion, SamplingParams, TurnStream
from palestra.agents.vllm_engine import merged_weights
from palestra.envs.errors import PalestraError, UsageError

_SHARED = Path("/dev/shm")
_PATIENCE_S = 600.0
"""Seconds that a turn or an exchange of weights may take."""
_STEP_S = 1.0
"""Seconds that a step waits for the next turn, so that its caller can look after other things."""


class VLLMServerEngine:
    """Samples with the vLLM server at an address.

    Args:
        address: Such as `http://127.0.0.1:8000`.
        stop_ids: Ids that end a completion.

    Raises:
        UsageError: No vLLM answers there, or it serves no model.
    """

    def __init__(self, address: str, stop_ids: frozenset[int]) -> None:
        self._client = httpx.Client(
            base_url=address.rstrip("/"), timeout=_PATIENCE_S, limits=httpx.Limits()
        )  # as many connections as turns
        self._stop_ids = sorted(stop_ids)
        try:
            models = self._client.get("/v1/models").raise_for_status().json()["data"]
            self._model: str = models[0]["id"]
        except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
            raise UsageError(
                f"no vLLM server answers at '{address}' ({error}); start one with `vllm serve MODEL`"
            ) from error

    def with_weights(self, model: Any) -> Self:
        """Have the server take over the weights of a transformers model (of an adapter, merged ones).

        Raises:
            UsageError: The server does not take weights.
        """
        from safetensors.torch import save_file

        with tempfile.TemporaryDirectory(dir=_SHARED if _SHARED.is_dir() else None) as folder:
            with merged_weights(model) as weights:
                tensors = {name: tensor.detach().contiguous().clone() for name, tensor in weights}
                save_file(tensors, Path(folder, "model.safetensors"))
            Path(folder).chmod(0o755)
            self._call("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": folder}})
        self._call("/reset_prefix_cache", {})
        return self

    def open(self, params: SamplingParams, most: int) -> "VLLMServerStream":
        """Return a stream; see `Engine.open`."""
        options = {
            "model": self._model,
            "max_tokens": params.max_tokens,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "stop_token_ids": self._stop_ids,
            "ignore_eos": True,
            "logit_bias": {str(token): -100.0 for token in params.banned} or None,
            "logprobs": 0,
            "return_token_ids": True,
            "skip_special_tokens": False,
        }
        return VLLMServerStream(self._client, options, most)

    def _call(self, path: str, body: Mapping[str, Any]) -> None:
        try:
            reply = self._client.post(path, json=body)
        except httpx.HTTPError as error:
            raise PalestraError(f"the vLLM server does not answer any more: {error}") from error
        if reply.status_code == httpx.codes.NOT_FOUND:
            raise UsageError(
                "the vLLM server takes no weights; start it with VLLM_SERVER_DEV_MODE=1 in its environment"
            )
        if reply.is_error:
            raise PalestraError(f"the vLLM server did not take the weights: {reply.text[:300]}")


class VLLMServerStream(TurnStream):
    """A stream over a vLLM server: a request per turn, all at the same time."""

    def __init__(self, client: httpx.Client, options: Mapping[str, Any], most: int) -> None:
        super().__init__(most)
        self._client, self._options = client, options
        self._threads = ThreadPoolExecutor(most, "palestra-vllm")
        self._asked: dict[Future[Completion], int] = {}

    def close(self) -> None:
        """Forget all sequences; turns that are being sampled are thrown away."""
        super().close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _forget(self, key: int) -> None:
        self._asked = {future: held for future, held in self._asked.items() if held != key}

    def _collect(self) -> list[tuple[int, Completion]]:
        """Wait a moment for turns to end.

        Raises:
            PalestraError: The server failed.
        """
        if not self._asked:
            return []
        done, _ = wait(self._asked, _STEP_S, FIRST_COMPLETED)
        return [(self._asked.pop(future), future.result()) for future in done]

    def _ask(self, key: int, seed: int) -> None:
        self._asked[self._threads.submit(self._sample, list(self._held[key]), seed)] = key

    def _sample(self, ids: list[int], seed: int) -> Completion:
        try:
            reply = self._client.post("/v1/completions", json={**self._options, "prompt": ids, "seed": seed % 2**63})
            reply.raise_for_status()
        except httpx.HTTPStatusError as error:
            raise PalestraError(f"the vLLM server refuses a turn: {error.response.text[:300]}") from error
        except httpx.HTTPError as error:
            raise PalestraError(f"the vLLM server does not answer any more: {error}") from error
        (choice,) = reply.json()["choices"]
        return Completion(
            choice["token_ids"],
            choice["logprobs"]["token_logprobs"],
            "eos" if choice["finish_reason"] == "stop" else "length",
        )
