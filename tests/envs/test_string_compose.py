import itertools

import pytest

from palestra.envs import format_tool_call, make
from palestra.envs.tasks.string_functions import (
    ALPHABET,
    FUNCTIONS,
    HELD_OUT_FUNCTIONS,
    TRAIN_FUNCTIONS,
    apply_function,
)

VARIANTS = make("palestra/StringCompose-v0").variants


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("A", "dcba"),
        ("B", "bcda"),
        ("C", "abc"),
        ("D", "bcde"),
        ("E", "abcda"),
        ("F", "bacd"),
        ("G", "abcd"),
        ("H", "dbca"),
        ("I", "bcd"),
        ("J", "dabcd"),
        ("K", "habc"),
        ("L", "dcba"),
    ],
)
def test_functions_by_hand(name: str, result: str) -> None:
    assert apply_function(name, "abcd") == result


def test_no_function_has_a_twin() -> None:
    strings = ["".join(p) for n in (3, 4) for p in itertools.product(ALPHABET, repeat=n)]
    tables = {name: [apply_function(name, s) for s in strings] for name in FUNCTIONS}
    for one, other in itertools.combinations(FUNCTIONS, 2):
        pairs = [(x, y) for x, y, s in zip(tables[one], tables[other], strings, strict=True) if x != s]
        assert sum(x == y for x, y in pairs) / len(pairs) < 0.25, (one, other)
    assert not set(TRAIN_FUNCTIONS) & set(HELD_OUT_FUNCTIONS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_function_of_a_task_acts(variant: str) -> None:
    env = make("palestra/StringCompose-v0", variant)
    for index in range(300):
        data = env.task_at(index).data
        assert len(set(data["states"])) == env.level + 1
        assert len(data["names"]) == env.level
        assert set(data["names"]) <= set(env.functions)


def test_families_stay_apart() -> None:
    for variant, allowed in (("test", TRAIN_FUNCTIONS), ("held-out", HELD_OUT_FUNCTIONS)):
        env = make("palestra/StringCompose-v0", variant)
        assert {n for i in range(300) for n in env.task_at(i).data["names"]} == set(allowed)
    mixed = make("palestra/StringCompose-v0", "mixed")
    for i in range(300):
        names = set(mixed.task_at(i).data["names"])
        assert names & set(TRAIN_FUNCTIONS)
        assert names & set(HELD_OUT_FUNCTIONS)


def test_steps_pay_for_right_lines_even_under_a_wrong_answer() -> None:
    env = make("palestra/StringCompose-v0", "level-3")
    env.reset(options={"index": 0})
    assert env.task is not None
    first, second = env.task.data["expressions"][1:-1]
    for text, paid in ((f"{first}\n{second}", 1.0), (f"{first}\nx", 0.5), (f"x\n{first}", 0.0), ("", 0.0)):
        env.reset(options={"index": 0})
        _, reward, _, _, info = env.step(f"{text}\n<answer>zz</answer>")
        assert reward == 0.0
        assert info["reward"]["process"] == {"steps": paid}


def test_tool_steps_pay_once_and_in_order() -> None:
    env = make("palestra/StringCompose-v0", "test-tool")
    env.reset(options={"index": 0})
    assert env.task is not None
    names, states = env.task.data["names"], env.task.data["states"]
    right = format_tool_call("apply", {"function": names[0], "string": states[0]})
    wrong = format_tool_call("apply", {"function": names[1], "string": states[0]})
    paid = [env.step(action)[4]["reward"]["process"].get("steps", 0.0) for action in (wrong, right, right)]
    assert paid == [0.0, 0.5, 0.0]


@pytest.mark.parametrize(
    "arguments",
    [
        {"function": "Z", "string": "ab"},
        {"function": "A", "string": ""},
        {"function": "A", "string": "xyz"},
        {"function": "A", "string": "a" * 17},
    ],
)
def test_apply_refuses_what_it_cannot_do(arguments: dict[str, str]) -> None:
    env = make("palestra/StringCompose-v0", "test-tool")
    env.reset(seed=0)
    observation, *_ = env.step(format_tool_call("apply", arguments))
    assert observation.startswith("Error: ")


def test_definitions_are_in_the_prompt_only_where_asked() -> None:
    defined = make("palestra/StringCompose-v0", "test-defined").task_at(0).prompt
    assert "A(s): reverse." in defined
    assert "reverse" not in make("palestra/StringCompose-v0", "test").task_at(0).prompt


def test_only_calls_that_were_run_pay() -> None:
    env = make("palestra/StringCompose-v0", "test-tool")
    env.reset(options={"index": 0})
    assert env.task is not None
    names, states = env.task.data["names"], env.task.data["states"]
    steps = [{"function": n, "string": s} for n, s in zip(names, states, strict=False)]
    unknown = "".join(format_tool_call("nothing", step) for step in steps)
    beyond = format_tool_call("apply", {"function": "A", "string": "ab"}) * 8 + format_tool_call("apply", steps[0])
    for action in (unknown, beyond):
        env.reset(options={"index": 0})
        assert env.step(action)[4]["reward"]["process"] == {}
