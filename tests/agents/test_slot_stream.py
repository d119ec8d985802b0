"""The stream that keeps what was read: the same samples as reading everything anew, whatever comes and goes."""

import gc
import random
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from palestra.agents.codec import ChatCodec
from palestra.agents.decoder import Decoder
from palestra.agents.engine import BatchStream, Completion, SamplingParams, Stream
from palestra.agents.models import LoadedModel, load_model
from palestra.agents.slot_stream import SlotStream
from palestra.agents.transformers_engine import TransformersEngine

PARAMS = SamplingParams(max_tokens=9)


@pytest.fixture(scope="module")
def loaded(organism: Path) -> LoadedModel:
    return load_model(str(organism))


def engine_of(loaded: LoadedModel, **settings: int) -> TransformersEngine:
    codec = ChatCodec(loaded.tokenizer)
    return TransformersEngine(loaded.model, codec.stop_ids, codec.pad_id, **settings)


def converse(stream: Stream, seeds: list[int], turns: int, most: int) -> dict[int, list[list[int] | Completion]]:
    """Hold conversations with random observations; the tokens of each, in pieces."""
    waiting, said = list(seeds), {}
    left: dict[int, int] = {}
    held: set[int] = set()
    while waiting or held:
        while waiting and stream.room() and len(held) < most:
            seed = waiting.pop(0)
            prompt = [random.Random(f"p{seed}").randrange(20, 59) for _ in range(3 + seed % 9)]
            said[seed], left[seed] = [prompt], turns - 1 - seed % 2
            stream.submit(seed, prompt, seed)
            held.add(seed)
        for key, completion in stream.step():
            said[key].append(completion)
            if left[key] == 0:
                stream.drop(key)
                held.remove(key)
                continue
            left[key] -= 1
            observation = [random.Random(f"o{key}|{left[key]}").randrange(20, 59) for _ in range(1 + key % 5)]
            said[key].append(observation)
            stream.extend(key, observation, key * 100 + left[key])
    return said


def flat(said: dict[int, list[list[int] | Completion]]) -> dict[int, list[int]]:
    return {
        key: [i for piece in pieces for i in (piece.ids if isinstance(piece, Completion) else piece)]
        for key, pieces in said.items()
    }


