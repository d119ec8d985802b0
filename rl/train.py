"""Reinforcement learning in an environment: GRPO or DAPO on TRL, resumable."""

import logging
import os
from importlib.util import find_spec
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback, TrainerState, set_seed
from trl import GRPOConfig

from palestra.agents.codec import ChatCodec
from palestra.agents.engine import SamplingParams
from palestra.agents.markers import markers_of
from palestra.agents.models import is_adapter, load_model
from palestra.envs.errors import MissingPrerequisiteError, UsageError
from palestra.envs.registry import make
from palestra.rl.cost import WriteCost
from palestra.rl.data import index_stream
from palestra.rl.engines import engine_of
from palestra.rl.processes import sharding, share
from palestra.rl.progress import ProgressCallback
from palestra.rl.reference import ReferenceReset
from palestra.rl.rewards import REWARDS, with_overlong_punishment
from palestra.rl.rundir import MarkComplete, RunFolder
from palestra.rl.sampler import GroupSampler, SamplerSettings
from palestra.rl.settings import RunSettings, StepSettings, TrainSettings
from palestra.rl.state import KeepState, Stateful, Stopwatch
from palestra.rl.trl_trainer import AgentGRPOTrainer
from palestra.rl.validation import Validation, task_stream
from palestra.rl.watch import Watch

logger = logging.getLogger(__name__)

ALGORITHMS: dict[str, dict[str, Any]] = {
    # arXiv 2402.03300: sequence-mean loss, symmetric clip.
    "grpo": {"loss_type": "grpo", "epsilon": 0.2},
    # arXiv 2503.14476: token-level loss, clip-higher; dynamic sampling is the sampler's.
    "dapo": {"loss_type": "dapo", "epsilon": 0.2, "epsilon_high": 0.28},
}
DAPO_ROUNDS = 4
"""Rounds of dynamic sampling before groups without contrast are accepted."""


def train(settings: TrainSettings, run: RunFolder) -> None:
    """Train until `settings.steps`, going on from the last whole checkpoint, and save the model in `run.out`.

    Raises:
        UsageError: The model does not load, or the prompts do not divide into processes.
    """
    episodes = share(settings.prompts, "prompts") * settings.group_size
    micro = next(size for size in range(min(settings.micro_batch, episodes), 0, -1) if episodes % size == 0)
    if sharding() == "DEEPSPEED" and (settings.reset_every or settings.reset_patience):
        raise UsageError("DeepSpeed's weights and optimiser cannot be reset; use rl/recipes/fsdp2.yaml")
    loaded = load_model(settings.model, to_train=True)
    codec = ChatCodec(loaded.tokenizer)
    set_seed(settings.seed)
    sampler = GroupSampler(
        sampler_settings(settings, loaded.max_length), codec, engine_of(settings, codec, loaded.max_length)
    )
    env = make(settings.env, settings.variant)
    validation = (
        Validation(sampler, settings.validate_problems, settings.validate_every) if settings.validate_every else None
    )
    reset = ReferenceReset(settings.reset_every, settings.reset_patience, validation)
    watch = Watch(sampler, env.process_terms, run.out, settings.show_every)
    stopwatch = Stopwatch()
    parts: dict[str, Stateful] = {"sampler": sampler, "reset": reset, "watch": watch, "stopwatch": stopwatch}
    if validation is not None:
        parts["validation"] = validation
    keep = KeepState(parts)

    def cost(state: TrainerState) -> dict[str, Any]:
        return {
            "optimiser_steps": state.global_step,
            "episodes_sampled": sampler.costs["episodes"],
            "tokens_sampled": sampler.costs["tokens"],
            "tokens_trained": sampler.costs["trained"],
            "seconds": round(stopwatch.elapsed(), 1),
        }

    trainer = AgentGRPOTrainer(
        sampler=sampler,
        credit=settings.rule,
        credit_options=credit_options(settings),
        exact=settings.engine == "transformers",
        model=loaded.model,
        processing_class=loaded.tokenizer,
        args=GRPOConfig(
            **common_arguments(settings, run),
            **checkpoint_arguments(settings),
            **ALGORITHMS[settings.algo],
            max_steps=settings.steps,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=episodes // micro,
            num_generations=settings.group_size,
            max_completion_length=loaded.max_length or settings.max_tokens * env.max_turns,
            learning_rate=settings.lr,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=settings.warmup,
            beta=settings.beta,
            temperature=settings.temperature,
            reward_weights=[0.0, 1.0, 0.0],  # the others are for the log
            shuffle_dataset=False,
            log_completions=False,
        ),
        train_dataset=_tasks(settings),
        peft_config=lora(settings.lora_rank) if settings.lora_rank else None,
        # In this order: a step is validated, then perhaps followed by a reset; a checkpoint is whole at the very end.
        callbacks=[
            *filter(None, (validation, reset, watch, stopwatch, keep)),
            WriteCost(cost),
            MarkComplete(),
            _progress(settings),
        ],
    )
    reset.trainer = trainer
    if is_adapter(settings.model):  # TRL knows the base alone
        reset.begin_with(loaded.model)
    if validation is not None:
        validation.trainer = trainer
    trainer.remove_callback(PrinterCallback)
    checkpoint = run.last_checkpoint()
    if checkpoint:
        keep.restore(checkpoint)
        reset.load(checkpoint)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    save(trainer, run)
    if trainer.accelerator.is_main_process:
        _warn_if_flat(trainer.state.log_history)
        run.finish(
            resumed_from=int(checkpoint.name.split("-")[1]) if checkpoint else 0,
            cost=cost(trainer.state),
            resets=reset.resets,
            warnings=watch.warnings,
            history=trainer.state.log_history,
        )


