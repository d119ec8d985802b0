"""The base's likelihood of solutions bounds its true success probability, which is known here by construction."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from toyruns import MakeRun
from transformers import Qwen3Config, Qwen3ForCausalLM
from typer.testing import CliRunner

from palestra.agents.codec import ChatCodec
from palestra.cli.main import app
from palestra.envs import Demonstration, Reward, Task, TextEnv, registry
from palestra.envs.errors import UsageError
from palestra.envs.registry import make, register
from palestra.eval.compare import compare_runs
from palestra.eval.likelihood import likelihoods
from palestra.eval.run import evaluate
from palestra.eval.settings import EvalSettings
from palestra.eval.stats.discovery import DiscoveryRule
from palestra.rl.organisms.tokenizer import character_tokenizer

ENV = "test/FirstLetters-v0"
N = 64


@pytest.fixture(scope="module", autouse=True)
def env() -> Iterator[None]:
    @register(ENV, variants={"train": {}, "test": {}})
    class FirstLetters(TextEnv):
        """Two turns: the first begins with b, the second with a."""

        max_turns = 2

        def sample(self, rng: random.Random) -> Task:
            return Task(prompt="?", answer="a", key=str(rng.random()))

        def grade(self, task: Task, answer: str) -> Reward:
            return Reward(float(answer == "a"))

        def judge(self, task: Task, turn: Any) -> Reward | None:
            if len(self.turns) == 1:
                return None if turn.action.startswith("b") else Reward(0.0)
            return Reward(float(turn.action.startswith("a")))

        def solve(self, task: Task) -> Demonstration:
            return Demonstration(("b", "a"))

    yield
    del registry._SPECS[ENV]


class Prompts:
    """The tokens before the first and the second turn, and the two letters that solve a problem."""

    def __init__(self) -> None:
        self.tokenizer = character_tokenizer()
        codec = ChatCodec(self.tokenizer)
        self.a, self.b = (self.tokenizer.encode(letter, add_special_tokens=False)[0] for letter in "ab")
        with make(ENV, "test") as played:
            observation, _ = played.reset(options={"index": 0})
            self.first = codec.start(played.system_prompt(), observation)
            answer, _, _, _, info = played.step("b")
        # Turns have one token, so that none of them ends by itself.
        self.second = [*self.first, self.b, *codec.seam(info["role"], answer, ended=False)]

    def rates(self, model: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Probability of either letter: their product is the success probability."""
        first, second = (model(torch.tensor([ids])).logits[0, -1].softmax(-1) for ids in (self.first, self.second))
        return first[self.b], second[self.a]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model that often begins well and then hardly ever goes on well, and the same one taught to go on well."""
    folder = tmp_path_factory.mktemp("models")
    prompts = Prompts()
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = Qwen3Config(vocab_size=len(prompts.tokenizer), num_key_value_heads=1, head_dim=16, **sizes)
    model = Qwen3ForCausalLM(config)
    optimiser = torch.optim.Adam(model.parameters(), 3e-2)
    for name, wanted in (("base", 0.002), ("trained", 0.5)):
        loss = torch.tensor(1.0)
        while loss > 1e-2:
            p_b, p_a = prompts.rates(model)
            loss = (p_b / 0.7).log() ** 2 + (p_a / wanted).log() ** 2
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        model.save_pretrained(folder / name)
        prompts.tokenizer.save_pretrained(folder / name)
    return folder / "base", folder / "trained"


@pytest.fixture(scope="module")
def runs(models: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    out = tmp_path_factory.mktemp("runs")
    for seed, model in enumerate(models):
        evaluate(settings(model, out / model.name, seed=seed))
    return [out / model.name for model in models]


def settings(model: Path | str, out: Path, **changes: Any) -> EvalSettings:
    return EvalSettings(
        model=str(model), env=ENV, out=out, **{"problems": 3, "samples": N, "max_tokens": 1, "seed": 0, **changes}
    )


@torch.inference_mode()
def true_rate(model: Path) -> float:
    p_b, p_a = Prompts().rates(Qwen3ForCausalLM.from_pretrained(model))
    return float(p_b * p_a)


def test_solutions_of_the_trained_model_bound_the_base(runs: list[Path], models: tuple[Path, Path]) -> None:
    p = true_rate(models[0])
    assert 1e-4 < p < 0.02
    assert true_rate(models[1]) > 0.2
    (found,) = likelihoods(*runs).variants
    for problem in found.problems:
        assert problem.bound.ess > 10
        assert p / 2 < problem.bound.low < problem.bound.estimate < 2 * p
        assert problem.bound.low <= p <= problem.high
    samples = [problem.trained_successes for problem in found.problems]
    assert min(samples) > 5
    # A model is surprised less by its own samples than by the other's, and training moved it.
    table = found.perplexities
    assert table["base"]["base"] < table["trained"]["base"]
    assert table["trained"]["trained"] < table["base"]["trained"]
    assert all(problem.kl is not None and problem.kl > 0 for problem in found.problems)


def test_a_problem_within_reach_is_no_candidate(runs: list[Path], tmp_path: Path) -> None:
    """The base solves it once in a thousand times or so: more often than not in 1,000 tries, hardly ever in 64."""
    out = tmp_path / "reach.json"
    done = CliRunner().invoke(app, ["likelihood", *map(str, runs), "--out", str(out)])
    assert done.exit_code == 0, done.output
    content = json.loads(out.read_text())
    for row in content["variants"][0]["problems"]:
        row["bound"]["low"] = 0.01
    out.write_text(json.dumps(content))
    before = compare_runs(runs, resamples=100).verdicts[0].verdict
    after = compare_runs(runs, resamples=100, likelihoods=[out]).verdicts[0].verdict
    assert before.discovered.candidates.any()
    assert not after.discovered.candidates.any()
    assert "within the base's reach" in " ".join(after.reasons.values())
    rule = DiscoveryRule()
    assert 1 - 0.99**rule.budget > rule.eta


def test_a_file_of_other_models_is_refused(runs: list[Path], make_run: MakeRun, tmp_path: Path) -> None:
    out = tmp_path / "reach.json"
    CliRunner().invoke(app, ["likelihood", *map(str, runs), "--out", str(out)])
    others = [make_run("a", {"test": [0]}), make_run("b", {"test": [9]})]
    with pytest.raises(UsageError, match="about other models"):
        compare_runs(others, likelihoods=[out])
    out.write_text("{}")
    with pytest.raises(UsageError, match="palestra likelihood BASE TRAINED --out"):
        compare_runs(runs, likelihoods=[out])
    with pytest.raises(UsageError, match="cannot be read"):
        compare_runs(runs, likelihoods=[tmp_path / "none.json"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ban": "z"}, "own distribution"),
        ({"top_p": 0.5}, "own distribution"),
        ({"temperature": 0.0}, "own distribution"),
        ({"samples": 1}, "at least 2"),
    ],
)
def test_runs_that_say_nothing_are_refused(
    models: tuple[Path, Path], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    made = [evaluate(settings(model, tmp_path / model.name, **{"samples": 2, **changes})).path for model in models]
    with pytest.raises(UsageError, match=message):
        likelihoods(*made)


def test_policies_hold_no_tokens(tmp_path: Path) -> None:
    made = [evaluate(settings(name, tmp_path / name, samples=2)).path for name in ("oracle", "random")]
    with pytest.raises(UsageError, match="holds no tokens"):
        likelihoods(*made)


def test_a_model_that_changed_is_refused(runs: list[Path], models: tuple[Path, Path], tmp_path: Path) -> None:
    weights = models[1] / "model.safetensors"
    kept = weights.read_bytes()
    try:
        weights.write_bytes((models[0] / "model.safetensors").read_bytes())
        with pytest.raises(UsageError, match="has changed since"):
            likelihoods(*runs)
    finally:
        weights.write_bytes(kept)
