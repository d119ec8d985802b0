"""`palestra check` as a user meets it; what the checks find is tested beside them."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

sys.path.append(str(Path(__file__).parents[1] / "envs" / "checks"))

import broken_envs  # noqa: F401  (registers the toys)

from palestra.cli.main import app
from palestra.envs import checks
from palestra.envs.checks import Report
from palestra.envs.errors import UsageError

QUICK = ("--episodes", "20", "--jobs", "1")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["check", *map(str, arguments)])


def test_a_sound_environment_passes_and_is_measured(tmp_path: Path) -> None:
    result = run("toy/Sound-v0", "--fuzz", "1000", "--json", tmp_path / "c.json", *QUICK)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("passed") == 3
    written = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))
    assert written["settings"]["fuzz"] == 334
    assert [r["variant"] for r in written["reports"]] == ["train", "test", "long"]
    for report in written["reports"]:
        assert report["status"] == "passed"
        assert report["measures"]["oracle_episodes"] == report["measures"]["chance_episodes"] == 20
        assert 334 <= report["measures"]["fuzz"]["actions"] <= 336
        assert report["measures"]["step_us"]["p50"] > 0


def test_what_is_wrong_gets_a_sentence_and_exit_code_1() -> None:
    result = run("toy/PaysEmpty-v0", "--variant", "test", "--fuzz", "50", *QUICK)
    assert result.exit_code == 1
    assert "FAILED: hacking" in result.stdout
    sentence = next(line for line in result.stdout.splitlines() if line.startswith("toy/PaysEmpty-v0 test: hacking: "))
    assert "the empty answer is paid (40 of 40 tasks" in sentence
    assert "make `grade` refuse" in sentence


@pytest.mark.slow
def test_without_a_sandbox_nothing_is_said_about_an_environment_that_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = run("palestra/Counting-v0", "--variant", "test", "--fuzz", "10", "--budget", "1", *QUICK)
    assert result.exit_code == 1
    assert "palestra/Counting-v0 test: not run: " in result.stdout
    assert "bubblewrap" in result.stdout


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `check` was asked for; nothing is played, and what needs more cannot be."""
    calls: list[dict[str, Any]] = []

    def fake(env_ids: list[str], **named: Any) -> list[Report]:
        calls.append({"env_ids": env_ids, **named})
        return [Report(e, "test", not_run="it is not installed" if "NeedsMore" in e else None) for e in env_ids]

    monkeypatch.setattr(checks, "check", fake)
    return calls


def test_what_cannot_run_is_not_passed_unless_that_is_allowed(asked: list[dict[str, Any]]) -> None:
    result = run("toy/NeedsMore-v0", "--variant", "test")
    assert result.exit_code == 1
    assert "toy/NeedsMore-v0 test: not run: it is not installed" in result.stdout
    assert "passed" not in result.stdout
    assert run("toy/NeedsMore-v0", "--variant", "test", "--allow-not-run").exit_code == 0


def test_a_pattern_stands_for_what_it_matches(asked: list[dict[str, Any]]) -> None:
    assert run("toy/[SC]o[ui]n*", "toy/Coin-v0").exit_code == 0
    assert asked[0]["env_ids"] == ["toy/Coin-v0", "toy/Sound-v0"]


def test_all_takes_the_environments_that_have_the_variant(asked: list[dict[str, Any]]) -> None:
    run("--all", "--variant", "long", "--fuzz", "5000", "--seed", "3", "--jobs", "1")
    assert "toy/Sound-v0" in asked[0]["env_ids"]
    assert "toy/Coin-v0" not in asked[0]["env_ids"]
    assert asked[0]["settings"].fuzz == -(-5_000 // len(asked[0]["env_ids"]))
    assert asked[0]["settings"].seed == 3


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "name environments"),
        (["toy/Sound-v0", "--all"], "or give --all"),
        (["toy/Sund-v0"], "did you mean 'toy/Sound-v0'"),
        (["toy/Sound-v0", "--variant", "tset"], "did you mean 'test'"),
        (["toy/Sound-v0", "toy/Coin-v0", "--variant", "long"], "unknown variant of toy/Coin-v0 'long'"),
        (["--all", "--variant", "no-such-variant"], "no-such-variant"),
        (["nothing/*"], "no environment matches 'nothing/*'"),
        (["toy/Sound-v0", "--json", "/proc/no/such.json"], "cannot write '/proc/no/such.json'"),
        (["toy/Sound-v0", "--sandbox", "lcal"], "did you mean 'local'"),
    ],
)
def test_wrong_usage_is_said_before_anything_is_played(arguments: list[str], part: str) -> None:
    error = run(*arguments).exception
    assert isinstance(error, UsageError)
    assert error.exit_code == 2
    assert part in str(error)
