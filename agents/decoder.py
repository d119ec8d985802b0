"""The next token of many sequences without the model's modules: Llama-like models over a slot cache.

A step of a small model is mostly calls: of modules in Python, and of kernels that do next to nothing. Here is the same
arithmetic in half of the calls, with the attention of one query per sequence as two batched products. The weights are
the model's own, so nothing is copied and nothing gets stale. Under autocast, matrices are copied in its precision, but
once and not for every token, and all else is as it is there. A model that is not known in every part goes on with its
own forward pass.
"""

from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear, rms_norm, silu
from transformers import LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM
from transformers.activations import SiLUActivation

from palestra.agents.slots import SlotCache

FAMILIES = (LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
_PLAIN = (nn.Linear, nn.Embedding, nn.ModuleList, nn.SiLU, SiLUActivation)
FIXED_ROPE = frozenset({"default", "linear", "llama3"})
"""Rotary embeddings whose frequencies do not depend on the length of the sequence."""


class _Linear(NamedTuple):
    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return linear(x.to(self.weight.dtype), self.weight, self.bias)


class _Norm(NamedTuple):
    weight: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return rms_norm(x.to(self.weight.dtype), (x.shape[-1],), self.weight, self.eps)


class _Block(NamedTuple):
    """One layer's parts."""

    before: _Norm
    query: _Linear
    key: _Linear
    value: _Linear
    query_norm: _Norm | None
    key_norm: _Norm | None
    out: _Linear
    scale: float
    between: _Norm
    gate: _Linear
    up: _Linear
    down: _Linear


class Decoder:
    """The forward pass of a model over one new token per sequence.

    Args:
        model: One of which `decodes` is true.
    """

    def __init__(self, model: Any) -> None:
        stack = model.model
        self._rotary, self._embedding = stack.rotary_emb, stack.embed_tokens.weight
        device = self._embedding.device.type
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else self._embedding.dtype
        self._blocks = [_block(layer, dtype) for layer in stack.layers]
        self._norm, self._head = _norm(stack.norm), _linear(model.lm_head, dtype)
        self._groups: int = stack.config.num_key_value_heads
        self._cos = self._sin = self._embedding.new_zeros(0)

    @classmethod
    def of(cls, model: Any) -> Self | None:
        """Return the decoder of a model, or None where only the model's own forward pass is sure to be right."""
        return cls(model) if decodes(model) else None

    def __call__(self, ids: Tensor, cache: SlotCache, rows: slice) -> Tensor:
        """Read one token of each row into the cache.

        Args:
            ids: `(rows,)`.
            cache: Holds what these rows have read before.
            rows: Which rows of the cache.

        Returns:
            Logits `(rows, vocabulary)` of the token after it.
        """
        with torch.autocast(ids.device.type, enabled=False):
            return self._read(ids, cache, rows)

    def _read(self, ids: Tensor, cache: SlotCache, rows: slice) -> Tensor:
        mask, positions = cache.attend(rows, torch.ones_like(ids)[:, None])
        self._turn_until(cache.columns)
        cos, sin = self._cos[positions], self._sin[positions]
        hidden = embedding(ids, self._embedding)
        outside = torch.zeros_like(mask, dtype=hidden.dtype).masked_fill_(~mask, torch.finfo(hidden.dtype).min)
        bias = outside[:, 0].expand(-1, self._groups, -1).reshape(-1, 1, mask.shape[-1])
        for block, held in zip(self._blocks, cache.layers, strict=True):
            hidden = hidden + block.out(self._attend(block, block.before(hidden), held, cos, sin, bias))
            normed = block.between(hidden)
            hidden = hidden + block.down(silu(block.gate(normed)) * block.up(normed))
        return self._head(self._norm(hidden))

    def _attend(self, block: _Block, x: Tensor, held: Any, cos: Tensor, sin: Tensor, bias: Tensor) -> Tensor:
        """Return what the heads of a layer see `(rows, heads * width)`."""
        rows, width = x.shape[0], cos.shape[-1]
        query, key = block.query(x).view(rows, -1, width), block.key(x).view(rows, -1, width)
        if block.query_norm and block.key_norm:
            query, key = block.query_norm(query), block.key_norm(key)
        both = torch.cat([query, key], dim=1)
        both = torch.addcmul(both * cos, both.roll(width // 2, -1), sin)
        heads = query.shape[1]
        keys, values = held.update(both[:, heads:, None], block.value(x).view(rows, -1, 1, width))
        columns = bias.shape[-1]
        scores = torch.baddbmm(
            bias,
            both[:, :heads].reshape(rows * self._groups, -1, width),
            keys.reshape(-1, columns, width).transpose(1, 2),
            alpha=block.scale,
        )
        seen = scores.softmax(-1).to(values.dtype)
        return torch.bmm(seen, values.reshape(-1, columns, width)).view(rows, heads * width)

    def _turn_until(self, positions: int) -> None:
        """Have the rotation of so many positions ready; the halves of a head turn as `x * cos + roll(x) * sin`."""
        if len(self._cos) < positions:
            places = torch.arange(positions, device=self._embedding.device)
            cos, sin = self._rotary(self._embedding[:1, None], places[None])
            sin[..., : sin.shape[-1] // 2].neg_()
            self._cos, self._sin = cos[0], sin[0]


def decodes(model: Any) -> bool:
    """Return whether every part of a model is one that `Decoder` knows: no adapters, hooks, shards, other types."""
    if type(model) not in FAMILIES or model.config.rope_parameters["rope_type"] not in FIXED_ROPE:
        return False
    family, first = type(model).__module__, model.model.embed_tokens.weight
    return all(
        (type(module) in _PLAIN or type(module).__module__ == family)
        and not (module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))
        for module in model.modules()
    ) and all(
        type(weights.data) is Tensor
        and weights.dtype == first.dtype
        and weights.device == first.device
        and weights.numel()
        for weights in model.parameters()
    )


def _block(layer: Any, dtype: torch.dtype) -> _Block:
    attention, mlp = layer.self_attn, layer.mlp
    query_norm, key_norm = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
    return _Block(
        before=_norm(layer.input_layernorm),
        query=_linear(attention.q_proj, dtype),
        key=_linear(attention.k_proj, dtype),
        value=_linear(attention.v_proj, dtype),
        query_norm=_norm(query_norm) if query_norm else None,
        key_norm=_norm(key_norm) if key_norm else None,
        out=_linear(attention.o_proj, dtype),
        scale=attention.scaling,
        between=_norm(layer.post_attention_layernorm),
        gate=_linear(mlp.gate_proj, dtype),
        up=_linear(mlp.up_proj, dtype),
        down=_linear(mlp.down_proj, dtype),
    )


def _linear(module: nn.Linear, dtype: torch.dtype) -> _Linear:
    weight, bias = module.weight.detach(), module.bias
    return _Linear(weight.to(dtype), None if bias is None else bias.detach().to(dtype))


def _norm(module: Any) -> _Norm:
    return _Norm(module.weight, module.variance_epsilon)
