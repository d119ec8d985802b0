"""The engines over vLLM, in this process and as a server, on a real one (`.ci/vllm` makes an environment for it)."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from palestra.agents.codec import ChatCodec
from palestra.agents.engine import Completion, Engine, SamplingParams
from palestra.agents.models import LoadedModel, load_model
from palestra.agents.rollout import Episode, rollout
from palestra.agents.vllm_engine import VLLMEngine
from palestra.agents.vllm_server import VLLMServerEngine
from palestra.envs import make
from palestra.envs.errors import UsageError
from palestra.eval.run import evaluate
from palestra.eval.settings import EvalSettings
from palestra.eval.store import read_samples
from palestra.rl.organisms.build import build
from palestra.rl.organisms.recipe import load_recipe
from palestra.rl.rundir import RunFolder
from palestra.rl.settings import TrainSettings
from palestra.rl.train import lora, train

pytestmark = pytest.mark.vllm
RECIPE = """
name: for-vllm
model: {layers: 2, width: 64, heads: 2, context: 256}
training: {steps: 150, batch_size: 32, learning_rate: 5.0e-3}
mixture:
  - {env: palestra/StringCompose-v0, variant: train-atoms, weight: 1}
"""
"""vLLM's kernels for CPU want heads of 32 or more."""
LOADING_S = 180
PROMPTS = ["A(abc) = ?", "B(abcde) = ?", "C(A(ab)) = ?", "D(ff) = ?"] * 4
SEEDS = list(range(100, 116))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = tmp_path_factory.mktemp("recipe") / "for-vllm.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    out = tmp_path_factory.mktemp("organism") / "model"
    build(load_recipe(str(recipe)), 0, out)
    return out


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedModel:
    return load_model(str(folder))


@pytest.fixture(scope="module")
def codec(loaded: LoadedModel) -> ChatCodec:
    return ChatCodec(loaded.tokenizer)


@pytest.fixture(scope="module")
def address(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that takes weights."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager"]
    command += ["--logprobs-mode", "processed_logprobs", "--max-num-seqs", "32"]
    settings = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, env={**os.environ, **settings}, stdout=output, stderr=output, start_new_session=True
        )
    try:
        for _ in range(LOADING_S):
            assert server.poll() is None, log.read_text()[-3_000:]
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(1)
        else:
            pytest.fail(f"the server did not start: {log.read_text()[-3_000:]}")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


@pytest.fixture(scope="module")
def in_process(folder: Path, codec: ChatCodec) -> VLLMEngine:
    return VLLMEngine(str(folder), codec.stop_ids, 256)


@pytest.fixture(params=["in process", "server"])
def engine(request: pytest.FixtureRequest, codec: ChatCodec, loaded: LoadedModel) -> VLLMEngine | VLLMServerEngine:
    made: VLLMEngine | VLLMServerEngine
    if request.param == "in process":
        made = request.getfixturevalue("in_process")
    else:
        made = VLLMServerEngine(request.getfixturevalue("address"), codec.stop_ids)
    return made.with_weights(loaded.model)


def sample(engine: Engine, prompts: list[list[int]], params: SamplingParams) -> list[Completion]:
    done: dict[int, Completion] = {}
    with engine.open(params, len(prompts)) as stream:
        for key, ids in enumerate(prompts):
            stream.submit(key, ids, SEEDS[key])
        while len(done) < len(prompts):
            done.update(stream.step())
    return [done[key] for key in range(len(prompts))]


def true_logprobs(model: Any, prompt: list[int], ids: list[int], temperature: float = 1.0) -> torch.Tensor:
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1] / temperature
    return logits.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None])[:, 0]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_the_model(
    engine: Engine, loaded: LoadedModel, codec: ChatCodec, temperature: float
) -> None:
    prompts = [codec.start("", p) for p in PROMPTS]
    sampled = sample(engine, prompts, SamplingParams(max_tokens=20, temperature=temperature))
    assert len({tuple(c.ids) for c in sampled}) > 4
    for prompt, done in zip(prompts, sampled, strict=True):
        expected = true_logprobs(loaded.model, prompt, done.ids, temperature)
        assert torch.allclose(torch.tensor(done.logprobs), expected, atol=1e-3)
        assert (done.stop == "eos") == (done.ids[-1] in codec.stop_ids)
        assert not set(done.ids[:-1]) & codec.stop_ids
        assert len(done.ids) <= 20


def test_a_sample_depends_on_its_seed(engine: Engine, codec: ChatCodec) -> None:
    prompts = [codec.start("", p) for p in PROMPTS]
    params = SamplingParams(max_tokens=20)
    together = sample(engine, prompts, params)
    assert [c.ids for c in together] == [c.ids for c in sample(engine, prompts, params)]
    assert together[0].ids == sample(engine, prompts[:1], params)[0].ids


def test_banned_tokens_are_never_sampled(engine: Engine, codec: ChatCodec) -> None:
    prompts = [codec.start("", p) for p in PROMPTS]
    usual = sample(engine, prompts, SamplingParams(max_tokens=20))
    banned = usual[0].ids[0]
    done = sample(engine, prompts, SamplingParams(max_tokens=20, banned=(banned,)))
    assert all(banned not in c.ids for c in done)


