"""docs/tutorials/tools-and-worlds.md: its environment works, and what the page says of it holds."""

import importlib.util
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from palestra.cli.main import app
from palestra.envs import TextEnv, make
from palestra.envs.checks import Settings, check
from palestra.envs.toolcalls import SYNTAXES

PAGE = Path(__file__).parents[2] / "docs" / "tutorials" / "tools-and-worlds.md"
ENV = "safe/Safe-v0"
VARIANTS = ("train", "test", "harder")
SMALL = Settings(episodes=30, fuzz=400, draws=150, probed=5, replayed=4)

pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="runs beside the source tree only")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def source() -> str:
    return "\n\n".join(blocks("python"))


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], ModuleType]:
    """Writes a module where the workers of the checks find it too, and imports it until the test is over."""
    monkeypatch.syspath_prepend(tmp_path)

    def load(name: str, text: str) -> ModuleType:
        path = tmp_path / f"{name}.py"
        path.write_text(text, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def safe(load: Callable[[str, str], ModuleType]) -> ModuleType:
    """The module that the page's blocks make."""
    return load("safe", source())


@pytest.fixture
def env(safe: ModuleType) -> TextEnv:
    """A safe at the first task of `test`."""
    env = make(ENV, "test")
    env.reset(options={"index": 0})
    return env


def code(env: TextEnv) -> list[int]:
    assert env.task is not None
    return list(env.task.data["code"])


def call(env: TextEnv, dial: Any, to: Any) -> str:
    return env.format_call("turn", {"dial": dial, "to": to})


def paid(env: TextEnv, action: str) -> dict[str, float]:
    return dict(env.step(action)[4]["reward"]["process"])


def test_the_page_is_short() -> None:
    assert len(PAGE.read_text(encoding="utf-8").splitlines()) < 150


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_oracle_opens_the_safe_and_every_dial_is_paid(safe: ModuleType, variant: str, syntax: str) -> None:
    env = make(ENV, variant, syntax=syntax)
    assert tuple(env.variants) == VARIANTS
    for index in range(10):
        env.reset(options={"index": index})
        assert env.task is not None
        assert not any(at == number for at, number in zip(env.world.at, code(env), strict=True))
        steps = [env.step(turn) for turn in env.demonstrate(env.task).turns]
        assert [step[2] for step in steps] == [False] * (len(steps) - 1) + [True]
        assert [step[1] for step in steps] == [0.0] * (len(steps) - 1) + [1.0]
        paid = [value for step in steps for value in step[4]["reward"]["process"].values()]
        assert paid == [1 / env.dials] * env.dials
        assert sum(paid) == 1.0


def test_to_and_fro_pays_nothing(env: TextEnv) -> None:
    first, second, _ = code(env)
    assert paid(env, call(env, 1, first)) == {"dials": 1 / 3}
    assert paid(env, call(env, 1, (first + 1) % 10)) == {}
    assert paid(env, call(env, 1, first)) == {}
    assert paid(env, call(env, 1, (first + 1) % 10)) == {}
    assert paid(env, call(env, 2, second)) == {}
    assert paid(env, call(env, 1, first)) == {"dials": 1 / 3}


def test_a_dial_tells_where_its_number_lies(env: TextEnv) -> None:
    number = code(env)[0]
    assert env.step(call(env, 1, number - 1))[0].startswith(f"{number - 1} is too low. ")
    assert env.step(call(env, 1, number + 1))[0].startswith(f"{number + 1} is too high. ")
    observation, *_, info = env.step(call(env, 1, number))
    assert observation == f"{number} is right. The dials stand at {[number, *env.task_at(0).data['start'][1:]]}."
    assert (info["role"], info["kind"]) == ("tool", "tool")


@pytest.mark.parametrize(
    ("dial", "to", "error"),
    [
        (0, 1, "the dials are 1 to 3, their numbers 0 to 9."),
        (1, 10, "the dials are 1 to 3, their numbers 0 to 9."),
        ("first", 1, "the argument 'dial' of turn must be of type integer."),
    ],
)
def test_a_wrong_call_is_answered_and_costs_a_turn(env: TextEnv, dial: Any, to: int, error: str) -> None:
    before = list(env.world.at)
    for turn in range(env.max_turns):
        observation, outcome, terminated, truncated, info = env.step(call(env, dial, to))
        assert observation == f"Error: {error}"
        assert (outcome, terminated, info["reward"]["process"]) == (0.0, False, {})
        assert truncated == (turn == env.max_turns - 1)
    assert env.world.at == before


def test_an_answer_meets_feedback_and_the_episode_goes_on(env: TextEnv) -> None:
    assert env.task is not None
    observation, outcome, terminated, truncated, info = env.step(f"<answer>{env.task.answer}</answer>")
    assert observation == "Words do not open a safe. Turn its dials."
    assert (outcome, terminated, truncated, info["kind"]) == (0.0, False, False, "answer")


def test_a_call_after_the_one_that_opens_is_refused(env: TextEnv) -> None:
    turns = "".join(call(env, dial, number) for dial, number in enumerate([*code(env), 0], start=1))
    observation, outcome, terminated, _, info = env.step(turns)
    assert observation.splitlines()[-1] == "Error: the safe is open already."
    assert (outcome, terminated, info["reward"]["process"]) == (1.0, True, {"dials": 1.0})


def test_a_random_player_turns_dials_and_no_example_opens_the_safe(env: TextEnv) -> None:
    rng = random.Random(0)
    for _ in range(env.max_turns):
        observation = env.step(env.random_action(rng))[0]
        assert "Error" not in observation
    for action in env.example_actions():
        env.reset(options={"index": 0})
        assert env.step(action)[1] == 0.0


def test_the_script_is_played_as_the_page_says(safe: ModuleType, tmp_path: Path) -> None:
    [script] = blocks("text")
    (tmp_path / "turns.txt").write_text(script, encoding="utf-8")
    result = CliRunner().invoke(app, ["play", ENV, "--script", str(tmp_path / "turns.txt")])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    [error] = [line for line in lines if line.startswith("Error: ")]
    [term] = {line for line in lines if line.startswith("[")}
    assert lines.count(term) == 3
    said = " ".join(PAGE.read_text(encoding="utf-8").split())
    for shown in (error, term, lines[-1]):
        assert f"`{shown}`" in said


def test_it_passes_every_check(safe: ModuleType) -> None:
    reports = check([ENV], settings=SMALL)
    assert {r.variant: (r.status, r.problems) for r in reports} == dict.fromkeys(VARIANTS, ("passed", []))


MISTAKES = [
    (
        "isolation",
        ("world = state.world", "world = TurnDial.world"),
        ("return Dials(", "TurnDial.world = Dials("),
        ("self.highest)\n\n    def judge", "self.highest)\n        return TurnDial.world\n\n    def judge"),
    ),
    ("determinism", ("self.world.most", "Dials.most")),
    ("determinism", ('list(task.data["start"])', 'task.data["start"]')),
    ("determinism", ("stand at {world.at}", "stand at {set(map(str, world.at))}")),
    ("fuzz", ('raise ToolError(f"the dials', 'raise ValueError(f"the dials')),
    ("bounds", ("gained = max(0, self.world.right() - self.world.most)", "gained = self.world.right()")),
]


def test_mistakes_are_punished_as_the_page_says(load: Callable[[str, str], ModuleType]) -> None:
    envs = []
    for number, (_, *edits) in enumerate(MISTAKES):
        text = source()
        for old, new in [(ENV, f"safe/Mistake{number}-v0"), *edits]:
            assert old in text
            text = text.replace(old, new)
        envs.append(load(f"mistake{number}", text).Safe.env_id)
    reports = check(envs, variants=["test"], settings=SMALL)
    for (name, *_), report in zip(MISTAKES, reports, strict=True):
        assert name in {problem.check for problem in report.problems}, (report.env, report.problems)
        assert f"`{name}`" in PAGE.read_text(encoding="utf-8")
