"""Direct preference optimisation (arXiv 2305.18290) on the samples of `rft`: right episodes against wrong ones.

TRL's DPOTrainer takes text, and counts all that follows the prompt as the completion. Two things are changed, and
the loss is TRL's own: rows are token ids as sampled, and its `completion_mask` leaves out what the environment wrote,
which then is context that has no part in either log-probability. The reference is the model that sampled the pairs.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from palestra.agents.codec import ChatCodec
from palestra.agents.models import LoadedModel
from palestra.rl.progress import ProgressCallback
from palestra.rl.rounds import Learner, Rows, distinct, learn_in_rounds, round_arguments
from palestra.rl.rundir import RunFolder
from palestra.rl.sampler import Sample
from palestra.rl.settings import DPOSettings

SIDES = ("chosen", "rejected")
NOTED = ("loss", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected")
"""What is kept of the last step of a round."""


def prefer_right(settings: DPOSettings, run: RunFolder) -> None:
    """Train the model to prefer its own right episodes to its wrong ones; raises as `learn_in_rounds`."""

    def learner(loaded: LoadedModel, codec: ChatCodec) -> Learner:
        reference = copy.deepcopy(loaded.model)  # now: TRL binds the forward pass of what it trains to the instance
        return Learner(
            rows=lambda group: pairs(group, settings.keep),
            nothing=_nothing,
            tokens=count_preferred,
            train=lambda rows, number: _train(rows, settings, run, loaded, reference, codec, number),
        )

    learn_in_rounds(settings, run, learner)


def pairs(group: list[Sample], most: int) -> Rows:
    """Return at most `most` rows of a right and a wrong episode of one task, each episode in one row only."""
    right, wrong = distinct(group, 1.0), distinct(group, 0.0)
    return [_row(chosen, rejected) for chosen, rejected in zip(right, wrong, strict=False)][:most]


def count_preferred(rows: Rows) -> int:
    """Count the tokens whose log-probabilities are compared."""
    return sum(sum(row[f"{side}_mask"]) for row in rows for side in SIDES)


class PadPairs(DataCollatorForPreference):
    """TRL's collator, with the environment's tokens out of the completions: all chosen rows, then all rejected."""

    def torch_call(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Pad a batch."""
        batch: dict[str, Any] = super().torch_call(examples)
        masks = [[0] * len(row["prompt_ids"]) + row[f"{side}_mask"] for side in SIDES for row in examples]
        for place, mask in zip(batch["completion_mask"], masks, strict=True):
            place[: len(mask)] = torch.tensor(mask)
        return batch


class TokenDPOTrainer(DPOTrainer):
    """DPO on rows of `prompt_ids`, `chosen_ids`, `rejected_ids` and the masks of the latter two."""

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset  # TRL would render and encode text


def loss_of(settings: DPOSettings) -> dict[str, Any]:
    """Return TRL's arguments for the loss."""
    if not settings.likelihood_weight:
        return {"beta": settings.beta}
    weights = [1.0, settings.likelihood_weight]
    return {"beta": settings.beta, "loss_type": ["sigmoid", "sft"], "loss_weights": weights}


def dpo_trainer(
    rows: Rows, model: Any, reference: Any, tokenizer: Any, codec: ChatCodec, config: DPOConfig, callbacks: list[Any]
) -> TokenDPOTrainer:
    """Return TRL's trainer on the rows of `pairs`."""
    config.remove_unused_columns = False  # the masks are none of those that TRL knows
    trainer = TokenDPOTrainer(
        model=model,
        ref_model=reference,
        processing_class=tokenizer,
        args=config,
        train_dataset=Dataset.from_list(rows),
        data_collator=PadPairs(codec.pad_id),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _row(chosen: Sample, rejected: Sample) -> dict[str, list[int]]:
    row = {"prompt_ids": chosen.trajectory.prompt_ids}
    for side, sample in zip(SIDES, (chosen, rejected), strict=True):
        row[f"{side}_ids"], row[f"{side}_mask"] = sample.trajectory.completion_ids, sample.trajectory.mask
    return row


def _nothing(groups: list[list[Sample]]) -> str:
    solved = sum(all(s.reward == 1.0 for s in group) for group in groups)
    failed = sum(not any(s.reward == 1.0 for s in group) for group in groups)
    advice = "an easier variant, or begin with `palestra sft`" if failed >= solved else "a harder variant"
    return (
        f"no task had both a right and a wrong episode ({failed} of {len(groups)} were never solved and {solved} "
        f"always), so there is no pair to learn from; raise --group-size or --prompts, take {advice}"
    )


def _train(
    rows: Rows,
    settings: DPOSettings,
    run: RunFolder,
    loaded: LoadedModel,
    reference: Any,
    codec: ChatCodec,
    number: int,
) -> tuple[int, dict[str, float]]:
    reference.load_state_dict(loaded.model.state_dict())
    shown = {"loss": "loss", "rewards/margins": "margin", "rewards/accuracies": "ranked right"}
    trainer = dpo_trainer(
        rows,
        loaded.model,
        reference,
        loaded.tokenizer,
        codec,
        DPOConfig(**round_arguments(settings, run, len(rows), number), **loss_of(settings)),
        [ProgressCallback(f"dpo {settings.env}, round {number + 1}", shown)],
    )
    trainer.train()
    last = [row for row in trainer.state.log_history if "rewards/margins" in row][-1]
    return int(trainer.state.global_step), {name: last[name] for name in NOTED}
