"""What the processes find that end-to-end tests start: an environment, and the modules beside the tests."""

import os
from pathlib import Path

import pytest

CONTRAST = '''
from palestra.envs import Demonstration, Reward, Task, TextEnv, register


@register("test/Contrast-v0", variants={"train": {}, "test": {}})
class Contrast(TextEnv):
    """Rewards what even an ignorant model does now and then, so that every step has a gradient."""

    max_turns = 1

    def sample(self, rng):
        text = "".join(rng.choice("abcdefgh") for _ in range(4))
        return Task(prompt=f"A({text}) = ?", answer="h", key=text)

    def grade(self, task, answer):
        return Reward(float(answer > "d"))

    def solve(self, task):
        return Demonstration(("<answer>h</answer>",))
'''


@pytest.fixture
def contrast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Install an environment with contrast for the processes of this test; its id."""
    site = tmp_path / "site"
    info = site / "contrast-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: contrast\nVersion: 1\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[palestra.envs]\nx = contrast_env\n", encoding="utf-8")
    (site / "contrast_env.py").write_text(CONTRAST, encoding="utf-8")
    found = [str(site), str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(found))
    return "test/Contrast-v0"
