import random
from collections import defaultdict

import pytest

from palestra.envs import make
from palestra.envs.core import TextEnv
from palestra.envs.tasks.tool_chain import LETTERS, TRANSFORMATIONS
from palestra.envs.toolcalls import format_tool_call

HORIZON = {"train": 6, "short": 3, "train-short": 3, "longer": 10, "other-transforms": 6, "hint-free": 6}


def moves(env: TextEnv, room: int, hand: str) -> list[tuple[int, str]]:
    """Return the states that the tool calls lead to; written anew, from the description of the task."""
    rooms, table = env.task.data["rooms"], env.task.data["table"]
    if room == len(rooms):
        return [(room, hand)] * (4 + len(env.transformations) + 2)
    after = [(room, word) for word in rooms[room].words.values()]
    after += [(room, TRANSFORMATIONS[how][1](hand) if hand else hand) for how in env.transformations]
    after.append((room, table.get(hand, hand)))
    after.append((room + 1, "") if hand == rooms[room].code else (room, hand))
    return after


def distances(env: TextEnv) -> dict[tuple[int, str], int]:
    """Return the fewest calls from the start to every state in reach."""
    seen = {(0, ""): 0}
    queue = [(0, "")]
    for state in queue:
        for after in moves(env, *state):
            if after not in seen:
                seen[after] = seen[state] + 1
                queue.append(after)
    return seen


@pytest.mark.parametrize("variant", HORIZON)
def test_no_way_is_shorter_than_the_horizon(variant: str) -> None:
    env = make("palestra/ToolChain-v0", variant)
    for index in range(40):
        env.reset(options={"index": index})
        end = (len(env.world.rooms), "")
        assert distances(env)[end] == HORIZON[variant] == len(env.solve(env.task).turns) - 1


def test_the_potential_is_one_minus_the_share_of_calls_left() -> None:
    env = make("palestra/ToolChain-v0")
    for index in range(5):
        env.reset(options={"index": index})
        states = distances(env)
        before = defaultdict(set)
        for state in states:
            for after in moves(env, *state):
                before[after].add(state)
        left = {(2, ""): 0}
        queue = [(2, "")]
        for state in queue:
            for earlier in before[state] - left.keys():
                left[earlier] = left[state] + 1
                queue.append(earlier)
        for room, hand in states:
            env.world.room, env.world.hand = room, hand
            assert env.world.potential() == pytest.approx(1 - left[room, hand] / 6)


def exact_chance(env: TextEnv, index: int) -> float:
    """Return the success probability of the player of `random_action`, by propagating its state distribution."""
    env.reset(options={"index": index})
    ended = len(env.world.rooms)
    at, solved = {(0, ""): 1.0}, 0.0
    for _ in range(env.max_turns):
        then: dict[tuple[int, str], float] = defaultdict(float)
        for (room, hand), p in at.items():
            after = moves(env, room, hand)
            answers = room == ended or hand != ""
            for state in after:
                then[state] += p / (len(after) + answers)
            solved += p / (len(after) + answers) if room == ended else 0.0
        at = then
    return solved


def mean_chance(variant: str, tasks: int) -> float:
    env = make("palestra/ToolChain-v0", variant)
    return sum(exact_chance(env, index) for index in range(tasks)) / tasks


def test_a_random_player_never_gets_far() -> None:
    assert mean_chance("short", 40) == pytest.approx(0.00075, rel=0.2)
    assert mean_chance("train", 10) < 3e-5


@pytest.mark.slow
def test_the_chance_rates_that_the_docstring_states() -> None:
    assert mean_chance("train", 200) == pytest.approx(1.06e-5, rel=0.01)
    assert mean_chance("short", 200) == pytest.approx(7.5e-4, rel=0.01)


@pytest.mark.slow
def test_the_exact_chance_is_that_of_episodes() -> None:
    env = make("palestra/ToolChain-v0", "train-short")
    rng = random.Random(0)
    wins = 0.0
    for _ in range(20_000):
        env.reset(options={"index": 1})
        over = False
        while not over:
            _, reward, terminated, truncated, _ = env.step(env.random_action(rng))
            over = terminated or truncated
        wins += reward
    expected = 20_000 * exact_chance(env, 1)
    assert abs(wins - expected) < 4 * expected**0.5


