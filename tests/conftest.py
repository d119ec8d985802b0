"""Shared fixtures. Tests never reach for a network."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

TINY = """
name: tiny
model: {layers: 2, width: 48, heads: 4, context: 96}
training: {steps: 150, batch_size: 32, learning_rate: 5.0e-3}
mixture:
  - {env: palestra/StringCompose-v0, variant: train-atoms, weight: 1}
"""


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An organism recipe that trains in a few seconds."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def build_tiny(tiny_recipe: Path) -> Callable[[Path, int], Path]:
    """Builds the tiny organism in a folder with a seed."""
    from palestra.rl.organisms.build import build
    from palestra.rl.organisms.recipe import load_recipe

    def build_in(folder: Path, seed: int) -> Path:
        build(load_recipe(str(tiny_recipe)), seed, folder)
        return folder

    return build_in


@pytest.fixture(scope="session")
def organism(tmp_path_factory: pytest.TempPathFactory, build_tiny: Callable[[Path, int], Path]) -> Path:
    """A tiny organism that knows the protocol of StringCompose and little else."""
    return build_tiny(tmp_path_factory.mktemp("organism") / "tiny", 0)
