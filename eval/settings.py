"""Settings of `palestra eval`: the keys of a recipe file, and the flags of the command line."""

import re
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    field_validator,
    model_validator,
)

PROBLEMS = 100
"""Problems of a variant where none are asked for."""
DEFAULT_ENGINE: Final = "transformers"
SERVED = "openai:"
"""What stands before the name of a model behind a server."""
POLICIES = ("oracle", "random")
"""Model names that need no model."""


class EvalSettings(BaseModel):
    """What to sample, from which model, and how."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    model: str = Field(
        description="organism name, folder, or hub id; `openai:NAME` behind a server; or the policies `oracle` and "
        "`random`"
    )
    env: str = Field(description="environment id")
    variant: tuple[str, ...] = Field(("test",), description="variant to evaluate; repeat the flag for several")

    @field_validator("variant", "ban", mode="before")
    @classmethod
    def _once(cls, given: object) -> object:
        """Take one name or several, each once."""
        names = [given] if isinstance(given, str) else given
        return tuple(dict.fromkeys(names)) if isinstance(names, list | tuple) else names

    samples: PositiveInt = Field(64, description="episodes per problem")
    problems: PositiveInt | None = Field(
        None, description=f"distinct problems per variant [default: {PROBLEMS}, or all where there are fewer]"
    )
    out: Path = Field(description="folder of the run; an existing run is resumed")
    seed: NonNegativeInt = Field(0, description="seeds every sample, independent of order and of resuming")
    temperature: NonNegativeFloat = Field(1.0, le=100, description="sampling temperature; 1 measures the model itself")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus mass; 1 measures the model itself")
    max_tokens: PositiveInt = Field(64, description="most tokens per turn")
    ban: tuple[str, ...] = Field(
        (), description="word or sign whose tokens are never sampled, for `palestra aha --without`; repeatable"
    )
    concurrency: PositiveInt = Field(512, description="episodes in flight")
    sandbox: str = Field(
        "local", description="where tools run code: local, docker, e2b or unsafe-process (no isolation)"
    )
    base_url: str | None = Field(
        None, description="address of the server of an `openai:` model [default: OPENAI_BASE_URL]"
    )
    engine: Literal["transformers", "vllm"] = Field(DEFAULT_ENGINE, description="what samples a model of this process")
    power_alpha: float | None = Field(
        None,
        gt=0,
        description="draw turns from the model's probability to this power (arXiv 2510.14901); 4 is usual. The rest "
        "of a turn is drawn anew --power-moves times per block: 7 times the tokens of short turns, more of long ones",
    )
    power_block: PositiveInt = Field(16, description="power sampling: tokens by which its limit grows")
    power_moves: PositiveInt = Field(10, description="power sampling: moves at each limit")
    shard: str | None = Field(
        None, description="I/N draws the I-th of N parts of the samples (0 to N-1); `palestra merge` joins them"
    )

    @field_validator("shard")
    @classmethod
    def _part(cls, shard: str | None) -> str | None:
        if shard is not None:
            found = re.fullmatch(r"(\d+)/(\d+)", shard)
            if not found or not int(found[1]) < int(found[2]):
                raise ValueError("a shard is I/N with 0 <= I < N, e.g. 0/4")
        return shard

    @model_validator(mode="after")
    def _served(self) -> Self:
        if self.base_url is not None and not self.served:
            raise ValueError(f"base_url is for models named {SERVED}NAME")
        without = self.served or self.model in POLICIES
        if self.power_alpha is not None and (without or self.temperature != 1.0 or self.top_p != 1.0):
            raise ValueError("power sampling takes a model in this process at temperature 1 and top_p 1")
        if self.engine == "vllm" and (self.served or self.power_alpha is not None):
            raise ValueError("engine=vllm is for a model in this process, without power sampling")
        if self.ban and (self.served or not all(word.strip() for word in self.ban)):
            raise ValueError("ban takes words or signs, and a model in this process")
        return self

    @property
    def sampling(self) -> dict[str, Any]:
        """What is recorded of how turns are drawn; runs are compared if it agrees."""
        settings = self.model_dump(include={"temperature", "top_p", "max_tokens"})
        if self.ban:
            settings["banned"] = sorted(self.ban)
        if self.power_alpha is not None:
            settings["power"] = {"alpha": self.power_alpha, "block": self.power_block, "moves": self.power_moves}
        return settings

    @property
    def served(self) -> bool:
        """Whether the model is behind a server."""
        return self.model.startswith(SERVED)

    def in_shard(self, sample: int) -> bool:
        """Tell whether a sample, by its number within its problem, is in this part of the run."""
        if self.shard is None:
            return True
        part, parts = map(int, self.shard.split("/"))
        return sample % parts == part
