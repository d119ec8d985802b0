"""Sampling with a transformers model held in this process.

Models with full attention keep the cache of a sequence from turn to turn (`slot_stream.py`); others sample batches
from nothing, with finished rows dropped as they end.

Randomness is counter-based: the u-th token of a completion is the inverse-CDF draw at the u-th number of the
completion's own seeded stream, so a sample does not depend on which batch it landed in or on a resume.
"""

import random
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache

from palestra.agents.engine import BatchStream, Completion, SamplingParams, Stream
from palestra.agents.sampling import sample_tokens
from palestra.agents.slot_stream import SlotStream

_FULL_ATTENTION = frozenset({"llama", "gpt_neox", "olmo", "phi", "starcoder2", "granite"})
"""Architectures that do not list the kinds of their layers and have but one."""
_LASTING_ROPES = frozenset({"default", "linear", "llama3", "yarn"})
"""Rotary embeddings by which a key that was kept stays right; others turn all keys anew when a sequence gets long."""
_SHRINK_AT = 0.8
"""Drop finished rows once this share or less of the batch is alive: selecting rows copies the cache."""


class TransformersEngine:
    """Samples from a causal language model held in this process.

    Args:
        model: A transformers causal LM; its training mode is restored after each call.
        stop_ids: Ids that end a completion.
        pad_id: Id to pad prompts with.
        cache_bytes: Upper bound of the key-value cache of a stream.
        batch_tokens: Upper bound on rows x (longest prompt + max_tokens) per forward batch; more prompts
            are sampled in several batches, longest first.
    """

    def __init__(
        self,
        model: Any,
        stop_ids: frozenset[int],
        pad_id: int,
        batch_tokens: int = 65_536,
        cache_bytes: int = 4 * 2**30,
    ) -> None:
        self.model = model
        self.pad_id = pad_id
        self.cache_bytes = cache_bytes
        self.batch_tokens = batch_tokens
        self._stop = stop_ids

    def open(self, params: SamplingParams, most: int) -> Stream:
        """Return a stream; see `Engine.open`."""
        if _full_attention(self.model.config):
            return SlotStream(self.model, self._stop, params, most, self.cache_bytes)
        return BatchStream(self.generate, params, most)

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
            for row, token, logprob in zip(alive, chosen.tolist(), logprobs.tolist(), strict=True):
                if done[row].stop == "length":
                    done[row].ids.append(token)
                    done[row].logprobs.append(logprob)
                if token in self._stop:
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


def _full_attention(config: Any) -> bool:
    """Whether every layer attends to all earlier tokens, by code that takes any mask: what `SlotStream` can keep."""
    text = config.get_text_config()
    if config._attn_implementation not in ("sdpa", "eager") or not _ropes(text) <= _LASTING_ROPES:
        return False
    kinds = getattr(text, "layer_types", None)
    if kinds is None:
        return getattr(text, "sliding_window", None) is None and text.model_type in _FULL_ATTENTION
    return set(kinds) == {"full_attention"}


def _ropes(config: Any) -> set[str]:
    """Return the kinds of rotary embeddings, of which a configuration may have one for each kind of layer."""
    found = getattr(config, "rope_parameters", None) or {}
    each = [found] if "rope_type" in found else found.values()
    return {kind["rope_type"] for kind in each if isinstance(kind, dict) and "rope_type" in kind}
