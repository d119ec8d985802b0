"""The command line as a user meets it: help is quick, mistakes get one sentence."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

from palestra.cli.main import main

ENV = "palestra/StringCompose-v0"


def palestra(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "palestra", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)


def user_seconds(*arguments: str) -> tuple[float, subprocess.CompletedProcess[str]]:
    """Run Python and return the CPU time that it took, apart from that of the kernel."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    result = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before, result


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    """Not much more than what lays it out and reads settings, on however slow a machine."""
    ratios = []
    for _ in range(7):
        needed, _ = user_seconds("-X", "importtime", "-c", "import typer.rich_utils, rich.markdown, pydantic")
        shown, result = user_seconds("-X", "importtime", "-m", "palestra", "--help")
        ratios.append(shown / needed)
    loaded = {line.rsplit("|", 1)[1].strip() for line in result.stderr.splitlines() if "|" in line}
    assert not loaded & {
        "torch",
        "transformers",
        "trl",
        "scipy",
        "numpy",
        "gymnasium",
        "datasets",
        "matplotlib",
    }
    assert median(ratios) < 2.5
    assert "quickstart" in result.stdout


@pytest.mark.parametrize(
    "verb",
    [
        "quickstart",
        "doctor",
        "envs",
        "play",
        "new",
        "check",
        "organism",
        "sft",
        "rft",
        "dpo",
        "train",
        "eval",
        "score",
        "merge",
        "confirm",
        "import",
        "compare",
        "aha",
        "plan",
        "exact",
        "view",
    ],
)
def test_every_verb_has_help(verb: str) -> None:
    result = palestra(verb, "--help")
    assert result.returncode == 0
    assert "Usage" in result.stdout


def test_importing_envs_loads_no_torch() -> None:
    code = "import sys, palestra.envs; print([m for m in ('torch', 'transformers', 'trl') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("directory", ["/", "."])
def test_the_readme_line_works_from_any_folder(directory: str) -> None:
    code = "import gymnasium, palestra; e=gymnasium.make('palestra/Dice-v0'); print(e.reset(seed=0)[0])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=directory)
    assert result.stdout.startswith("Roll ")


MISTAKES = [
    (["train", "--model", "string-atoms", "--env", ENV, "--variant", "test", "--out", "x"], "is for evaluation"),
    (
        ["train", "--model", "string-atoms", "--env", "palestra/StringCompose", "--out", "x"],
        "did you mean 'palestra/StringCompose-v0'",
    ),
    (
        ["train", "--model", "string-atoms", "--env", ENV, "--variant", "tranin", "--out", "x"],
        "did you mean 'train'",
    ),
    (["train", "--model", "string-atom", "--env", ENV, "--out", "x"], "did you mean 'string-atoms'"),
    (
        ["train", "--model", "string-atoms", "--env", ENV, "--out", "x"],
        "palestra organism build string-atoms",
    ),
    (["train", "--model", "./nowhere/model", "--env", ENV, "--out", "x"], "there is no model at"),
    (
        ["sft", "--model", "string-atoms", "--env", ENV, "--out", "x", "--lr", "-1"],
        "'lr' in the command line is wrong",
    ),
    (["train", "--env", ENV, "--out", "x"], "--model is missing"),
    (["train", "--config", "missing.yaml"], "cannot read 'missing.yaml'"),
    (["eval", "--model", "oracle", "--env", ENV, "--variant", "tset", "--out", "x"], "did you mean 'test'"),
    (["eval", "--model", "oracle", "--env", ENV, "--out", "/proc/palestra"], "/proc/palestra"),
    (
        ["eval", "--model", "oracle", "--env", "palestra/Dice-v0", "--problems", "100000", "--out", "x"],
        "ask for fewer problems",
    ),
    (
        ["organism", "build", "string-atoms", "--out", "/proc/palestra"],
        "cannot write to the folder '/proc/palestra'",
    ),
    (["organism", "build", "strings"], "did you mean 'string-atoms'"),
    (["eval", "--model", "orcale", "--env", ENV, "--out", "x"], "did you mean 'oracle'"),
    (["compare", "nowhere"], "nowhere"),
    (["plan", "nowhere"], "nowhere is not a run"),
    (
        ["eval", "--model", "random", "--env", ENV, "--out", "x", "--base-url", "http://x"],
        "what does not go together: base_url is for models named openai:NAME",
    ),
    (["exact", "--model", "m", "--env", ENV, "--tolerance", "2"], "tolerance must lie in [0, 1), not 2"),
    (["play", "palestra/Dice-v0", "--policy", "orakel"], "did you mean 'oracle'"),
    (["play", "palestra/Dice-v0", "--sandbox", "lcal"], "unknown sandbox 'lcal'; did you mean 'local'"),
    (["doctor", "--sandbox", "dokcer"], "unknown sandbox 'dokcer'; did you mean 'docker'"),
    (["eval", "--model", "oracle", "--env", ENV, "--out", "x", "--sandbox", "e2"], "did you mean 'e2b'"),
    (
        ["train", "--model", "string-atoms", "--env", ENV, "--out", "x", "--sandbox", "unsafe"],
        "did you mean 'unsafe-process'",
    ),
    (["sft", "--model", "string-atoms", "--env", ENV, "--out", "x", "--sandbox", "podman"], "unknown sandbox"),
]


