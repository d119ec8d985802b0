"""DPO on sampled pairs: the loss by hand, whose tokens count, and that it raises the margin it is about."""

import json
import math
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM
from trl import DPOConfig

from palestra.agents.codec import ChatCodec
from palestra.agents.models import load_model
from palestra.agents.scoring import token_logprobs
from palestra.agents.trajectory import Trajectory
from palestra.envs import Demonstration, Reward, Task, TaskId, TextEnv, register
from palestra.envs.errors import PalestraError
from palestra.rl.dpo import (
    SIDES,
    PadPairs,
    TokenDPOTrainer,
    count_preferred,
    dpo_trainer,
    loss_of,
    pairs,
    prefer_right,
)
from palestra.rl.organisms.tokenizer import character_tokenizer
from palestra.rl.rft import fine_tune_on_own
from palestra.rl.rundir import RunFolder
from palestra.rl.sampler import Sample, SamplerSettings
from palestra.rl.settings import DPOSettings, RFTSettings

WIDTH, A, B, FROM_ENV = 8, 20, 21, 22


@register("test/Vowels-v0", variants={"train": {}, "test": {}})
class Vowels(TextEnv):
    """Pays for an answer that comes early in the alphabet, at the second attempt too: some episodes have two turns."""

    max_turns = 2
    attempts = 2

    def sample(self, rng: random.Random) -> Task:
        text = "".join(rng.choice("abcdefgh") for _ in range(5))
        return Task(prompt=f"A({text}) = ?", answer="a", key=text)

    def grade(self, task: Task, answer: str) -> Reward:
        return Reward(float(answer < "d"))

    def solve(self, task: Task) -> Demonstration:
        return Demonstration(("<answer>a</answer>",))


def model_with(probabilities: dict[int, float], size: int) -> Any:
    """Return a model that gives the same probabilities everywhere: these, and the other tokens what is left."""
    config = Qwen3Config(
        vocab_size=size,
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=WIDTH,
        tie_word_embeddings=False,
    )
    model = Qwen3ForCausalLM(config)
    left = (1 - sum(probabilities.values())) / (size - len(probabilities))
    logits = torch.tensor([math.log(probabilities.get(i, left)) for i in range(size)])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layers" in name:
                parameter.zero_()  # whatever came before has no effect
        model.model.embed_tokens.weight.fill_(1.0)
        model.lm_head.weight.copy_((logits / WIDTH)[:, None].expand(-1, WIDTH))
    return model


def by_hand(
    tmp_path: Path, from_env: int, likelihood_weight: float = 0.0
) -> tuple[TokenDPOTrainer, dict[str, Any], int]:
    """Return a trainer with a policy of P(A) = 1/2 and P(B) = 1/4 and a uniform reference, and a batch for it."""
    tokenizer = character_tokenizer()
    size = len(tokenizer)
    rows = [
        {
            "prompt_ids": [1, 2, 3],
            "chosen_ids": [A, from_env, from_env, A],
            "chosen_mask": [1, 0, 0, 1],
            "rejected_ids": [B, from_env],
            "rejected_mask": [1, 0],
        }
    ]
    settings = DPOSettings(model="m", env="e", out=tmp_path, beta=0.5, likelihood_weight=likelihood_weight)
    config = DPOConfig(
        **loss_of(settings), output_dir=str(tmp_path), max_length=None, report_to="none", use_cpu=True, bf16=False
    )
    policy, reference = model_with({A: 0.5, B: 0.25}, size), model_with({}, size)
    trainer = dpo_trainer(rows, policy, reference, tokenizer, ChatCodec(tokenizer), config, [])
    return trainer, trainer.data_collator(list(trainer.train_dataset)), size


