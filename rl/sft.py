"""Supervised fine-tuning on demonstrations: TRL's SFTTrainer on the very tokens a rollout would hold."""

from typing import Any

from datasets import Dataset
from transformers import PrinterCallback, TrainerState, set_seed
from trl import SFTConfig, SFTTrainer

from palestra.agents.codec import ChatCodec
from palestra.agents.models import LoadedModel, load_model
from palestra.envs.registry import make
from palestra.rl.cost import WriteCost
from palestra.rl.data import IGNORE, PadRows, index_stream, solved, training_row
from palestra.rl.processes import share
from palestra.rl.progress import ProgressCallback
from palestra.rl.rundir import MarkComplete, RunFolder
from palestra.rl.settings import SFTSettings
from palestra.rl.state import KeepState, Stopwatch
from palestra.rl.train import checkpoint_arguments, common_arguments


def fine_tune(settings: SFTSettings, run: RunFolder) -> None:
    """Train on `settings.episodes` demonstrations, going on from the last whole checkpoint; save in `run.out`.

    The tasks are those that `train` with the same seed would sample first.

    Raises:
        UsageError: The model does not load.
    """
    loaded = load_model(settings.model, to_train=True)
    codec = ChatCodec(loaded.tokenizer)
    set_seed(settings.seed)
    rows = _rows(settings, codec)
    stopwatch = Stopwatch()
    keep = KeepState({"stopwatch": stopwatch})
    tokens = settings.epochs * count_trained(rows)

    def cost(state: TrainerState) -> dict[str, Any]:
        return {
            "optimiser_steps": state.global_step,
            "demonstrations": settings.episodes,
            "tokens_sampled": 0,
            "tokens_trained": round(tokens * state.global_step / state.max_steps),
            "seconds": round(stopwatch.elapsed(), 1),
        }

    trainer = trainer_on(
        rows,
        loaded,
        codec,
        SFTConfig(
            **common_arguments(settings, run),
            **checkpoint_arguments(settings),
            max_steps=settings.epochs * -(-settings.episodes // settings.batch_size),
            per_device_train_batch_size=share(settings.batch_size, "batch_size"),
            learning_rate=settings.lr,
            lr_scheduler_type="linear",
            max_length=None,
            packing=False,
        ),
        [stopwatch, keep, WriteCost(cost), MarkComplete(), ProgressCallback(f"sft {settings.env}", {"loss": "loss"})],
    )
    checkpoint = run.last_checkpoint()
    if checkpoint:
        keep.restore(checkpoint)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.save_model(str(run.out))
    run.finish(
        resumed_from=int(checkpoint.name.split("-")[1]) if checkpoint else 0,
        cost=cost(trainer.state),
        history=trainer.state.log_history,
    )


def trainer_on(
    rows: list[dict[str, Any]], loaded: LoadedModel, codec: ChatCodec, config: SFTConfig, callbacks: list[Any]
) -> SFTTrainer:
    """Return TRL's trainer on rows of `input_ids` and `labels`."""
    trainer = SFTTrainer(
        model=loaded.model,
        processing_class=loaded.tokenizer,
        args=config,
        train_dataset=Dataset.from_list(rows),
        data_collator=PadRows(codec.pad_id),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def count_trained(rows: list[dict[str, Any]]) -> int:
    """Count the tokens that carry loss."""
    return sum(label != IGNORE for row in rows for label in row["labels"])


def _rows(settings: SFTSettings, codec: ChatCodec) -> list[dict[str, Any]]:
    env = make(settings.env, settings.variant, syntax=codec.syntax)
    stream = index_stream(settings.seed)
    worked = settings.demonstrations == "worked"
    return [training_row(solved(env, codec, next(stream), worked=worked)) for _ in range(settings.episodes)]