def sampler_settings(settings: TrainSettings, max_length: int | None) -> SamplerSettings:
    """Return what the sampler is to do."""
    dapo = settings.algo == "dapo"
    rule = REWARDS[settings.reward]
    if settings.overlong_cache:
        rule = with_overlong_punishment(rule, settings.max_tokens, settings.overlong_cache)
    return SamplerSettings(
        settings.env,
        settings.variant,
        SamplingParams(max_tokens=settings.max_tokens, temperature=settings.temperature),
        settings.group_size,
        settings.seed,
        max_length,
        rounds=settings.rounds or (DAPO_ROUNDS if dapo else 1),
        reward=rule,
        by_process=settings.by_process,
        filter_cut=dapo if settings.overlong_filter is None else settings.overlong_filter,
        value_rollouts=settings.value_rollouts if settings.rule == "monte-carlo" else 0,
        markers=markers_of(settings.marker),
    )


def credit_options(settings: TrainSettings) -> dict[str, float]:
    """Return what the credit rule is told."""
    weight = settings.process_weight if settings.reward == "both" else float(settings.reward == "process")
    options = {"gamma": settings.gamma, "trace": settings.trace, "dense_steps": settings.dense_steps}
    if settings.rule == "step-groups":
        return {**options, "process_weight": weight}
    return {**options, "weight": weight}


def lora(rank: int) -> Any:
    """Return the configuration of an adapter on all linear layers.

    Raises:
        MissingPrerequisiteError: peft is not installed.
    """
    if find_spec("peft") is None:
        raise MissingPrerequisiteError("--lora-rank needs the package peft: pip install 'palestra[lora]'")
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")


def save(trainer: Any, run: RunFolder) -> None:
    """Save the model in `run.out`: with an adapter merged in, and the adapter beside it."""
    if not hasattr(trainer.accelerator.unwrap_model(trainer.model), "peft_config"):
        trainer.save_model(str(run.out))
        return
    adapter = str(run.out / "adapter")
    trainer.save_model(adapter)
    if trainer.accelerator.is_main_process:
        merged = load_model(adapter, to_train=True)
        merged.model.save_pretrained(run.out)
        merged.tokenizer.save_pretrained(run.out)


def _warn_if_flat(history: list[dict[str, Any]]) -> None:
    flat = [row["frac_reward_zero_std"] for row in history if "frac_reward_zero_std" in row]
    if flat and min(flat) == 1:
        logger.warning(
            "no group of episodes ever differed in reward, so nothing was learned: the model solves none or all of "
            "these tasks; try process terms (--reward both), a larger --group-size, an easier variant, or SFT first"
        )


def common_arguments(settings: RunSettings, run: RunFolder) -> dict[str, Any]:
    """Return the arguments that all training commands give to TRL alike."""
    import torch

    if settings.track == "trackio" and find_spec("trackio") is None:
        raise MissingPrerequisiteError("--track trackio needs the package: pip install 'palestra[trackio]'")
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(run.out / "tensorboard")
    on_gpu = torch.cuda.is_available()
    return {
        "output_dir": str(run.out / "checkpoints"),
        "seed": settings.seed,
        "data_seed": settings.seed,
        "logging_steps": 1,
        "report_to": settings.track,
        "disable_tqdm": True,
        "use_cpu": not torch.accelerator.is_available(),  # else several processes would not find each other
        "bf16": on_gpu,
        "gradient_checkpointing": getattr(settings, "gradient_checkpointing", False),
        "dataloader_pin_memory": on_gpu,
        "max_grad_norm": 1.0,
        "ddp_find_unused_parameters": False,
    }


def checkpoint_arguments(settings: StepSettings) -> dict[str, Any]:
    """Return the arguments that say when TRL writes checkpoints, and how many it keeps."""
    return {
        "save_strategy": "steps",
        "save_steps": settings.save_every,
        "save_total_limit": settings.keep_checkpoints or None,
    }


def _tasks(settings: TrainSettings) -> Dataset:
    stream = index_stream(settings.seed)
    if settings.validate_every:
        stream = task_stream(settings.seed, make(settings.env, settings.variant), held_out=False)
    return Dataset.from_list([{"prompt": str(next(stream))} for _ in range(settings.steps * settings.prompts)])


def _progress(settings: TrainSettings) -> ProgressCallback:
    metrics = {
        "rewards/outcome/mean": "outcome",
        "rewards/process/mean": "process",
        "frac_reward_zero_std": "flat groups",
        "completions/mean_length": "tokens",
        "entropy": "entropy",
        "validation/pass@1": "validation",
    }
    return ProgressCallback(f"{settings.algo} {settings.env}", metrics)