def test_a_wrong_name_is_said_before_anything_heavy_is_loaded(tmp_path: Path) -> None:
    code = (
        "import sys; from palestra.cli.main import app; sys.argv = sys.argv[1:]\n"
        "try: app()\n"
        "except Exception as error: print(error, [m for m in ('torch', 'transformers', 'trl') if m in sys.modules])"
    )
    for verb in ("train", "sft", "rft", "dpo"):
        arguments = ["palestra", verb, "--model", "string-atom", "--env", ENV, "--out", str(tmp_path / "run")]
        result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        assert result.stdout == "unknown model 'string-atom'; did you mean 'string-atoms'? []\n"


@pytest.mark.parametrize(("arguments", "part"), MISTAKES)
def test_a_mistake_gets_one_sentence_and_exit_code_2(
    arguments: list[str], part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = palestra(*arguments, PALESTRA_HOME=str(tmp_path / "home"))
    assert result.returncode == 2
    assert part in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert "Traceback" not in result.stderr


def test_a_misspelt_recipe_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(f"model: string-atoms\nenv: {ENV}\nout: x\ngroupsize: 4\n", encoding="utf-8")
    result = palestra("train", "--config", tmp_path / "r.yaml")
    assert result.returncode == 2
    assert "unknown key 'groupsize'" in result.stderr
    assert "did you mean 'group_size'" in result.stderr


@pytest.mark.parametrize("verb", ["train", "sft", "eval"])
def test_an_unwritable_folder_is_said(
    verb: str, tmp_path: Path, organism: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    folder = str(tmp_path / "file" / "run")
    monkeypatch.setattr(sys, "argv", ["palestra", verb, "--model", str(organism), "--env", ENV, "--out", folder])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert folder in capsys.readouterr().err


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
    result = palestra("eval", "--model", "oracle", "--env", ENV, "--out", tmp_path)
    assert result.returncode == 2
    assert "is not empty and holds no evaluation" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_envs_as_json() -> None:
    rows = {row["id"]: row for row in json.loads(palestra("envs", "--json").stdout)}
    assert "more-dice" in rows["palestra/Dice-v0"]["variants"]


def test_the_oracle_can_be_evaluated_and_compared_with_a_guesser(tmp_path: Path) -> None:
    for policy in ("random", "oracle"):
        result = palestra(
            "eval",
            "--model",
            policy,
            "--env",
            ENV,
            "--variant",
            "test",
            "--variant",
            "level-3",
            "-n",
            "8",
            "--problems",
            "30",
            "--out",
            tmp_path / policy,
        )
        assert result.returncode == 0, result.stderr
    result = palestra("compare", tmp_path / "random", tmp_path / "oracle", "--html", tmp_path / "r.html", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["runs"]
    assert (tmp_path / "r.html").read_text(encoding="utf-8").startswith("<!doctype html>")