@pytest.mark.parametrize("way", ["decoder", "sdpa", "eager"])
@pytest.mark.parametrize("most", [1, 3, 40])
def test_the_same_samples_as_reading_everything_anew(
    loaded: LoadedModel, most: int, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = way == "decoder"
    if not decoded:
        monkeypatch.setattr(Decoder, "of", lambda model: None)
        monkeypatch.setattr(loaded.model.config, "_attn_implementation", way)
    engine = engine_of(loaded)
    with engine.open(PARAMS, most) as kept, BatchStream(engine.generate, PARAMS, 40) as anew:
        assert isinstance(kept, SlotStream)
        assert (kept._decoder is not None) == decoded
        assert flat(converse(kept, list(range(24)), 4, most)) == flat(converse(anew, list(range(24)), 4, 40))


SIZE: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "olmo", "phi", "starcoder2", "granite", "qwen2", "qwen3"])
def test_every_family_that_is_kept_reads_what_it_would_anew(family: str, attention: str) -> None:
    torch.manual_seed(1)
    extra = {"sliding_window": None} if family == "starcoder2" else {}
    config = AutoConfig.for_model(family, **SIZE, **extra, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    for weights in model.parameters():
        weights.data.mul_(4)  # as they come, all tokens are as likely
    engine = TransformersEngine(model, frozenset({2}), 0)
    with engine.open(PARAMS, 3) as kept, BatchStream(engine.generate, PARAMS, 24) as anew:
        assert isinstance(kept, SlotStream)
        ours, theirs = converse(kept, list(range(9)), 3, 3), converse(anew, list(range(9)), 3, 24)
    assert flat(ours) == flat(theirs)


@pytest.mark.parametrize(("rope", "kept"), [("linear", True), ("yarn", True), ("dynamic", False), ("longrope", False)])
def test_keys_that_are_turned_anew_in_long_sequences_are_not_kept(rope: str, kept: bool) -> None:
    parameters: dict[str, Any] = {"rope_type": rope, "rope_theta": 1e4, "factor": 2.0}
    if rope in ("yarn", "longrope"):
        parameters["original_max_position_embeddings"] = 64
    if rope == "longrope":
        parameters |= {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    config = AutoConfig.for_model("llama", **SIZE, rope_parameters=parameters)
    engine = TransformersEngine(AutoModelForCausalLM.from_config(config), frozenset({2}), 0)
    with engine.open(PARAMS, 2) as stream:
        assert isinstance(stream, SlotStream) == kept


def test_a_stream_that_was_closed_has_forgotten_everything(loaded: LoadedModel) -> None:
    engine = engine_of(loaded)
    prompt = list(range(30, 40))
    with engine.open(PARAMS, 2) as stream:
        stream.submit(0, prompt, 0)
        stream.step()
    stream.submit(1, prompt[:4], 1)
    done: dict[int, Completion] = {}
    while not done:
        done |= dict(stream.step())
    assert done[1].ids == engine.generate([prompt[:4]], PARAMS, [1])[0].ids


def test_attention_that_takes_no_mask_of_ours_is_not_kept() -> None:
    config = AutoConfig.for_model("llama", **SIZE)
    engine = TransformersEngine(
        AutoModelForCausalLM.from_config(config, attn_implementation="sdpa"), frozenset({2}), 0
    )
    engine.model.config._attn_implementation = "flash_attention_2"
    with engine.open(PARAMS, 2) as stream:
        assert isinstance(stream, BatchStream)


def test_logprobs_are_those_of_a_full_forward_pass(loaded: LoadedModel) -> None:
    with engine_of(loaded).open(PARAMS, 5) as stream:
        said = converse(stream, list(range(12)), 4, 5)
    for key, ids in flat(said).items():
        with torch.inference_mode():
            logprobs = loaded.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        at = 0
        for piece in said[key]:
            if isinstance(piece, Completion):
                where = torch.arange(at, at + len(piece.ids))
                expected = logprobs[where - 1, torch.tensor(piece.ids)]
                assert torch.allclose(torch.tensor(piece.logprobs), expected, atol=2e-5)
                at += len(piece.ids)
            else:
                at += len(piece)


def test_sequences_that_begin_alike_are_read_once(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight members of each of three groups, some of which arrive while others are at work and wait."""
    engine = engine_of(loaded)
    prompts = {key: [30 + key % 3, *range(31, 38 + key % 3)] for key in range(24)}
    read: list[int] = []
    forward = SlotStream._forward

    def counted(self: SlotStream, rows: slice, ids: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        read.append(int(new.sum()))
        return forward(self, rows, ids, new)

    monkeypatch.setattr(SlotStream, "_forward", counted)

    def turns(stream: Stream) -> dict[int, list[int]]:
        said: dict[int, list[int]] = {}
        for key in range(12):
            stream.submit(key, prompts[key], key)
        for step in range(200):
            if step == 2:
                for key in range(12, 24):
                    stream.submit(key, prompts[key], key)
            for key, completion in stream.step():
                again = key in said
                said.setdefault(key, []).extend(completion.ids)
                if again:
                    stream.drop(key)
                else:
                    stream.extend(key, [40, 41, key % 2 + 42], key + 100)
        return said

    with engine.open(PARAMS, 24) as kept, BatchStream(engine.generate, PARAMS, 24) as anew:
        ours, theirs = turns(kept), turns(anew)
    assert len(ours) == 24
    assert ours == theirs
    assert read[0] == sum(len(prompts[key]) for key in range(3)), "three prompts were read for twelve sequences"


@pytest.mark.parametrize("decoded", [True, False], ids=["decoder", "own forward pass"])
def test_members_that_draw_the_same_tokens_share_a_row(
    loaded: LoadedModel, decoded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve members of two groups, cold enough to stay together for long; three leave before their turn is over."""
    if not decoded:
        monkeypatch.setattr(Decoder, "of", lambda model: None)
    params = SamplingParams(max_tokens=12, temperature=0.05)
    engine = engine_of(loaded)
    rows: list[int] = []
    sample = SlotStream._sample

    def counted(self: SlotStream, some: slice, logits: torch.Tensor) -> list[tuple[int, Completion]]:
        rows.append(len(logits))
        return sample(self, some, logits)

    monkeypatch.setattr(SlotStream, "_sample", counted)
    prompts = [[30 + key % 2, 31, 32] for key in range(12)]
    alone = engine.generate(prompts, params, range(12))
    together: dict[int, list[int]] = {}
    with engine.open(params, 12) as stream:
        for key, prompt in enumerate(prompts):
            stream.submit(key, prompt, key)
        stream.step()
        for key in (0, 1, 8):
            stream.drop(key)
        while len(together) < 9:
            together |= {key: completion.ids for key, completion in stream.step()}
    assert together == {key: alone[key].ids for key in range(12) if key not in (0, 1, 8)}
    ways = [len({(key % 2, *ids[:at]) for key, ids in together.items() if len(ids) > at}) for at in range(12)]
    assert rows == ways, "a row for each way that is gone"
    assert sum(ways) < 0.9 * sum(map(len, together.values()))


def test_members_that_are_told_the_same_stay_together_and_the_others_part(loaded: LoadedModel) -> None:
    params = SamplingParams(max_tokens=6, temperature=0)
    engine = engine_of(loaded)

    def turns(stream: Stream) -> tuple[dict[int, list[int]], list[int]]:
        said: dict[int, list[int]] = {key: [] for key in range(6)}
        rows = []
        for key in said:
            stream.submit(key, [30, 31, 32], key)
        for turn in range(3):
            open_turns = set(said)
            while open_turns:
                for key, completion in stream.step():
                    said[key] += completion.ids
                    open_turns.remove(key)
                if isinstance(stream, SlotStream):
                    rows.append(sum(map(bool, stream._places.members)))
            for key in said:
                stream.extend(key, [40 + (key % 2 if turn == 0 else key // 2)], key)
        return said, rows

    with engine.open(params, 6) as kept, BatchStream(engine.generate, params, 6) as anew:
        (ours, rows), (theirs, _) = turns(kept), turns(anew)
    assert ours == theirs
    assert set(rows) == {1, 2, 6}
    assert rows == sorted(rows)


def test_rows_are_no_longer_than_what_was_read_whatever_came_before(loaded: LoadedModel) -> None:
    seen = []
    with engine_of(loaded).open(PARAMS, 4) as stream:
        assert isinstance(stream, SlotStream)
        for seed in range(30):
            said = converse(stream, [seed, seed + 60, seed + 120], 4, 4)
            seen.append((stream._cache.end, max(map(len, flat(said).values()))))
    assert all(end <= longest for end, longest in seen)


def test_a_closed_stream_has_given_its_cache_back(loaded: LoadedModel) -> None:
    """Training opens one per step: without a collection of cycles, too, no more than one may be there."""
    gc.disable()
    try:
        with engine_of(loaded).open(PARAMS, 4) as stream:
            converse(stream, [1, 2, 3], 2, 4)
            held = [
                weakref.ref(tensor)
                for tensor in [tensor for layer in stream._cache._layers for tensor in layer.held()]
            ]  # type: ignore[attr-defined]
            assert len(held) == 2 * loaded.model.config.num_hidden_layers
        assert [ref() for ref in held] == [None] * len(held)
    finally:
        gc.enable()


def test_a_small_budget_admits_few_sequences_but_always_one(loaded: LoadedModel) -> None:
    with engine_of(loaded, cache_bytes=1).open(PARAMS, 8) as stream:
        assert stream.room() == 1
        assert len(converse(stream, [1, 2, 3], 2, 8)) == 3
    with engine_of(loaded).open(PARAMS, 8) as stream:
        assert stream.room() == 8


def test_a_turn_may_be_dropped_while_it_is_sampled(loaded: LoadedModel) -> None:
    engine = engine_of(loaded)
    with engine.open(PARAMS, 4) as stream:
        for key in range(4):
            stream.submit(key, [30 + key, 31, 32], key)
        stream.step()
        stream.drop(0)
        done: dict[int, Completion] = {}
        while len(done) < 3:
            done |= dict(stream.step())
    expected = engine.generate([[30 + key, 31, 32] for key in (1, 2, 3)], PARAMS, [1, 2, 3])
    assert [done[key].ids for key in (1, 2, 3)] == [c.ids for c in expected]


def test_banned_tokens_are_never_sampled(loaded: LoadedModel) -> None:
    engine = engine_of(loaded)
    prompts, seeds = [[30, 31, 32]] * 20, list(range(20))
    free = {i for c in engine.generate(prompts, PARAMS, seeds) for i in c.ids}
    banned = tuple(sorted(free))[:5]
    rest = {i for c in engine.generate(prompts, SamplingParams(9, banned=banned), seeds) for i in c.ids}
    assert rest
    assert not rest & set(banned)


def test_training_mode_is_restored(loaded: LoadedModel) -> None:
    loaded.model.train()
    with engine_of(loaded).open(PARAMS, 2) as stream:
        stream.submit(0, [30, 31], 0)
        stream.step()
    assert loaded.model.training
    loaded.model.eval()
