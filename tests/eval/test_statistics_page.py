"""docs/statistics.md and the code agree on what there is."""

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs/statistics.md"
MODULES = sorted((ROOT / "eval/stats").glob("*.py"))

pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="runs beside the source tree only")


def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def test_sections_are_numbered_in_order() -> None:
    numbers = [int(number) for number in re.findall(r"^## (\d+)\. ", page(), re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_references_to_sections_resolve() -> None:
    sections = set(re.findall(r"^## (\d+)\. ", page(), re.MULTILINE))
    assert set(re.findall(r"sections? (\d+)", page())) <= sections
    cited = [n for m in MODULES for n in re.findall(r"statistics\.md, (\d+)(?: and (\d+))?", m.read_text("utf-8"))]
    assert len(cited) >= 15
    assert {number for pair in cited for number in pair if number} <= sections


def test_every_module_that_computes_names_its_section() -> None:
    unnamed = {m.stem for m in MODULES if "docs/statistics.md, " not in m.read_text("utf-8")}
    assert unnamed == {"__init__"}


def test_functions_named_on_the_page_exist() -> None:
    modules = {m.stem: import_module(f"palestra.eval.stats.{m.stem}") for m in MODULES if m.stem != "__init__"}
    named = re.findall(r"`([a-z]+)\.(\w+)", page())
    found = [(module, name) for module, name in named if module in modules]
    assert len(found) >= 25
    assert [f"{module}.{name}" for module, name in found if not hasattr(modules[module], name)] == []
    bare = re.findall(r"`([a-z_0-9]+_[a-z_0-9]+)`", page())
    assert [name for name in bare if not any(hasattr(module, name) for module in modules.values())] == []