@pytest.mark.parametrize("variant", ["train", "longer", "other-transforms", "hint-free", "wording"])
def test_what_is_seen_is_a_function_of_the_state_and_tells_it(variant: str) -> None:
    env = make("palestra/ToolChain-v0", variant)
    rng = random.Random(0)
    for index in range(10):
        views: dict[str, str] = {}
        visits = 0
        for _ in range(30):
            observation, _ = env.reset(options={"index": index})
            over = False
            while not over:
                assert views.setdefault(env.world.state(), observation) == observation
                visits += 1
                calls = [action for action in env.legal_actions() if "<answer>" not in action]
                observation, _, terminated, truncated, _ = env.step(rng.choice(calls))
                over = terminated or truncated
        assert len(set(views.values())) == len(views)
        assert visits > 3 * len(views)  # states recur, so same-state groups have members


def test_going_round_in_circles_pays_nothing() -> None:
    env = make("palestra/ToolChain-v0")
    rng = random.Random(0)
    for index in range(50):
        env.reset(options={"index": index})
        total, over = 0.0, False
        while not over:
            _, _, terminated, truncated, info = env.step(env.random_action(rng))
            total += info["reward"]["process"].get("progress", 0.0)
            over = terminated or truncated
        assert total == pytest.approx(env.world.potential())
        assert 0 <= total <= 1


def test_every_needed_call_earns_the_same_progress() -> None:
    env = make("palestra/ToolChain-v0", "longer")
    env.reset(options={"index": 0})
    earned = [env.step(a)[4]["reward"]["process"].get("progress", 0.0) for a in env.solve(env.task).turns]
    assert earned == pytest.approx([0.1] * 10 + [0.0])


def test_the_notes_suffice() -> None:
    env = make("palestra/ToolChain-v0")
    for index in range(100):
        observation, _ = env.reset(options={"index": index})
        while observation.startswith("room"):
            drawer, *operations = observation.split(" | ")[1].split()[1:]
            env.step(format_tool_call("look", {"at": drawer}))
            for operation in operations:
                env.step(
                    format_tool_call("find", {})
                    if operation == "table"
                    else format_tool_call("apply", {"how": operation})
                )
            observation, *_ = env.step(format_tool_call("open", {}))
        assert env.step(f"<answer>{observation.removeprefix('end | code ')}</answer>")[1] == 1.0


def test_the_code_is_nowhere_before_the_last_door() -> None:
    env = make("palestra/ToolChain-v0")
    for index in range(200):
        task = env.task_at(index)
        words = [*task.data["table"], *task.data["table"].values()]
        words += [word for room in task.data["rooms"] for word in (*room.words.values(), room.code)]
        assert all(len(word) == 3 for word in words)
        assert len(task.answer) == 4


def test_notes_of_hint_free_tasks_do_not_name_operations() -> None:
    env = make("palestra/ToolChain-v0", "hint-free")
    for index in range(50):
        rooms = env.task_at(index).data["rooms"]
        note = " ".join([rooms[0].drawer, *"?" * len(rooms[0].operations)])
        assert env.task_at(index).prompt == f"room 1 | note {note} | hand -"


def test_other_transforms_share_none_with_training() -> None:
    known, new = (set(make("palestra/ToolChain-v0", v).transformations) for v in ("train", "other-transforms"))
    assert not known & new
    words = ["abc", "bgd", "hae"]
    for one in known:
        for other in new:
            assert any(TRANSFORMATIONS[one][1](word) != TRANSFORMATIONS[other][1](word) for word in words)


@pytest.mark.parametrize(
    ("name", "results"),
    {
        "rev": ("cba", "fah"),
        "up": ("bcd", "abg"),
        "roll": ("bca", "afh"),
        "down": ("hab", "ghe"),
        "swap": ("bac", "ahf"),
        "flip": ("hgf", "ahc"),
    }.items(),
)
def test_transformations_by_hand(name: str, results: tuple[str, str]) -> None:
    function = TRANSFORMATIONS[name][1]
    assert (function("abc"), function("haf")) == results
    assert set(function("hah")) <= set(LETTERS)


def test_calls_the_world_does_not_understand_leave_it_alone() -> None:
    env = make("palestra/ToolChain-v0")
    prompt, _ = env.reset(options={"index": 0})
    assert env.step(format_tool_call("look", {"at": "q"}))[0] == "Error: there is no drawer 'q'; drawers: w, x, y, z."
    assert env.step(format_tool_call("apply", {"how": "flip"}))[0] == (
        "Error: there is no transformation 'flip'; transformations: rev, up, roll."
    )
    assert env.step(format_tool_call("open", {}))[0] == prompt


def test_texts_are_short() -> None:
    for variant, longest in (("train", 60), ("wording", 80)):
        env = make("palestra/ToolChain-v0", variant)
        for index in range(100):
            env.reset(options={"index": index})
            for action in env.solve(env.task).turns:
                assert len(action) <= 70
                assert len(env.step(action)[0]) < longest
