"""The losses, by TRL's own code as we configure it, against numbers worked out by hand.

A hand-made batch replaces the model's log-probabilities by leaves, so that the gradient of each token can be read.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from trl import GRPOTrainer

from palestra.envs import Reward
from palestra.envs.tasks.string_compose import StringCompose
from palestra.rl.credit import CREDIT_RULES, EpisodeRewards
from palestra.rl.prefix_tree import PrefixTrees
from palestra.rl.rundir import RunFolder
from palestra.rl.settings import TrainSettings
from palestra.rl.train import train
from palestra.rl.trl_trainer import AgentGRPOTrainer

GROUP = 4
TRL_LOGPROBS = GRPOTrainer._get_per_token_logps_and_entropies


class Captured:
    """A trainer after one step, and the batch of that step as TRL and as we made it."""

    trainer: Any
    rows: list[dict[str, Any]]
    ours: dict[str, Any]
    theirs: dict[str, Any]


def capture(organism: Path, out: Path, **more: Any) -> Captured:
    seen = Captured()
    theirs, ours = GRPOTrainer._generate_and_score_completions, AgentGRPOTrainer._generate_and_score_completions

    def record_theirs(self: Any, inputs: Any) -> Any:
        batch = theirs(self, inputs)
        seen.theirs, seen.rows = dict(batch), inputs
        return batch

    def record_ours(self: Any, inputs: Any) -> Any:
        seen.trainer, seen.ours = self, dict(ours(self, inputs))
        return seen.ours

    with pytest.MonkeyPatch.context() as patch:
        # A grader that even a tiny organism satisfies now and then, so that groups have contrast.
        patch.setattr(StringCompose, "grade", lambda self, task, answer: Reward(float(answer > "d")))
        patch.setattr(GRPOTrainer, "_generate_and_score_completions", record_theirs)
        patch.setattr(AgentGRPOTrainer, "_generate_and_score_completions", record_ours)
        settings = TrainSettings(
            model=str(organism),
            env="palestra/StringCompose-v0",
            variant="train-atoms",
            out=out,
            steps=1,
            prompts=4,
            group_size=GROUP,
            micro_batch=16,
            max_tokens=16,
            track="none",
            **more,
        )
        with RunFolder(out, "train", settings) as folder:
            train(settings, folder)
    return seen


@pytest.fixture(scope="module")
def grpo_run(organism: Path, tmp_path_factory: pytest.TempPathFactory) -> Captured:
    return capture(organism, tmp_path_factory.mktemp("grpo") / "run", algo="grpo")


@pytest.fixture(scope="module")
def dapo_run(organism: Path, tmp_path_factory: pytest.TempPathFactory) -> Captured:
    return capture(organism, tmp_path_factory.mktemp("dapo") / "run", algo="dapo")


@pytest.fixture
def grpo(grpo_run: Captured, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    yield from prepared(grpo_run.trainer, monkeypatch)


@pytest.fixture
def dapo(dapo_run: Captured, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    yield from prepared(dapo_run.trainer, monkeypatch)


def prepared(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Whatever a test sets is put back."""
    for name in ("loss_type", "beta", "max_completion_length", "current_gradient_accumulation_steps"):
        monkeypatch.setattr(trainer, name, getattr(trainer, name))
    monkeypatch.setattr(trainer.args, "steps_per_generation", 1)
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    yield trainer


def loss_and_gradient(
    trainer: Any,
    monkeypatch: pytest.MonkeyPatch,
    advantages: list[list[float]],
    ratios: list[list[float]],
    reference: list[list[float]] | None = None,
    tokens: int | None = None,
) -> tuple[float, list[list[float]]]:
    """Return the loss and its gradient by each log-probability.

    Rows are episodes and may be of different lengths; `ratios` are new to old probabilities, `reference` those of
    the reference to the new one, `tokens` those of the generation batch if there are more than these.
    """
    width = max(map(len, ratios))

    def padded(rows: list[list[float]], fill: float) -> torch.Tensor:
        return torch.tensor([row + [fill] * (width - len(row)) for row in rows], dtype=torch.float64)

    new = torch.full((len(ratios), width), math.log(0.1), dtype=torch.float64, requires_grad=True)
    mask = padded([[1.0] * len(row) for row in ratios], 0.0).long()
    monkeypatch.setattr(
        trainer, "_get_per_token_logps_and_entropies", lambda *args, **kwargs: (new, torch.zeros_like(new), None)
    )
    batch = {
        "prompt_ids": torch.ones(len(ratios), 1, dtype=torch.long),
        "prompt_mask": torch.ones(len(ratios), 1, dtype=torch.long),
        "completion_ids": torch.ones_like(mask),
        "completion_mask": mask,
        "advantages": padded(advantages, 0.0),
        "old_per_token_logps": (new - padded(ratios, 1.0).log()).detach(),
        "num_items_in_batch": mask.sum() if tokens is None else torch.tensor(tokens),
    }
    if reference is not None:
        batch["ref_per_token_logps"] = (new + padded(reference, 1.0).log()).detach()
    loss = trainer._compute_loss(trainer.model, batch)
    loss.backward()
    assert new.grad is not None
    return loss.item(), new.grad.tolist()


