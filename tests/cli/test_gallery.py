"""`palestra envs`: the list, and the gallery page, which must be what the code says now."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from palestra.cli.envs import suite
from palestra.cli.gallery import page, section, suite_section
from palestra.cli.main import app
from palestra.envs import make, specs
from palestra.envs.errors import UsageError

PAGE = Path(__file__).parents[2] / "docs" / "gallery.md"
OURS = [spec for spec in specs() if spec.id.startswith("palestra/")]
SINGLE = [spec for spec in OURS if suite(spec.id) is None]
STALE = "docs/gallery.md is not what the code says; run `palestra envs --gallery docs/gallery.md`"

beside_the_source = pytest.mark.skipif(not PAGE.is_file(), reason="runs beside the source tree only")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["envs", *map(str, arguments)])


@beside_the_source
@pytest.mark.parametrize("spec", [s for s in SINGLE if not make(s.id).blocking], ids=lambda spec: str(spec.id))
def test_the_gallery_shows_each_environment_as_it_is(spec) -> None:
    assert section(spec) in PAGE.read_text(encoding="utf-8"), STALE


@beside_the_source
def test_the_gallery_shows_the_suites_as_they_are() -> None:
    written = PAGE.read_text(encoding="utf-8")
    for name in {suite(spec.id) for spec in OURS} - {None}:
        assert suite_section(name, [spec for spec in OURS if suite(spec.id) == name]) in written, STALE


@beside_the_source
@pytest.mark.sandbox
def test_the_whole_gallery_is_what_the_code_says() -> None:
    assert page() == PAGE.read_text(encoding="utf-8"), STALE


def test_the_gallery_is_written_where_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palestra.cli.gallery.page", lambda: "a page\n")
    assert run("--gallery", tmp_path / "g.md").exit_code == 0
    assert (tmp_path / "g.md").read_text(encoding="utf-8") == "a page\n"
    assert isinstance(run("--gallery", tmp_path / "no" / "g.md").exception, UsageError)


def test_json_tells_what_the_environment_is() -> None:
    rows = {row["id"]: row for row in json.loads(run("--json").stdout)}
    dice = rows["palestra/Dice-v0"]
    assert dice["tools"] == ["calculator"]
    assert dice["max_turns"] == 4
    assert dice["process_terms"]["reduced"]["high"] == 1.0
    assert "arXiv 2505.24760" in dice["source"]
    assert len(rows) == len(specs())


def test_a_pattern_selects_by_id_or_description() -> None:
    assert [r["id"] for r in json.loads(run("palestra/D*", "--json").stdout)] == ["palestra/Dice-v0"]
    assert "palestra/Dice-v0" in run("REDUCED FRACTION").stdout
    error = run("no such thing").exception
    assert isinstance(error, UsageError)
    assert "no environment matches 'no such thing'" in str(error)


@pytest.mark.skipif(len(OURS) == len(SINGLE), reason="no suite is adapted")
def test_a_suite_is_one_line_unless_it_is_asked_for() -> None:
    assert "palestra/rg/..." in run().stdout
    assert "palestra/rg/dice-v0" not in run().stdout
    assert "palestra/rg/dice-v0" in run("--all").stdout
    assert "palestra/rg/dice-v0" in run("palestra/rg/*").stdout
