"""The import mapping of pyproject.toml: every folder with a module is a package of the wheel."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAPPED = {"envs": "palestra.envs", "agents": "palestra.agents", "rl": "palestra.rl", "eval": "palestra.eval"}

pytestmark = pytest.mark.skipif(not (ROOT / "envs").is_dir(), reason="runs beside the source tree only")


def setuptools_section() -> dict[str, object]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"])


def test_every_folder_with_a_module_is_listed() -> None:
    found = {"palestra", "palestra.cli", "palestra.docker"}
    for folder, package in MAPPED.items():
        for module in (ROOT / folder).rglob("*.py"):
            inside = module.parent.relative_to(ROOT / folder).parts
            found.add(".".join([package, *inside]))
    assert set(setuptools_section()["packages"]) == found  # type: ignore[call-overload]


def test_every_package_has_an_init_and_data_is_listed() -> None:
    section = setuptools_section()
    for folder in MAPPED:
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".yaml", ".j2", ".jinja"}:
                package = ".".join([MAPPED[folder], *path.parent.relative_to(ROOT / folder).parts])
                patterns = section["package-data"][package]  # type: ignore[index]
                assert any(path.match(pattern) for pattern in patterns), path
        assert all((p.parent / "__init__.py").is_file() for p in (ROOT / folder).rglob("*.py"))


def test_layers_import_downwards_only() -> None:
    """envs <- agents <- {rl, eval}; eval never imports rl; nothing imports the command line."""
    forbidden = {
        "envs": ("palestra.agents", "palestra.rl", "palestra.eval", "palestra.cli", "torch", "transformers", "trl"),
        "agents": ("palestra.rl", "palestra.eval", "palestra.cli", "trl"),
        "rl": ("palestra.eval", "palestra.cli"),
        "eval": ("palestra.rl", "palestra.cli", "trl"),
    }
    for folder, names in forbidden.items():
        for module in (ROOT / folder).rglob("*.py"):
            for line in module.read_text(encoding="utf-8").splitlines():
                words = line.split()
                if len(words) > 1 and words[0] in {"import", "from"}:
                    assert not any(words[1] == n or words[1].startswith(n + ".") for n in names), (module, line)
