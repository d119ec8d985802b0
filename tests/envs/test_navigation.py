import random
import re

import pytest

from palestra.envs import make
from palestra.envs.toolcalls import format_tool_call

FORWARD, STOP = format_tool_call("forward", {}), format_tool_call("stop", {})
COMPASS = ["north", "north-east", "east", "south-east", "south", "south-west", "west", "north-west"]
RELATIVE = {"left": -90, "slightly left": -45, "slightly right": 45, "right": 90}


def turn(direction):
    return format_tool_call("turn", {"direction": direction})


def follow_the_words(env, index):
    """Play by prompt and observations alone, as a reader of the route would; returns the outcome."""
    observation, _ = env.reset(options={"index": index})
    route = re.search(r"Route: (.*)\.", observation)[1].split("; ")
    assert route.pop() == "stop"
    for instruction in route:
        if match := re.fullmatch(r"turn (.*)", instruction):
            env.step(turn(match[1]))
        elif match := re.fullmatch(r"go forward (\d) blocks?", instruction):
            for _ in range(int(match[1])):
                env.step(FORWARD)
        else:
            goal = re.fullmatch(r"go forward to (.*)", instruction)[1]
            observation = env.step(FORWARD)[0]
            while goal not in observation:
                assert "Error" not in observation
                observation = env.step(FORWARD)[0]
    _, reward, terminated, *_ = env.step(STOP)
    assert terminated
    return reward


@pytest.mark.parametrize("variant", ["train", "relative", "bigger-maps", "longer-routes", "no-landmarks"])
def test_the_words_and_what_is_seen_suffice(variant: str) -> None:
    env = make("palestra/Navigation-v0", variant)
    assert all(follow_the_words(env, index) == 1.0 for index in range(100))


def seen(observation):
    """Return streets, heading and exits of an observation in the training wording."""
    streets = re.search(r"You are at (.*?)\.", observation)[1]
    heading = re.search(r"You face ([a-z-]+)\.", observation)[1]
    return (
        frozenset(re.split(r", | and ", streets)),
        heading,
        re.split(r", | and ", re.search(r"Streets lead (.*)\.", observation)[1]),
    )


def test_streets_are_straight_and_lead_back() -> None:
    env = make("palestra/Navigation-v0")
    rng = random.Random(0)
    walked = 0
    for index in range(40):
        observation, _ = env.reset(options={"index": index})
        while len(env.turns) < env.max_turns - 5:
            here, _, exits = seen(observation.split("\n")[0])
            direction = rng.choice(exits)
            env.step(turn(direction))
            there, heading, _ = seen(env.step(FORWARD)[0])
            assert heading == direction
            assert len(here & there) == 1  # the street that was walked
            env.step(turn(COMPASS[(COMPASS.index(direction) + 4) % 8]))
            assert seen(env.step(FORWARD)[0])[0] == here
            env.step(turn(direction))
            observation = env.step(FORWARD)[0]
            walked += 1
            if env._over:
                break
    assert walked > 80


def test_wrong_moves_are_carried_out_and_illegal_ones_answered() -> None:
    env = make("palestra/Navigation-v0")
    for index in range(50):
        env.reset(options={"index": index})
        world, route = env.world, env.task.data["route"]
        wrong = [d for d in range(8) if world.town.next(world.at, d) not in (None, route[1])]
        blocked = [d for d in range(8) if world.town.next(world.at, d) is None]
        env.step(turn(COMPASS[blocked[0]]))
        observation, *_ = env.step(FORWARD)
        assert observation == f"Error: no street leads {COMPASS[blocked[0]]} here."
        assert world.at == route[0]
        if wrong:
            env.step(turn(COMPASS[wrong[0]]))
            assert not env.step(FORWARD)[0].startswith("Error")
            assert world.at not in (route[0], route[1])


@pytest.mark.parametrize("last", [STOP, "<answer>I am there.</answer>", "<answer></answer>"])
def test_stopping_pays_at_the_destination_only_whatever_is_said(last: str) -> None:
    env = make("palestra/Navigation-v0")
    turns = env.solve(env.task_at(3)).turns
    outcomes = []
    for length in range(len(turns)):
        env.reset(options={"index": 3})
        for action in turns[:length]:
            assert env.step(action)[1:4] == (0.0, False, False)
        _, reward, terminated, truncated, _ = env.step(last)
        assert (terminated, truncated) == (True, False)
        outcomes.append(reward)
    assert outcomes == [0.0] * (len(turns) - 1) + [1.0]


def test_nothing_moves_after_a_stop_in_the_same_turn() -> None:
    env = make("palestra/Navigation-v0")
    turns = env.solve(env.task_at(3)).turns
    env.reset(options={"index": 3})
    observation, reward, terminated, *_ = env.step("".join((STOP, *turns)))
    assert (reward, terminated) == (0.0, True)
    assert observation.split("\n")[:2] == ["You stop.", "Error: you have ended the walk."]
    assert env.world.at == env.task.data["route"][0]


def test_progress_is_a_potential_of_the_place() -> None:
    env = make("palestra/Navigation-v0")
    rng = random.Random(1)
    for index in range(60):
        env.reset(options={"index": index})
        route = env.task.data["route"]
        total, over = 0.0, False
        while not over:
            _, _, terminated, truncated, info = env.step(env.random_action(rng))
            over = terminated or truncated
            total += info["reward"]["process"].get("progress", 0.0)
            at = env.world.at
            assert total == pytest.approx(route.index(at) / (len(route) - 1) if at in route else 0.0)


def test_the_oracle_collects_all_progress() -> None:
    env = make("palestra/Navigation-v0")
    env.reset(options={"index": 0})
    total = sum(env.step(action)[4]["reward"]["process"].get("progress", 0.0) for action in env.solve(env.task).turns)
    assert total == pytest.approx(1.0)


def test_relative_turns_add_to_the_heading() -> None:
    env = make("palestra/Navigation-v0", "relative")
    env.reset(options={"index": 0})
    degrees = 45 * env.world.heading
    for direction in ("left", "slightly left", "Slightly-Right", "right", "right"):
        observation, *_ = env.step(turn(direction))
        degrees += RELATIVE[direction.lower().replace("-", " ")]
        assert 45 * env.world.heading == degrees % 360
        assert "You face" not in observation
        assert not any(re.search(rf"\b{name}\b", observation) for name in COMPASS)
    assert env.step(turn("north"))[0] == (
        "Error: there is no direction 'north'; directions: left, slightly left, slightly right, right."
    )


def test_landmarks_are_named_once_and_missing_in_their_variant() -> None:
    for variant, count in (("train", 12), ("no-landmarks", 0)):
        env = make("palestra/Navigation-v0", variant)
        for index in range(50):
            names = env.task_at(index).data["town"].landmarks.values()
            assert len(set(names)) == len(names) == count


@pytest.mark.parametrize("name", ["north-east", "North East", "northeast", "NORTH_EAST"])
def test_directions_are_read_leniently(name: str) -> None:
    env = make("palestra/Navigation-v0")
    env.reset(options={"index": 0})
    assert "You face north-east." in env.step(turn(name))[0]