@pytest.mark.parametrize(
    ("advantage", "ratio", "clipped"),
    [
        # Clip-higher: probable tokens may grow to 1.28 times what they were, and fall to 0.8.
        (1.0, 1.27, False),
        (1.0, 1.29, True),
        (1.0, 0.5, False),  # a good token that became rarer may always come back
        (-1.0, 0.81, False),
        (-1.0, 0.79, True),
        (-1.0, 1.29, False),  # a bad token that became more probable is always pushed down
        (-1.0, 5.0, False),
    ],
)
def test_dapo_clips_at_four_fifths_and_at_128_percent(
    dapo: Any, monkeypatch: pytest.MonkeyPatch, advantage: float, ratio: float, clipped: bool
) -> None:
    # -d(ratio x A)/d(log p) = -ratio x A.
    loss, gradient = loss_and_gradient(dapo, monkeypatch, [[advantage]], [[ratio]])
    bound = min(max(ratio, 0.8), 1.28) if clipped else ratio
    assert loss == pytest.approx(-bound * advantage)
    assert gradient == [[pytest.approx(0.0 if clipped else -ratio * advantage)]]


@pytest.mark.parametrize(
    ("advantage", "ratio", "clipped"), [(1.0, 1.19, False), (1.0, 1.21, True), (-1.0, 0.79, True)]
)
def test_grpo_clips_at_a_fifth_to_both_sides(
    grpo: Any, monkeypatch: pytest.MonkeyPatch, advantage: float, ratio: float, clipped: bool
) -> None:
    _, gradient = loss_and_gradient(grpo, monkeypatch, [[advantage]], [[ratio]])
    assert (gradient == [[0.0]]) == clipped


# One token with advantage 1 against nine with -1, on policy: why DAPO (section 3.3) counts tokens.
UNEVEN = ([[1.0], [-1.0] * 9], [[1.0], [1.0] * 9])


