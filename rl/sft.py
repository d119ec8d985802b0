"""Supervised fine-tuning on demonstrations: TRL's SFTTrainer on the very tokens a rollout would hold."""

import time
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback, set_seed
from trl import SFTConfig, SFTTrainer

from palestra.agents.codec import ChatCodec
from palestra.agents.models import load_model
from palestra.envs.registry import make
from palestra.rl.data import PadRows, index_stream, solved, training_row
from palestra.rl.progress import ProgressCallback
from palestra.rl.rundir import MarkComplete, RunFolder
from palestra.rl.settings import SFTSettings
from palestra.rl.train import common_arguments


def fine_tune(settings: SFTSettings, run: RunFolder) -> None:
    """Train on `settings.episodes` demonstrations, going on from the last whole checkpoint; save in `run.out`.

    The tasks are those that `train` with the same seed would sample first.

    Raises:
        UsageError: The model does not load.
    """
    loaded = load_model(settings.model, to_train=True)
    codec = ChatCodec(loaded.tokenizer)
    set_seed(settings.seed)
    steps = settings.epochs * -(-settings.episodes // settings.batch_size)
    config = SFTConfig(
        **common_arguments(settings, run),
        max_steps=steps,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.lr,
        lr_scheduler_type="linear",
        max_length=None,
        packing=False,
    )
    trainer = SFTTrainer(
        model=loaded.model,
        processing_class=loaded.tokenizer,
        args=config,
        train_dataset=Dataset.from_list(_rows(settings, codec)),
        data_collator=PadRows(codec.pad_id),
        callbacks=[MarkComplete(), ProgressCallback(f"sft {settings.env}", {"loss": "loss"})],
    )
    trainer.remove_callback(PrinterCallback)
    start = time.perf_counter()
    checkpoint = run.last_checkpoint()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.save_model(str(run.out))
    run.finish(
        episodes=settings.episodes,
        resumed_from=int(checkpoint.name.split("-")[1]) if checkpoint else 0,
        seconds_since_resume=round(time.perf_counter() - start, 1),
        history=trainer.state.log_history,
    )


def _rows(settings: SFTSettings, codec: ChatCodec) -> list[dict[str, Any]]:
    env = make(settings.env, settings.variant)
    stream = index_stream(settings.seed)
    return [training_row(solved(env, codec, next(stream))) for _ in range(settings.episodes)]