def test_turns_follow_each_other_and_sequences_can_be_dropped(
    engine: Engine, loaded: LoadedModel, codec: ChatCodec
) -> None:
    prompt, more = codec.start("", "A(abc) = ?"), codec.start("", "B(ab) = ?")
    with engine.open(SamplingParams(max_tokens=8), 2) as stream:
        assert stream.room() == 2
        stream.submit(1, prompt, 5)
        stream.submit(2, prompt, 6)
        assert stream.room() == 0
        stream.drop(2)
        first = next_of(stream)
        stream.extend(1, more, 7)
        second = next_of(stream)
        assert stream.room() == 1
    expected = true_logprobs(loaded.model, prompt + first.ids + more, second.ids)
    assert torch.allclose(torch.tensor(second.logprobs), expected, atol=1e-3)


def next_of(stream: Any) -> Completion:
    while not (finished := stream.step()):
        pass
    ((key, completion),) = finished
    assert key == 1
    return completion


@pytest.mark.parametrize("adapter", [False, True])
def test_weights_are_taken_over(
    engine: VLLMEngine | VLLMServerEngine, folder: Path, codec: ChatCodec, adapter: bool
) -> None:
    model = load_model(str(folder)).model
    if adapter:
        from peft import get_peft_model

        model = get_peft_model(model, lora(4))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_((0.3 if adapter else 0.05) * torch.randn_like(parameter))
    prompts = [codec.start("", p) for p in PROMPTS[:4]]
    before = sample(engine, prompts, SamplingParams(max_tokens=12))
    after = sample(engine.with_weights(model), prompts, SamplingParams(max_tokens=12))
    changed = torch.tensor(before[1].logprobs) - true_logprobs(model, prompts[1], before[1].ids)
    assert changed.abs().max() > 0.05
    for prompt, done in zip(prompts, after, strict=True):
        assert torch.allclose(torch.tensor(done.logprobs), true_logprobs(model, prompt, done.ids), atol=1e-3)


def test_episodes_of_several_turns_are_played(engine: Engine, loaded: LoadedModel, codec: ChatCodec) -> None:
    def make_env() -> Any:
        return make("palestra/Countdown-v0", "train", syntax=codec.syntax)

    played = list(
        rollout(
            make_env,
            [Episode(index, 7 * index) for index in range(8)],
            engine,
            codec,
            SamplingParams(max_tokens=8),
            max_length=loaded.max_length,
        )
    )
    assert len(played) == 8
    for _, t in played:
        assert t.stop != "error", t.error
        expected = true_logprobs(loaded.model, t.prompt_ids, t.completion_ids)
        sampled = torch.tensor(t.mask, dtype=torch.bool)
        assert torch.allclose(torch.tensor(t.logprobs)[sampled], expected[sampled], atol=1e-3)


@pytest.mark.parametrize("where", ["in process", "server"])
def test_training_samples_with_it(
    where: str, folder: Path, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == "server":
        engine = request.getfixturevalue("address")
    else:
        engine = "vllm"
        shared = request.getfixturevalue("in_process")  # one per process: it takes the distributed state
        monkeypatch.setattr("palestra.rl.engines.VLLMEngine", lambda *args: shared)
    out = tmp_path / "run"
    settings = TrainSettings(
        model=str(folder),
        env="palestra/StringCompose-v0",
        variant="train-atoms",
        out=out,
        engine=engine,
        steps=3,
        prompts=4,
        group_size=4,
        max_tokens=16,
        lr=1e-3,
        reward="random",  # the organism solves hardly anything
        track="none",
    )
    with RunFolder(out, "train", settings) as run:
        train(settings, run)
    history = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["history"]
    rows = [row for row in history if "sampling/logprob_difference" in row]
    assert len(rows) == 3
    for row in rows:  # with the weights of each step, not those of the first
        assert row["sampling/logprob_difference"] < 1e-3
        assert abs(row["sampling/ratio_max"] - 1) < 0.01
    assert any(row["grad_norm"] > 0 for row in rows)


def test_an_evaluation_samples_with_it(
    in_process: VLLMEngine, loaded: LoadedModel, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("palestra.agents.vllm_engine.VLLMEngine", lambda *args: in_process.with_weights(loaded.model))
    chosen = EvalSettings(
        model=str(folder),
        env="palestra/StringCompose-v0",
        variant=("train-atoms",),
        samples=4,
        problems=3,
        max_tokens=16,
        engine="vllm",
        out=tmp_path / "run",
    )
    evaluate(chosen)
    samples = list(read_samples(tmp_path / "run"))
    assert len(samples) == 12
    assert all(sample.stop != "error" and sample.tokens_out for sample in samples)
    with pytest.raises(UsageError, match="engine"):
        evaluate(chosen.model_copy(update={"engine": "transformers"}))


def test_an_address_where_nothing_answers_is_a_clear_error(codec: ChatCodec) -> None:
    with pytest.raises(UsageError, match="no vLLM server answers"):
        VLLMServerEngine("http://127.0.0.1:9", codec.stop_ids)


def test_a_model_that_vllm_does_not_take_is_a_clear_error(tmp_path: Path, codec: ChatCodec) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen3", "architectures": ["NoSuchModel"]}')
    with pytest.raises(UsageError, match="vLLM does not take the model"):
        VLLMEngine(str(tmp_path), codec.stop_ids, 64)
