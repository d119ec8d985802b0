"""Settings of `palestra eval`: the keys of a recipe file, and the flags of the command line."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt, field_validator


class EvalSettings(BaseModel):
    """What to sample, from which model, and how."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model: str = Field(description="organism name, folder, or hub id; or the policies `oracle` and `random`")
    env: str = Field(description="environment id")
    variant: tuple[str, ...] = Field(("test",), description="variant to evaluate; repeat the flag for several")

    @field_validator("variant", mode="before")
    @classmethod
    def _once(cls, variants: object) -> object:
        """Take one name or several, each once."""
        names = [variants] if isinstance(variants, str) else variants
        return tuple(dict.fromkeys(names)) if isinstance(names, list | tuple) else names

    samples: PositiveInt = Field(64, description="episodes per problem")
    problems: PositiveInt = Field(100, description="distinct problems per variant")
    out: Path = Field(description="folder of the run; an existing run is resumed")
    seed: NonNegativeInt = Field(0, description="seeds every sample, independent of order and of resuming")
    temperature: NonNegativeFloat = Field(1.0, le=100, description="sampling temperature; 1 measures the model itself")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus mass; 1 measures the model itself")
    max_tokens: PositiveInt = Field(64, description="most tokens per turn")
    concurrency: PositiveInt = Field(512, description="episodes in flight")
    sandbox: str = Field(
        "local", description="where tools run code: local, docker, e2b or unsafe-process (no isolation)"
    )
