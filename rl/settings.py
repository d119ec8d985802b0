"""Settings of the training commands: the keys of a recipe file, and the flags of the command line."""

from pathlib import Path
from typing import Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

Credit = Literal[
    "auto", "outcome", "outcome-no-std", "turn", "step-groups", "return-to-go", "potential", "monte-carlo", "two-phase"
]
"""Names of `palestra.rl.credit.CREDIT_RULES`, spelt out so that the command line need not load numpy."""
Tracker = Literal["tensorboard", "trackio", "none"]


class RunSettings(BaseModel):
    """What the training commands have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    model: str = Field(description="organism name, folder, or hub id to start from")
    env: str = Field(description="environment id")
    variant: str = Field("train", description="variant to train on")
    out: Path = Field(description="folder for checkpoints and the final model")
    seed: NonNegativeInt = Field(0, description="seeds tasks, sampling and initialisation")
    sandbox: str = Field(
        "local", description="where tools run code: local, docker, e2b or unsafe-process (no isolation)"
    )
    track: Tracker = Field("tensorboard", description="where metrics go, besides the console")


class StepSettings(RunSettings):
    """What the commands that write checkpoints have in common."""

    save_every: PositiveInt = Field(50, description="steps between checkpoints")
    keep_checkpoints: NonNegativeInt = Field(
        2, description="how many of the last checkpoints are kept; 0 keeps all, for `palestra checkpoints`"
    )


class SFTSettings(StepSettings):
    """Supervised fine-tuning on the environment's demonstrations."""

    demonstrations: Literal["worked", "answers"] = Field(
        "worked", description="worked: the environment's solution, turn by turn; answers: the final answer alone"
    )
    episodes: PositiveInt = Field(10_000, description="demonstrations to train on, each of a task of its own")
    epochs: PositiveInt = Field(1, description="passes over them")
    batch_size: PositiveInt = Field(64, description="demonstrations per optimiser step")
    lr: PositiveFloat = Field(1e-4, description="AdamW learning rate, linear decay")


class RFTSettings(RunSettings):
    """Rejection-sampling fine-tuning: sample, keep what is right, fine-tune on it, and again."""

    rounds: PositiveInt = Field(5, description="rounds of sampling and fine-tuning")
    token_budget: NonNegativeInt = Field(
        0,
        description="sample at least so many tokens, in more or fewer rounds (to match another arm); 0 for no budget",
    )
    prompts: PositiveInt = Field(512, description="tasks per round")
    group_size: PositiveInt = Field(8, description="episodes per task")
    keep: PositiveInt = Field(4, description="most distinct right episodes per task that are learned from")
    epochs: PositiveInt = Field(1, description="passes over them per round")
    batch_size: PositiveInt = Field(64, description="episodes per optimiser step")
    lr: PositiveFloat = Field(1e-4, description="AdamW learning rate, constant")
    temperature: PositiveFloat = Field(1.0, le=100, description="sampling temperature")
    max_tokens: PositiveInt = Field(64, description="most tokens per turn")


class DPOSettings(RFTSettings):
    """Direct preference optimisation on the samples of `rft`."""

    rounds: PositiveInt = Field(
        1, description="rounds of sampling and training; the reference is the model that sampled the round"
    )
    keep: PositiveInt = Field(
        4, description="most pairs per task: a right and a wrong episode, distinct and each in one pair only"
    )
    batch_size: PositiveInt = Field(64, description="pairs per optimiser step")
    lr: PositiveFloat = Field(1e-5, description="AdamW learning rate, constant")
    beta: PositiveFloat = Field(0.1, description="how strongly the reference holds: a larger one holds more")
    likelihood_weight: NonNegativeFloat = Field(
        0.0,
        description="weight of the right episodes' likelihood beside the preference (arXiv 2404.19733), which keeps "
        "it from falling with that of the wrong ones; 0 is plain DPO",
    )


