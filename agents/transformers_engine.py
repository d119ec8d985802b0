"""Sampling with a transformers model: batched, one key-value cache, finished rows dropped as they end.

Randomness is counter-based: the u-th token of a completion is the inverse-CDF draw at the u-th number of the
completion's own seeded stream, so a sample does not depend on which batch it landed in or on a resume.
"""

import random
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache

from palestra.agents.engine import Completion, SamplingParams

_SHRINK_AT = 0.8
"""Drop finished rows once this share or less of the batch is alive: selecting rows copies the cache."""


class TransformersEngine:
    """Samples from a causal language model held in this process.

    Args:
        model: A transformers causal LM; its training mode is restored after each call.
        stop_ids: Ids that end a completion.
        pad_id: Id to pad prompts with.
        batch_tokens: Upper bound on rows x (longest prompt + max_tokens) per forward batch; more prompts
            are sampled in several batches, longest first.
    """

    def __init__(self, model: Any, stop_ids: frozenset[int], pad_id: int, batch_tokens: int = 65_536) -> None:
        self.model = model
        self.pad_id = pad_id
        self.batch_tokens = batch_tokens
        self._stop = torch.tensor(sorted(stop_ids), device=model.device)

    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, seeds: Sequence[int]
    ) -> list[Completion]:
        """Sample one completion per prompt; see `Engine.generate`."""
        order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
        results: dict[int, Completion] = {}
        was_training = self.model.training
        self.model.eval()
        try:
            while order:
                rows = max(1, self.batch_tokens // (len(prompts[order[0]]) + params.max_tokens))
                batch, order = order[:rows], order[rows:]
                done = self._batch([prompts[i] for i in batch], params, [seeds[i] for i in batch])
                results.update(zip(batch, done, strict=True))
        finally:
            self.model.train(was_training)
        return [results[i] for i in range(len(prompts))]

    @torch.inference_mode()
    def _batch(self, prompts: list[Sequence[int]], params: SamplingParams, seeds: list[int]) -> list[Completion]:
        streams = [random.Random(seed) for seed in seeds]
        ids, attention = self._pad(prompts)
        positions = (attention.cumsum(1) - 1).clamp(min=0)
        cache = DynamicCache(config=self.model.config)
        done = [Completion([], [], "length") for _ in prompts]
        alive = list(range(len(prompts)))
        for _ in range(params.max_tokens):
            logits = self.model(
                input_ids=ids,
                attention_mask=attention,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            draws = torch.tensor([streams[i].random() for i in alive], dtype=torch.float64)
            chosen, logprobs = sample_tokens(logits, params, draws.to(logits.device))
            ended = torch.isin(chosen, self._stop).tolist()
            for row, token, logprob in zip(alive, chosen.tolist(), logprobs.tolist(), strict=True):
                if done[row].stop == "length":
                    done[row].ids.append(token)
                    done[row].logprobs.append(logprob)
            for row, stop in zip(alive, ended, strict=True):
                if stop:
                    done[row].stop = "eos"
            going = [k for k, row in enumerate(alive) if done[row].stop == "length"]
            if not going:
                break
            if len(going) <= _SHRINK_AT * len(alive) and all(hasattr(c, "batch_select_indices") for c in cache.layers):
                keep = torch.tensor(going, device=chosen.device)
                cache.batch_select_indices(keep)
                attention, positions, chosen = attention[keep], positions[keep], chosen[keep]
                alive = [alive[k] for k in going]
            ids = chosen[:, None]
            attention = torch.cat([attention, attention.new_ones(len(alive), 1)], dim=1)
            positions = positions[:, -1:] + 1
        return done

    def _pad(self, prompts: list[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), self.pad_id)
        attention = torch.zeros((len(prompts), width), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            attention[row, width - len(prompt) :] = 1
        return ids.to(self.model.device), attention.to(self.model.device)


def sample_tokens(
    logits: torch.Tensor, params: SamplingParams, draws: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one token per row by inverting the cumulative distribution.

    Args:
        logits: `(rows, vocabulary)`.
        params: Temperature and top-p.
        draws: `(rows,)` float64 numbers in [0, 1).

    Returns:
        Token ids `(rows,)` and their log-probabilities `(rows,)` under the temperature, before top-p.
    """
    if params.temperature == 0:
        logprobs = logits.float().log_softmax(-1)
        chosen = logits.argmax(-1)
        return chosen, logprobs.gather(-1, chosen[:, None])[:, 0]
    logprobs = (logits.float() / params.temperature).log_softmax(-1)
    probabilities = logprobs.double().exp()
    if params.top_p < 1:
        probabilities = _nucleus(probabilities, params.top_p)
    cumulative = probabilities.cumsum(-1)
    target = draws[:, None] * cumulative[:, -1:]
    chosen = torch.searchsorted(cumulative, target, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
    return chosen, logprobs.gather(-1, chosen[:, None])[:, 0]


def _nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    ordered, index = probabilities.sort(-1, descending=True)
    outside = ordered.cumsum(-1) - ordered >= top_p
    return probabilities.scatter(-1, index, ordered.masked_fill(outside, 0.0))
