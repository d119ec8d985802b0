"""Shared fixtures. Tests never reach for a network."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from palestra.envs import registry

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

TINY = """
name: tiny
model: {layers: 2, width: 48, heads: 4, context: 96}
training: {steps: 150, batch_size: 32, learning_rate: 5.0e-3}
mixture:
  - {env: palestra/StringCompose-v0, variant: train-atoms, weight: 1}
"""


@pytest.fixture(autouse=True)
def own_registrations() -> Iterator[None]:
    """Forget the environments that a test registers: other tests go through all there are."""
    known = {spec.id: spec for spec in registry.specs()}
    yield
    registry._SPECS.clear()
    registry._SPECS.update(known)


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An organism recipe that trains in a few seconds."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def organism(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Path) -> Path:
    """A tiny organism that knows the protocol of StringCompose and little else; built once for all test processes."""
    from filelock import FileLock

    from palestra.rl.organisms.build import build
    from palestra.rl.organisms.recipe import load_recipe

    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder, built = shared / "organism" / "tiny", shared / "organism.built"
    with FileLock(shared / "organism.lock"):
        if not built.exists():
            build(load_recipe(str(tiny_recipe)), 0, folder)
            built.touch()
    return folder
