"""Episodes as trees: every log-probability, entropy and gradient is that of the rows, and no prefix is read twice."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from trl.trainer.utils import add_fused_lm_head

from palestra.rl.prefix_tree import Packing, PassCost, PrefixTrees, reads_trees

SIZES: dict[str, Any] = {
    "vocab_size": 11,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
ROPE_OF_LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "llama 3 rope": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=ROPE_OF_LLAMA_3)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=8)),
}
ROWS = st.lists(
    st.tuples(st.lists(st.integers(1, 2), min_size=1, max_size=4), st.lists(st.integers(1, 3), max_size=7)),
    min_size=1,
    max_size=8,
)
"""Prompts and completions of few different tokens: much is shared, also by rows that begin another one, or are one."""
CHEAP_TOKENS, DEAR_TOKENS = PassCost(1e-3), PassCost(1e6)


@pytest.fixture(scope="module", params=list(MODELS))
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    model = MODELS[request.param]().double().train()
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    return model


def padded(rows: list[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor, int]:
    before, after = (max(len(row[part]) for row in rows) for part in (0, 1))
    ids = [[0] * (before - len(p)) + p + c + [0] * (after - len(c)) for p, c in rows]
    mask = [[0] * (before - len(p)) + [1] * len(p + c) + [0] * (after - len(c)) for p, c in rows]
    return torch.tensor(ids), torch.tensor(mask), after


def by_rows(model: Any, ids: Tensor, mask: Tensor, completion: int) -> tuple[Tensor, Tensor]:
    """What TRL does with a batch."""
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :-completion] = -100
    found = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
    return found.log_probs[:, -completion:], found.entropy[:, -completion:]


def by_trees(model: Any, ids: Tensor, mask: Tensor, completion: int, cost: PassCost) -> tuple[Tensor, Tensor]:
    rows = [row[there].tolist() for row, there in zip(ids, mask.bool(), strict=True)]
    trees = PrefixTrees.of(rows, Packing.best(rows, cost), mask[:, -completion:].bool())
    found = model(**trees.inputs(), fused_lm_head=True)
    return trees.spread(found.log_probs), trees.spread(found.entropy)


def gradients(model: Any, logprobs: Tensor, entropies: Tensor) -> list[Tensor]:
    weights = torch.linspace(-1, 2, logprobs.numel(), dtype=logprobs.dtype).view(logprobs.shape)
    model.zero_grad()
    (weights * logprobs + 0.3 * weights.flip(0) * entropies).sum().backward()
    return [p.grad.clone() for p in model.parameters()]


@given(
    ROWS.filter(lambda rows: any(completion for _, completion in rows)), st.sampled_from([CHEAP_TOKENS, DEAR_TOKENS])
)
@settings(max_examples=40, deadline=None)
def test_all_that_a_loss_takes_is_that_of_the_rows(
    model: Any, rows: list[tuple[list[int], list[int]]], cost: PassCost
) -> None:
    batch = padded(rows)
    expected, found = by_rows(model, *batch), by_trees(model, *batch, cost)
    for theirs, ours in zip(expected, found, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
    for theirs, ours in zip(gradients(model, *expected), gradients(model, *found), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


@given(ROWS)
@settings(deadline=None)
def test_what_rows_share_is_one_node_and_nothing_else_is(pairs: list[tuple[list[int], list[int]]]) -> None:
    rows = [prompt + completion for prompt, completion in pairs]
    packing = Packing.best(rows, DEAR_TOKENS)
    nodes = {tuple(row[: end + 2]) for row in rows for end in range(len(row) - 1)}
    if len(packing.sizes) == 1:
        assert packing.sizes == [len(nodes)]
    assert len(nodes) <= sum(packing.sizes) <= sum(len(row) - 1 for row in rows)
    assert sorted(packing.order) == list(range(len(rows)))
    assert packing.starts[0] == 0
    assert len(packing.starts) == len(packing.sizes)


@given(ROWS, st.floats(1e-3, 1e4))
@settings(deadline=None)
def test_a_packing_costs_no_more_than_a_tree_for_each_row(
    pairs: list[tuple[list[int], list[int]]], token: float
) -> None:
    rows, cost = [prompt + completion for prompt, completion in pairs], PassCost(token)
    assert cost.trees(Packing.best(rows, cost).sizes) <= cost.trees([len(row) - 1 for row in rows])


def test_a_group_whose_members_part_late_is_one_tree() -> None:
    rows = [[1] * 50 + [2] * 40 + [3 + member] for member in range(6)]
    packing = Packing.best(rows, PassCost(500))
    assert packing.sizes == [89 + 6], "the last token that all share stands once for each way on"
    assert packing.shared == [0, 89, 89, 89, 89, 89]


def test_long_rows_that_share_little_stay_rows_and_a_group_of_short_ones_does_not() -> None:
    cost = PassCost(100)
    own = [([1, 2], [3 + member] * 800) for member in range(4)]
    assert PrefixTrees.where_cheaper(*padded(own), cost) is None
    alike = [([1] * 60, [3 + member] * 20) for member in range(4)]
    trees = PrefixTrees.where_cheaper(*padded(alike), cost)
    assert trees is not None
    assert trees.ids.shape == (1, 59 + 4 * 20)


def test_where_masks_are_dear_long_turns_stay_rows() -> None:
    """As on a GPU: eight members that share 400 tokens and write 600 of their own."""
    batch = padded([([1] * 400, [3 + member] * 600) for member in range(8)])
    assert PrefixTrees.where_cheaper(*batch, PassCost(8_000)) is not None
    assert PrefixTrees.where_cheaper(*batch, PassCost(8_000, masked=3.0)) is None
    config = LlamaConfig(**SIZES)
    assert PassCost.of(config, "cuda").masked > PassCost.of(config).masked == 1


def test_a_head_is_computed_where_a_completion_is_predicted_and_nowhere_else() -> None:
    trees = PrefixTrees.where_cheaper(*padded([([1, 2, 3], [4, 5]), ([1, 2, 3], [4, 6])]), DEAR_TOKENS)
    assert trees is not None
    assert sorted(trees.labels[trees.labels >= 0].tolist()) == [4, 5, 6]


def test_a_batch_without_anything_to_predict_stays_one_of_rows() -> None:
    assert (
        PrefixTrees.where_cheaper(torch.tensor([[1, 0], [1, 0]]), torch.tensor([[1, 0], [1, 0]]), 1, PassCost(9))
        is None
    )


def test_the_cost_of_a_token_is_that_of_the_weights_of_a_layer() -> None:
    model = LlamaForCausalLM(LlamaConfig(**SIZES))
    matrices = sum(w.numel() for w in model.model.layers[0].parameters() if w.ndim == 2)
    assert PassCost.of(model.config).token == matrices / (2 * 4 * 4)


def test_known_models_with_full_attention_read_trees(model: Any) -> None:
    assert reads_trees(model)


@pytest.mark.parametrize(
    ("adapter", "expected"),
    [
        (LoraConfig(target_modules="all-linear"), True),
        (LoraConfig(target_modules="all-linear", lora_dropout=0.1), False),
        (LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], alora_invocation_tokens=[1]), False),
        (PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2), False),
    ],
    ids=["LoRA", "dropout", "aLoRA", "prompt tuning"],
)
def test_of_adapters_only_lora_is_known(adapter: Any, expected: bool) -> None:
    assert reads_trees(get_peft_model(LlamaForCausalLM(LlamaConfig(**SIZES)), adapter)) is expected


def test_a_model_that_remembers_adapters_but_has_none_is_known() -> None:
    """As peft 0.18 leaves one into which they were merged."""
    model: Any = LlamaForCausalLM(LlamaConfig(**SIZES))
    model.peft_config = {"default": LoraConfig()}
    assert reads_trees(model)


@pytest.mark.parametrize(
    "model",
    [
        LlamaForCausalLM(LlamaConfig(**SIZES, attn_implementation="eager")),
        LlamaForCausalLM(LlamaConfig(**SIZES, attention_dropout=0.1)),
        LlamaForCausalLM(
            LlamaConfig(**SIZES, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
        ),
        Qwen2ForCausalLM(Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=4, max_window_layers=1)),
        GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=11, n_positions=32)),
    ],
    ids=["eager attention", "dropout", "a rope that depends on the length", "a sliding window", "absolute positions"],
)
def test_other_models_do_not(model: Any) -> None:
    assert not reads_trees(model)
