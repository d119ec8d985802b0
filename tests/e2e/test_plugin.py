"""A third-party package with one environment: installed by pip, listed, and trained on, without touching Palestra."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

PYPROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "acme-envs"
version = "0.1"
[project.entry-points."palestra.envs"]
acme = "acme_envs"
[tool.setuptools]
py-modules = ["acme_envs"]
"""
MODULE = '''
from palestra.envs import Demonstration, ProcessTerm, Reward, Task, TextEnv, register


@register("acme/Echo-v0", variants={"train": {}, "test": {}, "long": {"length": 6}})
class Echo(TextEnv):
    """Repeat a string."""

    max_turns = 1
    length = 3
    process_terms = {"begins": ProcessTerm(0.0, 1.0, "the first letter alone")}

    def sample(self, rng):
        text = "".join(rng.choice("abcdefgh") for _ in range(self.length))
        return Task(prompt=f"Say {text}", answer=text, key=text)

    def grade(self, task, answer):
        return Reward(float(answer == task.answer), {"begins": float(answer[:1] == task.answer[:1])})

    def solve(self, task):
        return Demonstration((f"<answer>{task.answer}</answer>",))
'''


def test_an_installed_package_is_listed_and_trains(tmp_path: Path, organism: Path) -> None:
    package, site = tmp_path / "acme", tmp_path / "site"
    package.mkdir()
    (package / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    (package / "acme_envs.py").write_text(MODULE, encoding="utf-8")
    assert len((PYPROJECT + MODULE).strip().splitlines()) <= 40
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*install, "--target", str(site), str(package)], check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(site)}

    def palestra(*arguments: str | Path) -> str:
        command = [sys.executable, "-m", "palestra", *map(str, arguments)]
        result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        return result.stdout

    listed = {row["id"]: row for row in json.loads(palestra("envs", "--json"))}
    assert listed["acme/Echo-v0"] == {
        "id": "acme/Echo-v0",
        "summary": "Repeat a string.",
        "variants": ["train", "test", "long"],
        "tools": [],
        "max_turns": 1,
        "process_terms": {"begins": {"low": 0.0, "high": 1.0, "gamed_by": "the first letter alone"}},
        "flags": [],
        "source": "",
    }
    out = tmp_path / "run"
    palestra(
        "train",
        "--model",
        organism,
        "--env",
        "acme/Echo-v0",
        "--reward",
        "both",
        "--steps",
        "2",
        "--prompts",
        "2",
        "--group-size",
        "4",
        "--max-tokens",
        "10",
        "--out",
        out,
    )
    assert json.loads((out / "manifest.json").read_text(encoding="utf-8"))["status"] == "done"
    palestra(
        "eval",
        "--model",
        out,
        "--env",
        "acme/Echo-v0",
        "--variant",
        "long",
        "-n",
        "2",
        "--problems",
        "5",
        "--max-tokens",
        "10",
        "--out",
        tmp_path / "eval",
    )


def test_a_broken_plugin_does_not_take_the_others_down(tmp_path: Path) -> None:
    info = tmp_path / "broken-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[palestra.envs]\nx = no_such_module\n", encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-m", "palestra", "envs", "--json"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert "palestra/Dice-v0" in result.stdout
    assert "no_such_module" in result.stderr
