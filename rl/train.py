"""Reinforcement learning in an environment: GRPO or DAPO on TRL, resumable."""

import logging
import os
import time
from importlib.util import find_spec
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback, set_seed
from trl import GRPOConfig

from palestra.agents.codec import ChatCodec
from palestra.agents.engine import SamplingParams
from palestra.agents.models import load_model
from palestra.envs.errors import MissingPrerequisiteError, UsageError
from palestra.envs.registry import make
from palestra.rl.data import index_stream
from palestra.rl.progress import ProgressCallback
from palestra.rl.rundir import MarkComplete, RunFolder
from palestra.rl.sampler import GroupSampler
from palestra.rl.settings import RunSettings, TrainSettings
from palestra.rl.trl_trainer import AgentGRPOTrainer

logger = logging.getLogger(__name__)

ALGORITHMS: dict[str, dict[str, Any]] = {
    # arXiv 2402.03300: sequence-mean loss, symmetric clip.
    "grpo": {"loss_type": "grpo", "epsilon": 0.2},
    # arXiv 2503.14476: token-level loss, clip-higher; dynamic sampling is the sampler's.
    "dapo": {"loss_type": "dapo", "epsilon": 0.2, "epsilon_high": 0.28},
}
WEIGHTS = {"outcome": (1.0, 0.0), "process": (0.0, 1.0)}


def train(settings: TrainSettings, run: RunFolder) -> None:
    """Train until `settings.steps`, going on from the last whole checkpoint, and save the model in `run.out`.

    Raises:
        UsageError: The model does not load, or the batch does not divide into micro-batches.
    """
    episodes = settings.prompts * settings.group_size
    micro = min(settings.micro_batch, episodes)
    if episodes % micro:
        raise UsageError(f"prompts x group_size ({episodes}) must be a multiple of micro_batch ({micro})")
    outcome_weight, process_weight = WEIGHTS.get(settings.reward, (1.0, settings.process_weight))
    loaded = load_model(settings.model, to_train=True)
    codec = ChatCodec(loaded.tokenizer)
    set_seed(settings.seed)
    sampler = GroupSampler(
        settings.env,
        settings.variant,
        codec,
        SamplingParams(max_tokens=settings.max_tokens, temperature=settings.temperature),
        settings.group_size,
        settings.seed,
        loaded.max_length,
        dynamic=settings.algo == "dapo",
        by_outcome=outcome_weight > 0,
        by_process=process_weight > 0,
    )
    config = GRPOConfig(
        **common_arguments(settings, run),
        **ALGORITHMS[settings.algo],
        max_steps=settings.steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=episodes // micro,
        num_generations=settings.group_size,
        max_completion_length=loaded.max_length
        or settings.max_tokens * make(settings.env, settings.variant).max_turns,
        learning_rate=settings.lr,
        lr_scheduler_type="constant",
        beta=settings.beta,
        temperature=settings.temperature,
        reward_weights=[outcome_weight, process_weight],
        shuffle_dataset=False,
        log_completions=False,
    )
    trainer = AgentGRPOTrainer(
        sampler=sampler,
        outcome_weight=outcome_weight,
        process_weight=process_weight,
        model=loaded.model,
        processing_class=loaded.tokenizer,
        args=config,
        train_dataset=_tasks(settings),
        callbacks=[MarkComplete(), _progress(settings)],
    )
    trainer.remove_callback(PrinterCallback)
    start = time.perf_counter()
    checkpoint = run.last_checkpoint()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.save_model(str(run.out))
    flat = [row["frac_reward_zero_std"] for row in trainer.state.log_history if "frac_reward_zero_std" in row]
    if flat and min(flat) == 1:
        logger.warning(
            "no group of episodes ever differed in reward, so nothing was learned: the model solves none or all of "
            "these tasks; try --reward both, a larger --group-size, or SFT first"
        )
    run.finish(
        episodes=settings.steps * episodes,
        resumed_from=int(checkpoint.name.split("-")[1]) if checkpoint else 0,
        seconds_since_resume=round(time.perf_counter() - start, 1),
        tokens_seen=int(trainer.state.num_input_tokens_seen),
        history=trainer.state.log_history,
    )


def common_arguments(settings: RunSettings, run: RunFolder) -> dict[str, Any]:
    """Return the arguments that `sft` and `train` give to TRL alike."""
    import torch

    if settings.track == "trackio" and find_spec("trackio") is None:
        raise MissingPrerequisiteError("--track trackio needs the package: pip install 'palestra[trackio]'")
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(run.out / "tensorboard")
    on_gpu = torch.cuda.is_available()
    return {
        "output_dir": str(run.out / "checkpoints"),
        "seed": settings.seed,
        "data_seed": settings.seed,
        "save_strategy": "steps",
        "save_steps": settings.save_every,
        "save_total_limit": 2,
        "logging_steps": 1,
        "report_to": settings.track,
        "disable_tqdm": True,
        "bf16": on_gpu,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": on_gpu,
        "max_grad_norm": 1.0,
    }


def _tasks(settings: TrainSettings) -> Dataset:
    stream = index_stream(settings.seed)
    return Dataset.from_list([{"prompt": str(next(stream))} for _ in range(settings.steps * settings.prompts)])


def _progress(settings: TrainSettings) -> ProgressCallback:
    metrics = {
        "rewards/outcome/mean": "outcome",
        "rewards/process/mean": "process",
        "frac_reward_zero_std": "flat groups",
        "completions/mean_length": "tokens",
        "entropy": "entropy",
    }
    return ProgressCallback(f"{settings.algo} {settings.env}", metrics)
