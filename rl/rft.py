"""Rejection-sampling fine-tuning: sample, keep the right episodes, fine-tune on the very tokens, and again."""

from trl import SFTConfig

from palestra.agents.codec import ChatCodec
from palestra.agents.models import LoadedModel
from palestra.rl.data import training_row
from palestra.rl.progress import ProgressCallback
from palestra.rl.rounds import Learner, Rows, distinct, learn_in_rounds, round_arguments
from palestra.rl.rundir import RunFolder
from palestra.rl.sampler import Sample
from palestra.rl.settings import RFTSettings
from palestra.rl.sft import count_trained, trainer_on


def fine_tune_on_own(settings: RFTSettings, run: RunFolder) -> None:
    """Fine-tune on the model's own right episodes; raises as `learn_in_rounds`."""

    def learner(loaded: LoadedModel, codec: ChatCodec) -> Learner:
        return Learner(
            rows=lambda group: [training_row(s.trajectory) for s in right(group, settings.keep)],
            nothing=_nothing,
            tokens=count_trained,
            train=lambda rows, number: (_train(rows, settings, run, loaded, codec, number), {}),
        )

    learn_in_rounds(settings, run, learner)


def right(group: list[Sample], most: int) -> list[Sample]:
    """Return the right episodes of a group, each token sequence once, at most `most`."""
    return distinct(group, 1.0)[:most]


def _nothing(groups: list[list[Sample]]) -> str:
    return (
        f"none of the {sum(map(len, groups))} episodes was right, so there is nothing to learn from; "
        "raise --group-size or --prompts, or begin with `palestra sft`"
    )


def _train(
    rows: Rows, settings: RFTSettings, run: RunFolder, loaded: LoadedModel, codec: ChatCodec, number: int
) -> int:
    """Fine-tune on the rows; returns the optimiser steps."""
    trainer = trainer_on(
        rows,
        loaded,
        codec,
        SFTConfig(
            **round_arguments(settings, run, len(rows), number),
            packing=False,
        ),
        [ProgressCallback(f"rft {settings.env}, round {number + 1}", {"loss": "loss"})],
    )
    trainer.train()
    return int(trainer.state.global_step)
