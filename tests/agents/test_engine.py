from pathlib import Path

import pytest
import torch

from palestra.agents.codec import ChatCodec
from palestra.agents.engine import SamplingParams
from palestra.agents.models import LoadedModel, load_model
from palestra.agents.sampling import sample_tokens
from palestra.agents.transformers_engine import TransformersEngine


@pytest.fixture(scope="module")
def loaded(organism: Path) -> LoadedModel:
    return load_model(str(organism))


def engine_of(loaded: LoadedModel, batch_tokens: int = 65_536) -> tuple[TransformersEngine, ChatCodec]:
    codec = ChatCodec(loaded.tokenizer)
    return TransformersEngine(loaded.model, codec.stop_ids, codec.pad_id, batch_tokens), codec


PROMPTS = ["A(abc) = ?", "B(abcde) = ?", "C(A(ab)) = ?", "D(ff) = ?", "E(abcd) = ?"] * 3
SEEDS = list(range(100, 115))
PARAMS = SamplingParams(max_tokens=20)


def test_logprobs_are_those_of_a_full_forward_pass(loaded: LoadedModel) -> None:
    engine, codec = engine_of(loaded)
    prompts = [codec.start("", p) for p in PROMPTS]
    for prompt, done in zip(prompts, engine.generate(prompts, PARAMS, SEEDS), strict=True):
        with torch.inference_mode():
            logits = loaded.model(input_ids=torch.tensor([prompt + done.ids])).logits[0]
        expected = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(-1, torch.tensor(done.ids)[:, None])[:, 0]
        assert torch.allclose(torch.tensor(done.logprobs), expected, atol=2e-5)
        assert (done.stop == "eos") == (done.ids[-1] in codec.stop_ids)
        assert not set(done.ids[:-1]) & codec.stop_ids
        assert len(done.ids) <= PARAMS.max_tokens


def test_a_sample_depends_on_its_seed_and_not_on_its_batch(loaded: LoadedModel) -> None:
    engine, codec = engine_of(loaded)
    small, _ = engine_of(loaded, batch_tokens=1)
    prompts = [codec.start("", p) for p in PROMPTS]
    together = engine.generate(prompts, PARAMS, SEEDS)
    backwards = engine.generate(prompts[::-1], PARAMS, SEEDS[::-1])[::-1]
    alone = small.generate(prompts, PARAMS, SEEDS)
    assert [c.ids for c in together] == [c.ids for c in backwards] == [c.ids for c in alone]
    assert [c.ids for c in together] != [c.ids for c in engine.generate(prompts, PARAMS, [s + 1 for s in SEEDS])]


def test_greedy_ignores_seeds_and_agrees_with_generate(loaded: LoadedModel) -> None:
    engine, codec = engine_of(loaded)
    prompt = codec.start("", "A(abc) = ?")
    (done,) = engine.generate([prompt], SamplingParams(max_tokens=12, temperature=0), [1])
    reference = loaded.model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=12,
        do_sample=False,
    )
    assert done.ids == reference[0, len(prompt) :].tolist()


def test_training_mode_is_restored(loaded: LoadedModel) -> None:
    engine, codec = engine_of(loaded)
    loaded.model.train()
    engine.generate([codec.start("", "x")], SamplingParams(max_tokens=2), [0])
    assert loaded.model.training
    loaded.model.eval()


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.6), (2.0, 0.9)])
def test_draws_follow_the_distribution(temperature: float, top_p: float) -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -30.0])
    expected = (logits / temperature).softmax(-1)
    order = expected.argsort(descending=True)
    kept = order[(expected[order].cumsum(0) - expected[order]) < top_p]
    truncated = torch.zeros(5).scatter(0, kept, expected[kept])
    truncated /= truncated.sum()
    n = 20_000
    draws = (torch.arange(n, dtype=torch.float64) + 0.5) / n  # equidistant: the error is at most 1/n per token
    chosen, logprobs = sample_tokens(logits.expand(n, 5), SamplingParams(1, temperature, top_p), draws)
    assert torch.allclose(torch.bincount(chosen, minlength=5) / n, truncated, atol=2e-4)
    assert torch.allclose(logprobs, expected.log()[chosen], atol=1e-5)


def test_extreme_draws_stay_inside_the_vocabulary() -> None:
    logits = torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]])
    draws = torch.tensor([1 - 2**-53, 0.0], dtype=torch.float64)
    chosen, _ = sample_tokens(logits, SamplingParams(1), draws)
    assert chosen.tolist() == [0, 1]
