"""The forward pass without modules: the same logits as the model's own, and only for models that it knows."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from palestra.agents.decoder import Decoder
from palestra.agents.slots import SlotCache

SIZE = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def llama(**more: Any) -> LlamaForCausalLM:
    return filled(LlamaForCausalLM(LlamaConfig(**SIZE | more)))


def filled(model: Any) -> Any:
    """Give a model weights of which every one counts: new norms are all ones, and new biases zeros."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weights in model.parameters():
            weights.copy_(torch.randn(weights.shape, generator=generator) * 0.3)
    return model.eval()


def read(model: Any, cache: SlotCache, ids: torch.Tensor, new: torch.Tensor, rows: slice) -> torch.Tensor:
    """The model's own forward pass over new tokens."""
    attention, positions = cache.attend(rows, new)
    out = model(input_ids=ids, attention_mask=attention, position_ids=positions, past_key_values=cache, use_cache=True)
    logits: torch.Tensor = out.logits[:, -1]
    return logits


MODELS = {
    "llama": lambda: llama(),
    "biases": lambda: llama(attention_bias=True, mlp_bias=True),
    "one key-value head": lambda: llama(num_key_value_heads=1),
    "as many key-value heads": lambda: llama(num_key_value_heads=4),
    "tied": lambda: llama(tie_word_embeddings=True),
    "scaled rope": lambda: llama(rope_parameters=LLAMA3),
    "linear rope": lambda: llama(rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}),
    "qwen2": lambda: filled(Qwen2ForCausalLM(Qwen2Config(**SIZE))),
    "qwen3": lambda: filled(Qwen3ForCausalLM(Qwen3Config(**SIZE, head_dim=12))),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_logits_are_the_models_own(name: str) -> None:
    """Prompts of several lengths, then a hundred tokens: rows wait, take another's place, and have to get longer."""
    model = MODELS[name]()
    decoder = Decoder.of(model)
    assert decoder is not None
    generator = torch.Generator().manual_seed(0)
    ours, own = SlotCache(2, 5, 0, model.device), SlotCache(2, 5, 0, model.device)
    new = torch.ones(5, 7, dtype=torch.long)
    new[1, :3] = new[3, :6] = 0
    prompts = torch.randint(0, 50, (5, 7), generator=generator)
    with torch.inference_mode():
        for cache in (ours, own):
            read(model, cache, prompts, new, slice(0, 5))
        for step in range(100):
            if step == 60:
                for cache in (ours, own):
                    cache.copy(4, 0)
            rows = slice(0, 5 if step % 3 else 2)
            ids = torch.randint(0, 50, (rows.stop,), generator=generator)
            expected = read(model, own, ids[:, None], torch.ones(rows.stop, 1, dtype=torch.long), rows)
            found = decoder(ids, ours, rows)
            torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", ["llama", "biases", "tied", "qwen2", "qwen3"])
@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "weights"])
def test_in_half_precision_it_is_as_near_to_the_truth_as_the_model(name: str, autocast: bool) -> None:
    model, exact = MODELS[name](), MODELS[name]().double()
    if not autocast:
        model = model.to(torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 50, (8, 40), generator=generator)
    ones = torch.ones_like(ids)
    errors: dict[str, list[torch.Tensor]] = {"ours": [], "own": []}
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        decoder = Decoder.of(model)
        assert decoder is not None
        ours, own = SlotCache(2, 8, 0, model.device), SlotCache(2, 8, 0, model.device)
        for cache in (ours, own):
            read(model, cache, ids[:, :8], ones[:, :8], slice(0, 8))
        for at in range(8, 40):
            with torch.autocast("cpu", enabled=False):
                expected = exact(input_ids=ids[:, : at + 1]).logits[:, -1]
            errors["ours"].append(decoder(ids[:, at], ours, slice(0, 8)) - expected)
            errors["own"].append(read(model, own, ids[:, at : at + 1], ones[:, :1], slice(0, 8)) - expected)
    apart = {who: float(torch.stack(found).square().mean().sqrt()) for who, found in errors.items()}
    assert 0 < apart["ours"] < 1.25 * apart["own"]


def test_weights_that_change_are_read_as_they_are() -> None:
    model = llama()
    decoder = Decoder.of(model)
    assert decoder is not None
    ones = torch.ones(1, 1, dtype=torch.long)
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(0.5)
        ours, own = SlotCache(2, 1, 0, model.device), SlotCache(2, 1, 0, model.device)
        for cache in (ours, own):
            read(model, cache, ones, ones, slice(0, 1))
        found = decoder(torch.tensor([2]), ours, slice(0, 1))
        torch.testing.assert_close(found, read(model, own, ones * 2, ones, slice(0, 1)), rtol=2e-5, atol=2e-5)


def hooked() -> Any:
    model = llama()
    model.model.layers[1].register_forward_hook(lambda module, args, output: output)
    return model


def adapted() -> Any:
    """What an adapter leaves of the model under it: its class is the same, its layers are not."""
    model = llama()
    get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    return model


def with_another_forward() -> Any:
    model = llama()
    model.model.norm.forward = lambda x: x
    return model


def with_another_layer() -> Any:
    class Doubling(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    model = llama()
    model.model.layers[0].mlp.up_proj = Doubling(32, 48, bias=False)
    return model


def subclassed() -> Any:
    class Other(LlamaForCausalLM):
        pass

    return filled(Other(LlamaConfig(**SIZE)))


UNKNOWN = {
    "a hook": hooked,
    "an adapter": adapted,
    "another forward": with_another_forward,
    "another layer": with_another_layer,
    "a subclass": subclassed,
    "another activation": lambda: llama(hidden_act="gelu"),
    "a rope that depends on the length": lambda: llama(
        rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    ),
    "another family": lambda: GPTNeoXForCausalLM(
        GPTNeoXConfig(hidden_size=32, num_attention_heads=4, num_hidden_layers=1)
    ),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_model_that_is_not_known_in_every_part_is_left_to_itself(name: str) -> None:
    assert Decoder.of(UNKNOWN[name]()) is None
