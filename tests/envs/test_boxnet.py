import itertools
import random
import re
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palestra.envs import make
from palestra.envs.tasks.box_grid import Boxes, moves_of, steps_of
from palestra.envs.toolcalls import format_tool_call
from palestra.envs.tools.base import ToolError


def move(moves):
    return format_tool_call("move", {"moves": moves})


def boxes(starts, targets, limit=9, size=(3, 3)):
    return Boxes(size, starts, targets, limit)


def simulate(prompt, plan):
    """Carry a plan out by the rules, from the prompt's text alone; returns whether all boxes arrive in time."""
    columns, rows = re.search(r"to ([a-z])(\d)", prompt).groups()
    where = dict(re.findall(r"([a-z]+) ([a-z]\d)", re.search(r"Boxes: (.*?)\.", prompt)[1]))
    targets = dict(re.findall(r"([a-z]+) ([a-z]\d)", re.search(r"Targets: (.*?)\.", prompt)[1]))
    assert where.keys() == targets.keys()
    for step in plan:
        used = set()
        for text in step:
            arm, box, to = re.fullmatch(r"(..): ([a-z]+) -> (\w+)", text).groups()
            assert where[box] == arm
            assert arm not in used
            used.add(arm)
            if to == "target":
                assert targets[box] == arm
                where[box] = "done"
            else:
                assert "a" <= to[0] <= columns
                assert "1" <= to[1] <= rows
                assert abs(ord(to[0]) - ord(arm[0])) + abs(int(to[1]) - int(arm[1])) == 1
                where[box] = to
    return set(where.values()) == {"done"} and len(plan) <= int(re.search(r"within (\d+) steps", prompt)[1])


@pytest.mark.parametrize("variant", ["train", "bigger-grid", "more-boxes", "one-shot"])
def test_plans_follow_the_rules_as_written_anew(variant: str) -> None:
    env = make("palestra/Boxnet-v0", variant)
    for index in range(200):
        task = env.task_at(index)
        assert simulate(task.prompt, task.data["plan"])


@pytest.mark.parametrize("variant", ["train", "bigger-grid", "more-boxes"])
def test_no_box_starts_at_its_target_and_one_move_at_a_time_is_too_slow(variant: str) -> None:
    env = make("palestra/Boxnet-v0", variant)
    for index in range(300):
        data = env.task_at(index).data
        work = 0
        for box, (x, y) in data["starts"].items():
            i, j = data["targets"][box]
            assert (x, y) != (i, j)
            work += abs(x - i) + abs(y - j) + 1
        assert data["limit"] < work
        assert data["limit"] <= env.max_turns


def shortest(starts, targets, size):
    """Return the steps of a shortest plan, by breadth-first search over the places of all boxes."""
    names = list(starts)
    begin = tuple(starts[name] for name in names)
    seen, queue = {begin}, deque([(begin, 0)])
    while queue:
        state, steps = queue.popleft()
        if state == (None,) * len(names):
            return steps
        options = []
        for name, cell in zip(names, state, strict=True):
            ways = [cell]
            if cell is not None:
                x, y = cell
                around = [(x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)]
                ways += [(i, j) for i, j in around if 0 <= i < size[0] and 0 <= j < size[1]]
                ways += [None] * (targets[name] == cell)
            options.append(ways)
        for after in itertools.product(*options):
            moved = [cell for cell, to in zip(state, after, strict=True) if cell != to]
            if len(set(moved)) == len(moved) and after not in seen:
                seen.add(after)
                queue.append((after, steps + 1))
    raise AssertionError("no plan")


def test_the_oracle_is_nearly_optimal() -> None:
    rng = random.Random(0)
    cells = list(itertools.product(range(2), range(3)))
    longer = []
    for _ in range(25):
        names = ("blue", "green", "red")
        starts = {name: rng.choice(cells) for name in names}
        targets = {name: rng.choice(cells) for name in names}
        longer.append(len(boxes(starts, targets, size=(2, 3)).plan()) - shortest(starts, targets, (2, 3)))
    assert set(longer) <= {0, 1}
    assert sum(longer) <= 6


def test_boxes_in_one_cell_share_its_arm() -> None:
    starts, targets = {"blue": (0, 0), "red": (0, 0)}, {"blue": (0, 1), "red": (1, 0)}
    world = boxes(starts, targets)
    with pytest.raises(ToolError, match="the arm of a1 has a move already"):
        world.carry_out("a1: blue -> a2; a1: red -> b1")
    assert world.waiting == starts
    assert len(world.plan()) == 3 == shortest(starts, targets, (3, 3))


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        ("a1: blue -> a2; c1: red -> d1", "d1 is no neighbour of c1 on this grid"),
        ("a1: blue -> a0", "a0 is no neighbour"),
        ("a1: blue -> b2", "b2 is no neighbour"),
        ("a1: blue -> a1", "a1 is no neighbour"),
        ("b1: blue -> b2", "the blue box is in a1"),
        ("a1: pink -> a2", "there is no pink box"),
        ("a1: blue -> target", "the target of blue is in b1"),
        ("a1: blue -> -a2", "is no move"),
        ("blue -> a2", "is no move"),
        ("", "there is no move in this step"),
    ],
)
def test_a_step_with_an_invalid_move_moves_nothing_and_says_why(step: str, reason: str) -> None:
    starts = {"blue": (0, 0), "red": (2, 0)}
    world = boxes(starts, {"blue": (1, 0), "red": (2, 2)})
    with pytest.raises(ToolError, match=re.escape(reason)):
        world.carry_out(step)
    assert world.waiting == starts
    assert world.steps == 0