def test_the_loss_by_hand(tmp_path: Path) -> None:
    # Chosen: two tokens, ratio (1/2 : 1/V)^2 = V^2/4. Rejected: one token, 1/4 : 1/V = V/4. Their quotient is V, so
    # with beta = 1/2 the loss is -log sigmoid(log(V) / 2) = log(1 + V^(-1/2)), and the margin log(V) / 2.
    trainer, batch, size = by_hand(tmp_path, FROM_ENV)
    loss = trainer.compute_loss(trainer.model, batch)
    assert loss.item() == pytest.approx(math.log(1 + size**-0.5), rel=1e-4)
    assert trainer._metrics["train"]["rewards/margins"] == pytest.approx([0.5 * math.log(size)], rel=1e-4)


def test_the_likelihood_of_right_episodes_can_be_added(tmp_path: Path) -> None:
    # Both of the chosen tokens have probability 1/2: -log P is log(2) per token.
    trainer, batch, size = by_hand(tmp_path, FROM_ENV, likelihood_weight=0.25)
    loss = trainer.compute_loss(trainer.model, batch)
    assert loss.item() == pytest.approx(math.log(1 + size**-0.5) + 0.25 * math.log(2), rel=1e-4)


def test_the_environments_tokens_have_no_part_in_the_gradient(tmp_path: Path) -> None:
    found = []
    for from_env in (FROM_ENV, A, B):  # as likely as any, and those that the model is taught
        trainer, batch, _ = by_hand(tmp_path, from_env)
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        found.append((loss.item(), trainer.model.lm_head.weight.grad))
    assert len({loss for loss, _ in found}) == 1
    assert all(torch.equal(gradient, found[0][1]) for _, gradient in found)
    gradient = found[0][1][:, 0]
    assert gradient[A] < 0 < gradient[B], "a step makes the chosen token likelier, and the rejected one less so"


