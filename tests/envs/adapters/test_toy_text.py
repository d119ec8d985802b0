"""Gymnasium's toy text in words: won by search, replayed against Gymnasium itself, and hard to win by chance."""

import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from gymnasium.envs.toy_text.blackjack import BlackjackEnv
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv
from gymnasium.envs.toy_text.taxi import TaxiEnv
from gymnasium.utils.env_checker import check_env

from palestra.envs import make, spec
from palestra.envs.adapters import toy_text
from palestra.envs.adapters.gymnasium_text import best_policy, shortest_plan
from palestra.envs.toolcalls import parse_tool_calls

IDS = ("palestra/FrozenLake-v0", "palestra/Taxi-v0", "palestra/Blackjack-v0")
ALL = [(env_id, variant) for env_id in IDS for variant in spec(env_id).variants]


def moves(turns: tuple[str, ...]) -> list[str]:
    return [next(iter(parse_tool_calls(turn)[0].arguments.values())) for turn in turns]


@pytest.mark.parametrize(("env_id", "variant"), ALL)
def test_the_plan_wins_at_its_last_move(env_id: str, variant: str) -> None:
    env = make(env_id, variant)
    for index in range(15):
        env.reset(options={"index": index})
        steps = [env.step(turn) for turn in env.solve(env.task).turns]
        assert [step[1] for step in steps] == [0.0] * (len(steps) - 1) + [1.0]
        assert steps[-1][2:4] == (True, False)


@pytest.mark.parametrize(("env_id", "variant"), ALL)
def test_random_play_wins_less_than_one_in_ten(env_id: str, variant: str) -> None:
    env, rng, won = make(env_id, variant), random.Random(0), 0.0
    for index in range(100):
        env.reset(options={"index": index % 20})
        over = False
        while not over:
            _, reward, terminated, truncated, _ = env.step(env.random_action(rng))
            over = terminated or truncated
        won += reward
    assert won < 10


@pytest.mark.parametrize(("env_id", "variant"), ALL)
def test_an_episode_is_a_function_of_task_and_moves(env_id: str, variant: str) -> None:
    def play() -> list[Any]:
        env, rng = make(env_id, variant), random.Random(3)
        seen: list[Any] = [env.reset(options={"index": 4})]
        while not (seen[-1][2] or seen[-1][3]) if len(seen) > 1 else True:
            seen.append(env.step(env.random_action(rng)))
        return seen

    assert play() == play()


@pytest.mark.parametrize("env_id", IDS)
def test_gymnasium_accepts_it(env_id: str) -> None:
    check_env(make(env_id), skip_render_check=True)


@pytest.mark.parametrize("env_id", IDS)
def test_splits_share_no_task(env_id: str) -> None:
    drawn = [{make(env_id, v).task_at(i).key for i in range(15)} for v in spec(env_id).variants]
    assert sum(map(len, drawn)) == len(set().union(*drawn))


def test_an_answer_ends_nothing_and_no_answer_is_asked_for() -> None:
    env = make("palestra/Taxi-v0")
    env.reset(seed=1)
    assert env.step("<answer>south</answer>")[:4] == ("Play by calling drive.", 0.0, False, False)
    assert "answer" not in env.system_prompt()
    assert "must be one of south, north" in env.step(env._call_of("up"))[0]


def test_the_lake_is_gymnasiums() -> None:
    env = make("palestra/FrozenLake-v0", "slippery")
    for index in range(3):
        env.reset(options={"index": index})
        theirs = FrozenLakeEnv(desc=env.task.data["map"], is_slippery=True)
        theirs.reset(seed=env.task.data["seed"])
        rng = random.Random(index)
        over = False
        while not over:
            action = rng.randrange(4)
            state, reward, over, _, _ = theirs.step(action)
            seen, ours, *_ = env.step(env._call_of(env.actions[action]))
            assert ours == reward
            if not over:
                assert seen.replace("\n", "").index("P") == state


def test_shortest_plan_is_the_distance() -> None:
    lake = FrozenLakeEnv(desc=["SFF", "HHF", "GFF"], is_slippery=False)
    assert shortest_plan(lake.P, 0) == [2, 2, 1, 1, 0, 0]
    assert shortest_plan(FrozenLakeEnv(desc=["SH", "HG"], is_slippery=False).P, 0) is None


def test_best_policy_avoids_the_hole() -> None:
    # Beside a hole on slippery ice, Gymnasium's own 4x4 map is solved by facing away from it: a known policy.
    policy = best_policy(FrozenLakeEnv(map_name="4x4").P)
    assert [policy[s] for s in (0, 4, 6, 8, 9, 13, 14)] == [0, 0, 0, 3, 1, 2, 1]


def test_taxi_knows_all_300_starts() -> None:
    env = make("palestra/Taxi-v0")
    rng = random.Random(0)
    starts = {env.sample(rng).key for _ in range(4_000)}
    table = TaxiEnv()
    assert len(starts) == 300 == int((table.initial_state_distrib > 0).sum())


def test_a_hand_that_is_said_to_be_won_is_won_in_gymnasium() -> None:
    for seed in range(300):
        deal = toy_text._deal(seed)
        for hits in range(4):
            env = BlackjackEnv()
            env.reset(seed=seed)
            over, reward = False, 0.0
            for action in [1] * hits + [0]:
                if not over:
                    _, reward, over, _, _ = env.step(action)
            assert toy_text._wins(*deal, hits) == (reward > 0)


def test_a_lost_hand_ends_the_session() -> None:
    env = make("palestra/Blackjack-v0")
    env.reset(seed=0)
    over, seen = False, ""
    while not over:
        seen, reward, over, _, _ = env.step(env._call_of("hit"))
    assert reward == 0.0
    assert "You do not win this hand." in seen


def test_gymnasium_makes_it_after_import_palestra_alone() -> None:
    code = (
        "import gymnasium, palestra\n"
        "for name in ('palestra/FrozenLake-v0', 'palestra-rg/dice-v0'):\n"
        "    assert name in gymnasium.registry, name\n"
        "print(gymnasium.make('palestra/FrozenLake-v0', variant='test').reset(seed=0)[0][:5])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_hands_are_the_same_whoever_draws_beside() -> None:
    def draw(_: int) -> list[str]:
        return [make("palestra/Blackjack-v0").task_at(index).key for index in range(20)]

    with ThreadPoolExecutor(4) as threads:
        assert len({tuple(drawn) for drawn in threads.map(draw, range(8))}) == 1