def test_moves_of_a_step_happen_at_once() -> None:
    world = boxes({"blue": (0, 0), "red": (1, 0)}, {"blue": (1, 0), "red": (0, 0)})
    world.carry_out("a1: blue -> b1; b1: red -> a1")
    assert world.waiting == {"blue": (1, 0), "red": (0, 0)}
    world.carry_out("a1: red -> target; b1: blue -> target")
    assert world.solved
    with pytest.raises(ToolError, match="the red box is delivered"):
        world.carry_out("a1: red -> a2")


@pytest.mark.parametrize(
    "written",
    [
        "b2: red -> b3; a1: blue -> target",
        "B2:Red->B3,a1: BLUE -> Target",
        '{"b2": "red -> b3", "a1": "blue -> target"}',
        '["b2: red to b3", "a1: blue to target"]',
        " b2  red →  b3 ;; a1: blue -> target; ",
    ],
)
def test_moves_are_read_leniently(written: str) -> None:
    world = boxes({"blue": (0, 0), "red": (1, 1)}, {"blue": (0, 0), "red": (1, 2)})
    world.carry_out(written)
    assert world.waiting == {"red": (1, 2)}


def test_steps_of_a_plan_are_its_lines() -> None:
    assert steps_of("Step 1: a1: red -> a2\n\n2. a2: red -> target\n```\nb1: blue -> b2") == [
        "a1: red -> a2",
        "a2: red -> target",
        "b1: blue -> b2",
    ]


@given(st.text(alphabet="abc123: ->;,\nredbluetargetstep{}\"'", max_size=60))
def test_any_text_is_a_step_or_is_refused(text: str) -> None:
    world = boxes({"blue": (0, 0), "red": (1, 1)}, {"blue": (2, 2), "red": (0, 2)})
    before = dict(world.waiting)
    try:
        world.carry_out(text)
    except ToolError:
        assert world.waiting == before
    else:
        assert world.waiting != before
        assert len(moves_of(text)) <= 2


@pytest.mark.parametrize("action", ["<answer></answer>", "<answer>[]</answer>", "", "I would wait."])
def test_doing_nothing_earns_nothing(action: str) -> None:
    for variant in ("train", "one-shot"):
        env = make("palestra/Boxnet-v0", variant)
        for index in range(20):
            env.reset(options={"index": index})
            _, reward, _, _, info = env.step(action)
            assert reward == 0.0
            assert not any(info["reward"]["process"].values())


def test_the_last_step_ends_the_episode_without_success() -> None:
    env = make("palestra/Boxnet-v0")
    env.reset(options={"index": 0})
    plan, limit = env.task.data["plan"], env.task.data["limit"]
    assert env.step(move("; ".join(plan[0])))[1:4] == (0.0, False, False)
    box, cell = next(iter(env.world.waiting.items()))
    for n in range(1, limit):
        there = env.world._neighbours(cell)[0]
        names = [f"{chr(97 + x)}{y + 1}" for x, y in (cell, there)]
        observation, reward, terminated, truncated, _ = env.step(move(f"{names[0]}: {box} -> {names[1]}"))
        assert observation.startswith(f"Step {n + 1} of {limit}.")
        assert (reward, terminated, truncated) == (0.0, n == limit - 1, False)
        cell = there


def test_steps_after_the_last_one_are_refused_in_the_same_turn() -> None:
    env = make("palestra/Boxnet-v0")
    env.reset(options={"index": 0})
    back_and_forth = env.world.random_step(random.Random(0))[:1]
    box = re.search(r": (\w+) ->", back_and_forth[0])[1]
    forth = re.fullmatch(r"(..): \w+ -> (..)", back_and_forth[0])
    there_and_back = [forth[0], f"{forth[2]}: {box} -> {forth[1]}"] * 4
    observation, reward, terminated, *_ = env.step("".join(map(move, there_and_back)))
    assert (reward, terminated) == (0.0, True)
    assert observation.split("\n")[-1] == "Error: no step is left."
    assert env.world.steps == env.task.data["limit"]


def test_an_answer_plans_the_rest() -> None:
    env = make("palestra/Boxnet-v0")
    for index in range(20):
        env.reset(options={"index": index})
        plan = ["; ".join(step) for step in env.task.data["plan"]]
        paid = env.step(move(plan[0]))[4]["reward"]["process"].get("delivered", 0.0)
        rest = "\n".join(plan[1:])
        _, reward, terminated, _, info = env.step(f"<answer>{rest}</answer>")
        assert (reward, terminated) == (1.0, True)
        assert paid + info["reward"]["process"]["delivered"] == pytest.approx(1.0)


def test_a_plan_is_graded_strictly() -> None:
    env = make("palestra/Boxnet-v0", "one-shot")
    for index in range(20):
        task = env.task_at(index)
        assert env.grade(task, task.answer).outcome == 1.0
        lines = task.answer.split("\n")
        assert env.grade(task, "\n".join(lines[:-1])).outcome == 0.0
        assert env.grade(task, "\n".join([*lines[:-1], "a1: red -> z9", lines[-1]])).outcome == 0.0
        assert env.grade(task, "\n".join(move for line in lines for move in line.split("; "))).outcome == 0.0


def test_delivered_shares_sum_to_the_share_delivered() -> None:
    env = make("palestra/Boxnet-v0")
    rng = random.Random(0)
    for index in range(40):
        env.reset(options={"index": index})
        total, over = 0.0, False
        while not over:
            _, _, terminated, truncated, info = env.step(env.random_action(rng))
            total += info["reward"]["process"].get("delivered", 0.0)
            over = terminated or truncated
        assert total == pytest.approx(1 - len(env.world.waiting) / len(env.task.data["starts"]))


def test_colours_are_no_content() -> None:
    env = make("palestra/Boxnet-v0")
    task = env.task_at(0)
    assert not any(colour in task.key for colour in task.data["starts"])