def test_padding_and_the_environment_are_outside_of_completions() -> None:
    rows = [
        {"prompt_ids": [1], "chosen_ids": [2, 3], "chosen_mask": [1, 0], "rejected_ids": [4], "rejected_mask": [1]},
        {"prompt_ids": [5, 6], "chosen_ids": [7], "chosen_mask": [1], "rejected_ids": [8, 9], "rejected_mask": [0, 1]},
    ]
    batch = PadPairs(0)(rows)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 0], [5, 6, 7, 0], [1, 4, 0, 0], [5, 6, 8, 9]]
    assert batch["completion_mask"].tolist() == [[0, 1, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]
    assert count_preferred(rows) == 4


def episode(ids: list[int], mask: list[int], reward: float | None) -> Sample:
    t = Trajectory(TaskId("e/E-v0", "train", 0), "k", [1], ids, mask, outcome=reward or 0.0, stop="answer")
    return Sample(t, 0, reward)


def test_pairs_are_right_and_wrong_episodes_once_each() -> None:
    right = [episode([2, i], [1, 1], 1.0) for i in (3, 3, 4, 5)]
    wrong = [episode([6, 7, i], [1, 0, 1], 0.0) for i in (3, 4)]
    neither = [episode([9], [1], None), episode([], [], 0.0)]
    rows = pairs([*neither, *right, *wrong], 8)
    assert [(row["chosen_ids"], row["rejected_ids"]) for row in rows] == [([2, 3], [6, 7, 3]), ([2, 4], [6, 7, 4])]
    assert [row["rejected_mask"] for row in rows] == [[1, 0, 1]] * 2
    assert len(pairs([*right, *wrong], 1)) == 1
    assert pairs(right, 8) == pairs([*wrong, *neither], 8) == []


def run(settings: DPOSettings) -> dict[str, Any]:
    with RunFolder(settings.out, "dpo", settings) as folder:
        prefer_right(settings, folder)
    manifest: dict[str, Any] = json.loads((settings.out / "manifest.json").read_text(encoding="utf-8"))
    return manifest


def settings_for(organism: Path, out: Path, **more: Any) -> DPOSettings:
    chosen: dict[str, Any] = {"prompts": 16, "group_size": 4, "max_tokens": 12, "batch_size": 8, "lr": 1e-3}
    chosen |= {"model": str(organism), "env": "test/Vowels-v0", "out": out, "track": "none"}
    return DPOSettings(**(chosen | more))


def margins(model: Any, rows: list[dict[str, Any]]) -> torch.Tensor:
    """Return log P(chosen) - log P(rejected) of each row, of the model's own tokens, without TRL."""
    sums = []
    for side in SIDES:
        values = token_logprobs(model, [r["prompt_ids"] for r in rows], [r[f"{side}_ids"] for r in rows])[0]
        masks = [r[f"{side}_mask"] for r in rows]
        sums.append(torch.tensor([v[: len(m)] @ np.array(m) for v, m in zip(values, masks, strict=True)]))
    return sums[0] - sums[1]


def test_a_run_raises_the_margin_and_says_what_it_cost(
    organism: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[dict[str, Any]] = []

    def kept(group: list[Sample], most: int) -> Any:
        learned.extend(rows := pairs(group, most))
        return rows

    monkeypatch.setattr("palestra.rl.dpo.pairs", kept)
    manifest = run(settings_for(organism, tmp_path / "dpo", epochs=2))
    cost, (first,) = manifest["cost"], manifest["history"]
    assert any(0 in row["chosen_mask"] + row["rejected_mask"] for row in learned), "no episode has two turns"
    before, after = (margins(load_model(str(path)).model, learned) for path in (organism, tmp_path / "dpo"))
    assert (after - before).mean() > 1
    assert (after > before).float().mean() > 0.8
    assert first["rewards/margins"] > 0
    assert (cost["rounds"], cost["episodes_sampled"]) == (1, 64)
    assert cost["optimiser_steps"] == 2 * -(-len(learned) // 8)
    assert cost["tokens_trained"] == 2 * count_preferred(learned)
    assert 0 < cost["tokens_sampled"] < 64 * 24
    assert cost["seconds"] > 0
    assert not (tmp_path / "dpo" / "rounds").exists()


def test_a_run_goes_on_after_its_last_round(organism: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small: dict[str, Any] = {"prompts": 4, "rounds": 2}
    whole = run(settings_for(organism, tmp_path / "whole", **small))
    settings = settings_for(organism, tmp_path / "killed", **small)

    class KilledError(Exception):
        pass

    def killed(*arguments: Any) -> None:
        if arguments[-1] == 1:
            raise KilledError
        return train(*arguments)

    from palestra.rl.dpo import _train as train

    with monkeypatch.context() as patch:
        patch.setattr("palestra.rl.dpo._train", killed)
        with pytest.raises(KilledError):
            run(settings)
    again = run(settings)
    assert again["resumed_from"] == 1
    assert again["cost"]["tokens_trained"] == whole["cost"]["tokens_trained"]
    assert [r["logps/chosen"] for r in again["history"]] == [r["logps/chosen"] for r in whole["history"]]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]


def test_the_samples_are_those_of_rejection_sampling(
    organism: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("palestra.rl.dpo._train", lambda *rest: (0, {}))
    monkeypatch.setattr("palestra.rl.rft._train", lambda *rest: 0)
    settings = settings_for(organism, tmp_path / "dpo", prompts=4)
    sampled = run(settings)["history"][0]
    shared = settings.model_dump(include=set(RFTSettings.model_fields) - {"out", "lr"})
    rft = RFTSettings(**shared, out=tmp_path / "rft")
    with RunFolder(rft.out, "rft", rft) as folder:
        fine_tune_on_own(rft, folder)
    again = folder.manifest["history"][0]
    assert all(sampled[name] == again[name] for name in ("tokens_sampled", "outcome_before_filter", "turns"))


@pytest.mark.parametrize(("paid", "says"), [(0.0, "8 of 8 were never solved .* begin with"), (1.0, "a harder")])
def test_tasks_without_both_outcomes_are_a_sentence(
    organism: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paid: float, says: str
) -> None:
    monkeypatch.setattr("palestra.rl.rounds.SamplerSettings", partial(SamplerSettings, reward=lambda t, seed: paid))
    with pytest.raises(PalestraError, match=f"no task had both a right and a wrong episode .*{says}"):
        run(settings_for(organism, tmp_path / "run", prompts=8))