class TrainSettings(StepSettings):
    """Reinforcement learning in the environment."""

    algo: Literal["grpo", "dapo"] = Field(
        "grpo", description="grpo; or dapo: token-level loss, clip-higher, dynamic sampling, overlong filtering"
    )
    reward: Literal["outcome", "process", "both", "random", "format"] = Field(
        "outcome", description="what makes advantages; random and format are placebos"
    )
    credit: Credit = Field("auto", description="how rewards are assigned to turns; auto is turn where process counts")
    process_weight: NonNegativeFloat = Field(0.5, description="weight of process terms with reward=both")
    gamma: PositiveFloat = Field(1.0, le=1, description="discount per turn, of credit rules that have one")
    trace: NonNegativeFloat = Field(
        0.9, le=1, description="how far credit=potential credits a turn with what follows it; 1 is without bias"
    )
    value_rollouts: PositiveInt = Field(4, description="rollouts per state with credit=monte-carlo")
    dense_steps: NonNegativeInt = Field(0, description="steps before credit=two-phase turns strict")
    steps: PositiveInt = Field(100, description="optimiser steps, one sampled batch each")
    prompts: PositiveInt = Field(16, description="tasks per step")
    group_size: int = Field(8, ge=2, description="episodes per task")
    lr: PositiveFloat = Field(1e-4, description="AdamW learning rate, constant after the warm-up")
    warmup: NonNegativeInt = Field(0, description="steps of linear warm-up")
    beta: NonNegativeFloat = Field(0.0, description="KL penalty to the reference: the starting model, until a reset")
    reset_every: NonNegativeInt = Field(
        0, description="steps between resets of reference and optimiser (ProRL); 0 for none"
    )
    reset_patience: NonNegativeInt = Field(0, description="validations without a new best before such a reset")
    validate_every: NonNegativeInt = Field(0, description="steps between validations; 0 for none")
    validate_problems: PositiveInt = Field(64, description="training tasks kept out for validation")
    temperature: PositiveFloat = Field(1.0, le=100, description="sampling temperature")
    max_tokens: PositiveInt = Field(64, description="most tokens per turn")
    overlong_filter: bool | None = Field(
        None, description="episodes that the token limits cut carry no loss [default: with dapo]"
    )
    overlong_cache: NonNegativeInt = Field(
        0, description="tokens below max_tokens in which a turn is punished for its length (DAPO); 0 for none"
    )
    rounds: PositiveInt | None = Field(
        None, description="rounds of dynamic sampling; 1 for none [default: 4 with dapo, else 1]"
    )
    engine: str = Field(
        "transformers",
        pattern=r"^(transformers|vllm|https?://\S+)$",
        description="what samples: transformers, vllm (in this process), or the address of a `vllm serve`",
    )
    vllm_memory: PositiveFloat = Field(0.4, lt=1, description="share of the GPU's memory for engine=vllm")
    micro_batch: PositiveInt = Field(
        16,
        description="most episodes per forward and backward pass, which are padded to the longest of them; more where "
        "they begin alike, so that no pass is larger than that",
    )
    lora_rank: NonNegativeInt = Field(0, description="train a LoRA adapter of this rank; 0 trains all weights")
    gradient_checkpointing: bool = Field(False, description="trade time for memory")
    marker: tuple[str, ...] = Field(
        (), description="word or sign of back-tracking, counted in the log; repeatable [default: English phrases]"
    )
    show_every: NonNegativeInt = Field(20, description="steps between episodes written to episodes.txt; 0 for none")

    @field_validator("marker", mode="before")
    @classmethod
    def _one_or_several(cls, given: object) -> object:
        return (given,) if isinstance(given, str) else given

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        """Refuse settings that would silently do nothing."""
        for wrong, reason in (
            (self.reset_every and not self.beta, "reset_every resets the reference, which needs beta above 0"),
            (self.reset_patience and not self.beta, "reset_patience resets the reference, which needs beta above 0"),
            (self.reset_patience and not self.validate_every, "reset_patience needs validate_every"),
            ((self.reset_every or self.reset_patience) and self.lora_rank, "resets do not work with lora_rank yet"),
            (self.overlong_cache > self.max_tokens, "overlong_cache must not be larger than max_tokens"),
            (self.credit == "two-phase" and not self.dense_steps, "credit=two-phase needs dense_steps"),
            (
                self.reward == "process" and self.credit in ("monte-carlo", "two-phase"),
                f"credit={self.credit} learns from outcomes; use reward=outcome",
            ),
        ):
            if wrong:
                raise PydanticCustomError("inconsistent", "{reason}", {"reason": reason})
        return self

    @property
    def by_process(self) -> bool:
        """Whether process terms count."""
        return self.reward in ("process", "both") or self.credit == "two-phase"

    @property
    def rule(self) -> str:
        """The name of the credit rule."""
        if self.credit != "auto":
            return self.credit
        return "turn" if self.by_process else "outcome"
