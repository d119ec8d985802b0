"""What an organism is made of, as a YAML file states it."""

import os
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from palestra.envs.config import load_yaml
from palestra.envs.errors import unknown_name

FORMAT = 2
"""Raise when building changes, so that cached organisms are not taken for new ones."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelShape(_Strict):
    """Size of the transformer (Qwen3 architecture)."""

    layers: PositiveInt = 3
    width: PositiveInt = 96
    heads: PositiveInt = 4
    context: PositiveInt = 256
    """Longest episode in tokens."""


class Training(_Strict):
    """How long and how fast it is trained (AdamW, cosine schedule, 5% warm-up)."""

    steps: PositiveInt
    batch_size: PositiveInt = 128
    """Episodes per step."""
    learning_rate: PositiveFloat = 2e-3


class Ingredient(_Strict):
    """One source of episodes."""

    env: str
    variant: str = "train"
    turns: Literal["solve", "shuffled"] = "solve"
    """`solve`: the environment's demonstration. `shuffled`: the demonstration of another task of the same
    variant, played here: the protocol without the skill."""
    weight: PositiveFloat = 1.0
    """Share of the episodes, relative to the other ingredients."""


class OrganismRecipe(_Strict):
    """Everything that decides an organism, but for the seed."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    description: str = ""
    model: ModelShape = ModelShape()
    training: Training
    mixture: tuple[Ingredient, ...] = Field(min_length=1)


def shipped() -> list[str]:
    """Return the names of the recipes that come with Palestra."""
    folder = files("palestra.rl.organisms")
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def load_recipe(name_or_path: str) -> OrganismRecipe:
    """Load a shipped recipe by name, or a YAML file by path.

    Raises:
        UsageError: No such recipe or file, or a key or value in it that is not valid.
    """
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"}:
        return load_yaml(path, OrganismRecipe)
    if name_or_path not in shipped():
        raise unknown_name("organism", name_or_path, shipped())
    text = files("palestra.rl.organisms").joinpath(f"{name_or_path}.yaml").read_text(encoding="utf-8")
    return OrganismRecipe.model_validate(yaml.safe_load(text))


def cache_folder(recipe: OrganismRecipe, seed: int) -> Path:
    """Return where the organism is cached: its name and a digest of the recipe, the seed and the format."""
    home = Path(os.environ.get("PALESTRA_HOME", "~/.cache/palestra")).expanduser()
    digest = sha256(f"{FORMAT}|{seed}|{recipe.model_dump_json()}".encode()).hexdigest()[:10]
    return home / "organisms" / f"{recipe.name}-s{seed}-{digest}"
