"""Success probabilities by enumeration, against sums by hand and against sampling."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from palestra.agents.codec import ChatCodec
from palestra.agents.engine import SamplingParams
from palestra.agents.rollout import Episode, rollout
from palestra.agents.scoring import token_logprobs
from palestra.agents.transformers_engine import TransformersEngine
from palestra.envs import Demonstration, Reward, Task, TextEnv, registry
from palestra.envs.registry import register
from palestra.eval.exact import success_probability
from palestra.rl.organisms.tokenizer import character_tokenizer

IDS = ("test/Exact-v0", "test/ExactTwice-v0")


@pytest.fixture(scope="module")
def envs() -> Iterator[list[TextEnv]]:
    @register(IDS[0], variants={"train": {}, "test": {}})
    class Once(TextEnv):
        """A turn is right if it begins with an a."""

        max_turns = 1

        def sample(self, rng: random.Random) -> Task:
            return Task(prompt="?", answer="a", key=str(rng.random()))

        def grade(self, task: Task, answer: str) -> Reward:
            return Reward(float(answer == "a"))

        def judge(self, task: Task, turn: Any) -> Reward | None:
            return Reward(float(turn.action.startswith("a")))

        def solve(self, task: Task) -> Demonstration:
            return Demonstration(("a",))

    @register(IDS[1], variants={"train": {}, "test": {}})
    class Twice(Once):
        """Two turns: the first begins with b, the second with a."""

        max_turns = 2

        def judge(self, task: Task, turn: Any) -> Reward | None:
            if len(self.turns) == 1:
                return None if turn.action.startswith("b") else Reward(0.0)
            return Reward(float(turn.action.startswith("a")))

        def solve(self, task: Task) -> Demonstration:
            return Demonstration(("b", "a"))

    yield [registry.make(env_id, "test") for env_id in IDS]
    for env_id in IDS:
        del registry._SPECS[env_id]


class FewTokens(torch.nn.Module):
    """A random model that can only write a, b, c or end its turn."""

    def __init__(self, allowed: list[int]) -> None:
        super().__init__()
        torch.manual_seed(0)
        tokenizer = character_tokenizer()
        self.inner = Qwen3ForCausalLM(
            Qwen3Config(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
                        num_attention_heads=2, num_key_value_heads=2, head_dim=16, initializer_range=0.1)
        ).eval()  # fmt: skip
        self.config, self.device = self.inner.config, self.inner.device
        self.block = torch.full((len(tokenizer),), -torch.inf)
        self.block[allowed] = 0.0

    def forward(self, **inputs: Any) -> Any:
        out = self.inner(**inputs)
        out.logits = out.logits + self.block
        return out


@pytest.fixture(scope="module")
def codec() -> ChatCodec:
    return ChatCodec(character_tokenizer())


@pytest.fixture(scope="module")
def model(codec: ChatCodec) -> FewTokens:
    return FewTokens([*codec.encode_turn("abc")[:-1], codec.end_id])


def test_one_turn_is_exact(envs: list[TextEnv], codec: ChatCodec, model: FewTokens) -> None:
    found = success_probability(model, codec, envs[0], 0, max_tokens=3, tolerance=0.0)
    prompt = codec.start(envs[0].system_prompt(), "?")
    a = codec.encode_turn("a")[:1]
    (logp,) = token_logprobs(model, [prompt], [a])
    assert found.low == pytest.approx(float(np.exp(logp[0, 0])), abs=1e-6)
    assert found.high == pytest.approx(found.low, abs=1e-6)
    assert found.episodes == 1 + 3 + 9 + 27, "all turns of up to three tokens"


def test_a_stopped_search_brackets_what_a_whole_one_finds(
    envs: list[TextEnv], codec: ChatCodec, model: FewTokens
) -> None:
    for env in envs:
        whole = success_probability(model, codec, env, 1, max_tokens=2, tolerance=0.0)
        assert whole.high - whole.low < 1e-6
        for budget in (1, 3, 10):
            part = success_probability(model, codec, env, 1, max_tokens=2, tolerance=0.0, budget=budget)
            assert part.low - 1e-9 <= whole.low <= part.high + 1e-9
            assert part.expansions <= budget
    loose = success_probability(model, codec, envs[0], 1, max_tokens=3, tolerance=0.2)
    assert loose.high - loose.low <= 0.2


def test_several_turns_agree_with_sampling(envs: list[TextEnv], codec: ChatCodec, model: FewTokens) -> None:
    exact = success_probability(model, codec, envs[1], 0, max_tokens=2, tolerance=0.0)
    engine = TransformersEngine(model, codec.stop_ids, codec.pad_id)
    n = 600
    episodes = [Episode(0, seed) for seed in range(n)]
    make = lambda: registry.make(IDS[1], "test")  # noqa: E731
    solved = [t.outcome for _, t in rollout(make, episodes, engine, codec, SamplingParams(2), concurrency=n)]
    assert 0.02 < exact.low < 0.9
    assert np.mean(solved) == pytest.approx(exact.low, abs=4 * np.sqrt(exact.low * (1 - exact.low) / n))


def test_a_context_that_is_full_is_a_failure(envs: list[TextEnv], codec: ChatCodec, model: FewTokens) -> None:
    prompt = codec.start(envs[1].system_prompt(), "?")
    found = success_probability(model, codec, envs[1], 0, max_tokens=2, tolerance=0.0, max_length=len(prompt) + 2)
    assert found.low == 0.0
    assert found.high < 1e-6
