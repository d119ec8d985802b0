"""What must hold for every registered environment and variant."""

import random
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

from palestra.envs import make, specs
from palestra.envs.core import TextEnv

# Adapted suites (`palestra/rg/...`) have tests of their own.
ALL = [(spec.id, v) for spec in specs() if re.fullmatch(r"palestra/[^/]+", spec.id) for v in spec.variants]
IN_PROCESS = [(env, v) for env, v in ALL if not make(env, v).blocking]
SANDBOXED = [pytest.param(*pair, marks=pytest.mark.sandbox) for pair in ALL if pair not in IN_PROCESS]


def play_oracle(env: TextEnv, index: int) -> float:
    env.reset(options={"index": index})
    assert env.task is not None
    for action in env.solve(env.task).turns:
        _, reward, terminated, truncated, _ = env.step(action)
    assert terminated
    assert not truncated
    return reward


@pytest.mark.parametrize(("env_id", "variant"), [*IN_PROCESS, *SANDBOXED])
def test_gymnasium_accepts_it(env_id: str, variant: str) -> None:
    check_env(make(env_id, variant), skip_render_check=True)


@pytest.mark.parametrize(("env_id", "variant"), IN_PROCESS)
def test_oracle_solves_two_hundred_tasks(env_id: str, variant: str) -> None:
    env = make(env_id, variant)
    assert sum(play_oracle(env, index) for index in range(200)) == 200


@pytest.mark.slow
@pytest.mark.parametrize(("env_id", "variant"), SANDBOXED)
def test_oracle_solves_a_hundred_tasks_in_the_sandbox(env_id: str, variant: str) -> None:
    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(lambda index: play_oracle(make(env_id, variant), index), range(100))) == 100


def keys(env_id: str, variant: str, draws: int) -> set[str]:
    env = make(env_id, variant)
    return {env.task_at(index).key for index in range(draws)}


def assert_disjoint(env_id: str, draws: int) -> None:
    drawn = {v: keys(env_id, v, draws) for e, v in ALL if e == env_id}
    for one, these in drawn.items():
        for other, those in drawn.items():
            if one < other and not (one.startswith("train") and other.startswith("train")):
                assert not these & those, f"{env_id}: {one} and {other} share tasks"


@pytest.mark.parametrize("env_id", sorted({e for e, _ in ALL}))
def test_splits_share_no_key(env_id: str) -> None:
    assert_disjoint(env_id, 100)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("env_id", sorted({e for e, _ in ALL}))
def test_splits_share_no_key_on_3000_draws(env_id: str) -> None:
    assert_disjoint(env_id, 3_000)


def play_chance(env: TextEnv, index: int, rng: random.Random) -> float:
    env.reset(options={"index": index})
    over = False
    while not over:
        _, reward, terminated, truncated, _ = env.step(env.random_action(rng))
        over = terminated or truncated
    return reward


def assert_guessing_fails(env_id: str, variant: str, episodes: int) -> None:
    env = make(env_id, variant)
    rng = random.Random(0)
    assert sum(play_chance(env, index, rng) for index in range(episodes)) / episodes < 0.1


@pytest.mark.parametrize(("env_id", "variant"), ALL)
def test_guessing_hardly_ever_solves(env_id: str, variant: str) -> None:
    assert_guessing_fails(env_id, variant, 200)


@pytest.mark.slow
@pytest.mark.parametrize(("env_id", "variant"), ALL)
def test_guessing_hardly_ever_solves_in_500_episodes(env_id: str, variant: str) -> None:
    assert_guessing_fails(env_id, variant, 500)


@pytest.mark.parametrize(("env_id", "variant"), IN_PROCESS)
def test_hostile_turns_are_answered_and_never_solve(env_id: str, variant: str) -> None:
    env = make(env_id, variant)
    nasty = [
        "",
        "<answer></answer>",
        "\x00\ud800",
        "<tool_call>" * 50,
        '<tool_call>{"name": "x"}</tool_call>',
        '<tool_call>{"name": 3}</tool_call>',
        "{" * 3_000,
        "\\boxed{" * 500,
        "9" * 100_000,
        '<tool_call>{"name": "submit", "arguments": {"answer": []}}</tool_call>',
        "<answer>nan</answer>",
        '<tool_call>{"name": "calculator", "arguments": {"expression": "9^9^9^9"}}</tool_call>',
    ]
    for text in nasty:
        env.reset(options={"index": 1})
        over = False
        while not over:
            _, reward, terminated, truncated, info = env.step(text)
            over = terminated or truncated
            assert reward == 0.0
            assert info["kind"] in {"answer", "tool", "malformed"}
        with pytest.raises(gymnasium.error.ResetNeeded):
            env.step("x")


EPISODES = """
from palestra.envs import make, specs
for spec in specs():
    if spec.id.startswith("palestra/") and spec.id.count("/") == 1:
        for variant in spec.variants:
            env = make(spec.id, variant)
            for index in (0, 1, 2**40):
                task = env.task_at(index)
                print(spec.id, variant, task.prompt, task.key, task.answer, env.solve(task).turns)
"""


def test_tasks_are_the_same_in_every_process() -> None:
    def run(hash_seed: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", EPISODES],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert run("1") == run("2")
