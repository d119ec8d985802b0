"""Settings of the training commands: the keys of a recipe file, and the flags of the command line."""

from pathlib import Path
from typing import Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

Tracker = Literal["tensorboard", "trackio", "none"]


class RunSettings(BaseModel):
    """What `sft` and `train` have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model: str = Field(description="organism name, folder, or hub id to start from")
    env: str = Field(description="environment id")
    variant: str = Field("train", description="variant to train on")
    out: Path = Field(description="folder for checkpoints and the final model")
    seed: NonNegativeInt = Field(0, description="seeds tasks, sampling and initialisation")
    sandbox: str = Field(
        "local", description="where tools run code: local, docker, e2b or unsafe-process (no isolation)"
    )
    save_every: PositiveInt = Field(50, description="steps between checkpoints")
    track: Tracker = Field("tensorboard", description="where metrics go, besides the console")


class SFTSettings(RunSettings):
    """Supervised fine-tuning on the environment's demonstrations."""

    episodes: PositiveInt = Field(10_000, description="demonstrations to train on, each of a task of its own")
    epochs: PositiveInt = Field(1, description="passes over them")
    batch_size: PositiveInt = Field(64, description="demonstrations per optimiser step")
    lr: PositiveFloat = Field(1e-4, description="AdamW learning rate, linear decay")


class TrainSettings(RunSettings):
    """Reinforcement learning in the environment."""

    algo: Literal["grpo", "dapo"] = Field("grpo", description="grpo, or dapo (clip-higher, dynamic sampling)")
    reward: Literal["outcome", "process", "both"] = Field("outcome", description="which rewards make advantages")
    process_weight: NonNegativeFloat = Field(0.5, description="weight of process advantages with reward=both")
    steps: PositiveInt = Field(100, description="optimiser steps, one sampled batch each")
    prompts: PositiveInt = Field(16, description="tasks per step")
    group_size: int = Field(8, ge=2, description="episodes per task")
    lr: PositiveFloat = Field(1e-4, description="AdamW learning rate, constant")
    beta: NonNegativeFloat = Field(0.0, description="KL penalty to the starting model")
    temperature: PositiveFloat = Field(1.0, le=100, description="sampling temperature")
    max_tokens: PositiveInt = Field(64, description="most tokens per turn")
    micro_batch: PositiveInt = Field(64, description="episodes per forward and backward pass")