def test_token_level_loss_counts_tokens(dapo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # The objective is (1 x 1 - 9 x 1) / 10 = -0.8, and every token weighs a tenth.
    loss, gradient = loss_and_gradient(dapo, monkeypatch, *UNEVEN)
    assert loss == pytest.approx(0.8)
    assert gradient[0][0] == pytest.approx(-0.1)
    assert gradient[1] == pytest.approx([0.1] * 9)


def test_sequence_mean_loss_counts_episodes(grpo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # The objective is (1 - 1) / 2 = 0, and a token of the long episode weighs a ninth of the short one's.
    loss, gradient = loss_and_gradient(grpo, monkeypatch, *UNEVEN)
    assert loss == pytest.approx(0.0)
    assert gradient[0][0] == pytest.approx(-1 / 2)
    assert gradient[1] == pytest.approx([1 / 18] * 9)


def test_dr_grpo_divides_by_a_constant(grpo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # The objective is (1 - 9) / (2 episodes x 20 tokens), and tokens weigh 1/40 in episodes of any length.
    grpo.loss_type, grpo.max_completion_length = "dr_grpo", 20
    loss, gradient = loss_and_gradient(grpo, monkeypatch, *UNEVEN)
    assert loss == pytest.approx(8 / 40)
    assert gradient[0][0] == pytest.approx(-1 / 40)
    assert gradient[1] == pytest.approx([1 / 40] * 9)


def test_gradient_accumulation_does_not_change_the_token_level_mean(
    dapo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two micro-batches of a generation batch of 10 tokens: each is divided by all 10, not by its own count.
    dapo.current_gradient_accumulation_steps = 2
    dapo.args.steps_per_generation = 2
    parts = [
        loss_and_gradient(dapo, monkeypatch, [advantages], [ratios], tokens=10)[0]
        for advantages, ratios in zip(*UNEVEN, strict=True)
    ]
    assert sum(parts) == pytest.approx(0.8)


@pytest.mark.parametrize("ratio", [0.01, 0.5, 0.999, 1.0, 1.001, 2.0, 100.0])
def test_the_kl_term_is_k3_and_never_negative(grpo: Any, monkeypatch: pytest.MonkeyPatch, ratio: float) -> None:
    # k3 = r - log r - 1 with r = reference / new; for r = 2: 1 - log 2 = 0.3069. Its gradient is 1 - r, and the
    # correction factor new / old, which is 1 here, adds k3 itself.
    grpo.beta = 0.5
    loss, gradient = loss_and_gradient(grpo, monkeypatch, [[0.0]], [[1.0]], [[ratio]])
    k3 = ratio - math.log(ratio) - 1
    assert k3 >= 0
    assert loss == pytest.approx(0.5 * k3, abs=1e-12)
    corrected = k3 if grpo.args.use_bias_correction_kl else 0.0
    assert gradient[0][0] == pytest.approx(0.5 * (1 - ratio + corrected), abs=1e-12)


def test_the_kl_terms_value_for_a_reference_twice_as_sure(grpo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    grpo.beta = 1.0
    assert loss_and_gradient(grpo, monkeypatch, [[0.0]], [[1.0]], [[2.0]])[0] == pytest.approx(0.306853, abs=1e-6)


def test_turns_of_one_episode_can_have_different_advantages(dapo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, gradient = loss_and_gradient(dapo, monkeypatch, [[2.0, 2.0, -1.0, 0.0]], [[1.0] * 4])
    assert gradient[0] == pytest.approx([-0.5, -0.5, 0.25, 0.0])


def gradients(trainer: Any, batch: dict[str, Any]) -> tuple[float, dict[str, torch.Tensor]]:
    trainer.model.zero_grad()
    loss = trainer._compute_loss(trainer.model, batch)
    loss.backward()
    grads = {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}
    trainer.model.zero_grad()
    return loss.item(), grads


def log_probabilities(trainer: Any, batch: dict[str, Any]) -> torch.Tensor:
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    logps, *_ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, batch["completion_ids"].shape[1])
    return logps.detach()


def tokenwise(name: str, seen: Captured) -> torch.Tensor:
    """Advantages of a rule, spread over the tokens of each turn."""
    episodes = [EpisodeRewards(row["outcome"], tuple(reward for *_, reward in row["turns"])) for row in seen.rows]
    advantages = torch.zeros(seen.ours["completion_ids"].shape)
    for i, (row, turns) in enumerate(zip(seen.rows, CREDIT_RULES[name](episodes, GROUP), strict=True)):
        for (start, end, _), advantage in zip(row["turns"], turns, strict=True):
            advantages[i, start:end] = advantage
    return advantages


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
@pytest.mark.parametrize("off_policy", [False, True], ids=["on-policy", "off-policy"])
def test_loss_and_every_gradient_equal_trls_own_for_outcome_credit(
    grpo: Any, grpo_run: Captured, loss_type: str, off_policy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    grpo.loss_type = loss_type
    ours, theirs = dict(grpo_run.ours), dict(grpo_run.theirs)
    assert theirs["advantages"].shape == (16,)
    assert theirs["advantages"].abs().max() > 0.4, "the batch has no contrast: the comparison is empty"
    if loss_type == "dr_grpo":
        outcomes = torch.tensor([row["outcome"] for row in grpo_run.rows]).view(-1, GROUP)
        theirs["advantages"] = (outcomes - outcomes.mean(1, keepdim=True)).view(-1)
        ours["advantages"] = tokenwise("outcome-no-std", grpo_run)
    if off_policy:
        now = log_probabilities(grpo, ours)
        noise = torch.randn(now.shape, generator=torch.Generator().manual_seed(0))
        ours["old_per_token_logps"] = theirs["old_per_token_logps"] = now + 0.2 * noise
    trees: list[PrefixTrees] = []
    read = PrefixTrees.inputs
    monkeypatch.setattr(PrefixTrees, "inputs", lambda self: trees.append(self) or read(self))
    loss, our_gradients = gradients(grpo, ours)
    assert trees, "ours is TRL's own way to compute log-probabilities"
    monkeypatch.setattr(AgentGRPOTrainer, "_get_per_token_logps_and_entropies", TRL_LOGPROBS)
    expected, expected_gradients = gradients(grpo, theirs)
    assert len(trees) == 1
    assert loss == pytest.approx(expected, abs=1e-6)
    assert our_gradients.keys() == expected_gradients.keys()
    largest = max(g.abs().max().item() for g in expected_gradients.values())
    assert largest > 1e-4, "nothing to compare"
    for name, gradient in expected_gradients.items():
        assert (our_gradients[name] - gradient).abs().max() < 1e-6 * min(1.0, largest), name


def test_the_outcome_rule_gives_the_trainers_default_advantages(grpo_run: Captured) -> None:
    assert torch.allclose(tokenwise("outcome", grpo_run), grpo_run.ours["advantages"].cpu(), atol=1e-6)
