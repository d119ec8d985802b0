"""`palestra export verifiers`, and the exported package under verifiers' own evaluation, which `.ci/interop` runs."""

import ast
import json
import os
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from scripted_openai import scripted_openai

from palestra.cli.export import export
from palestra.envs import make
from palestra.envs.errors import MissingPrerequisiteError, UsageError

DICE = "palestra/Dice-v0"


def text(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


@pytest.fixture
def verifiers() -> None:
    """Skips where verifiers is not installed."""
    if os.environ.get("PALESTRA_REQUIRE_INTEROP") != "verifiers" and find_spec("verifiers") is None:
        pytest.skip("verifiers is not installed; .ci/interop runs this")


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "verifiers", None)
    monkeypatch.delitem(sys.modules, "palestra.envs.adapters.verifiers", raising=False)
    with pytest.raises(MissingPrerequisiteError, match='pip install palestra "verifiers'):
        __import__("palestra.envs.adapters.verifiers")


def test_the_package_names_what_verifiers_looks_for(tmp_path: Path) -> None:
    export("verifiers", DICE, tmp_path / "dice", "test", 7)
    project = tomllib.loads((tmp_path / "dice" / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["name"] == "palestra-dice-v0"
    assert project["tool"]["setuptools"]["py-modules"] == ["palestra_dice_v0"], "the id with underscores"
    module = ast.parse((tmp_path / "dice" / "palestra_dice_v0.py").read_text(encoding="utf-8"))
    values = {
        ast.unparse(node.target if isinstance(node, ast.AnnAssign) else node.targets[0]): ast.literal_eval(node.value)
        for node in ast.walk(module)
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
    }
    assert values == {"__all__": ["PalestraEnv", "Taskset"], "env_id": DICE, "variant": "test", "count": 7}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("verifier", DICE), "did you mean 'verifiers'"),
        (("verifiers", "palestra/Dise-v0"), "did you mean 'palestra/Dice-v0'"),
        (("verifiers", DICE), "is there already"),
    ],
)
def test_wrong_requests_are_one_sentence(tmp_path: Path, arguments: tuple[str, str], message: str) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UsageError, match=message):
        export(*arguments, tmp_path, "train", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_verifiers_own_evaluation_agrees_with_the_environment(verifiers: None, tmp_path: Path) -> None:
    """Of four problems, one is solved as the oracle does, one with a sloppy answer, one not, one never answered."""
    export("verifiers", DICE, tmp_path / "dice", "test", 4)
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(site), str(tmp_path / "dice")], check=True)
    env = make(DICE, "test")
    tasks = [env.task_at(index) for index in env.distinct_indices(4)]
    script = {
        tasks[0].prompt: env.solve(tasks[0]).turns,
        tasks[1].prompt: (rf"\boxed{{{tasks[1].answer}.}}",),
        tasks[2].prompt: ("<answer>7</answer>",),
        tasks[3].prompt: ("I wonder.",) * env.max_turns,
    }

    def reply(messages: list[dict[str, Any]]) -> str:
        first = next(text(m) for m in messages if m["role"] == "user")
        return script[first][sum(m["role"] == "assistant" for m in messages)]

    evaluate = "from verifiers.v1.cli.eval.main import main; main()"
    with scripted_openai(reply) as (url, conversations):
        command = [sys.executable, "-c", evaluate, "palestra-dice-v0", "--no-push", "--no-rich", "--model", "scripted"]
        command += ["--client.base-url", url, "--client.api-key-var", "NO_KEY", "-n", "4"]
        command += ["-o", str(tmp_path), "--run.name", "run"]
        paths = [str(site), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "NO_KEY": "x", "PYTHONPATH": os.pathsep.join(p for p in paths if p)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = (tmp_path / "run" / "traces.jsonl").read_text(encoding="utf-8").splitlines()
    traces = {trace["task"]["data"]["prompt"]: trace for line in lines for trace in json.loads(line)["traces"]}
    assert set(traces) == set(script)
    results = [
        (traces[t.prompt]["rewards"]["outcome"]["score"], traces[t.prompt]["metrics"], traces[t.prompt]["ok"])
        for t in tasks
    ]
    assert results == [
        (1.0, {"reduced": 1.0, "possible": 1.0}, True),
        (1.0, {"reduced": 1.0, "possible": 1.0}, True),
        (0.0, {"reduced": 0.0, "possible": 0.0}, True),
        (0.0, {"reduced": 0.0, "possible": 0.0}, True),
    ]
    assert traces[tasks[0].prompt]["task"]["key"] == f"{DICE}/test/0"
    assert len(conversations) == 2 + 1 + 1 + env.max_turns
    assert all(text(messages[0]) == env.system_prompt() for messages in conversations)


def test_a_model_that_fails_is_not_a_model_that_is_wrong(verifiers: None, tmp_path: Path) -> None:
    """An episode whose endpoint broke carries no outcome."""
    import asyncio
    from types import SimpleNamespace

    from palestra.envs.adapters.verifiers import PalestraConfig, PalestraEnv, PalestraTaskset

    recorded: dict[str, float] = {}
    trace = SimpleNamespace(
        errors=["ProviderError"], record_reward=recorded.__setitem__, record_metrics=recorded.update
    )

    class Broken:
        async def __aenter__(self) -> "Broken":
            self.trace = trace
            return self

        async def __aexit__(self, *error: object) -> None:
            pass

        async def turn(self, message: str | None = None) -> Any:
            return SimpleNamespace(terminated=True)

    task = next(iter(PalestraTaskset(PalestraConfig(id="x", count=1)).load()))
    agents = SimpleNamespace(agent=SimpleNamespace(interaction=lambda task: Broken()))
    asyncio.run(PalestraEnv.run(None, task, agents))  # type: ignore[arg-type]
    assert recorded == {}
    trace.errors = []
    asyncio.run(PalestraEnv.run(None, task, agents))  # type: ignore[arg-type]
    assert recorded == {"outcome": 0.0, "reduced": 0.0, "possible": 0.0}
