import itertools
import re
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palestra.envs import Reward, Task, format_tool_call, make
from palestra.envs.expressions import parse_fraction
from palestra.envs.tasks.dice import probability


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(-2, 30))
def test_probability_equals_enumeration(sizes: list[int], target: int) -> None:
    rolls = list(itertools.product(*(range(1, size + 1) for size in sizes)))
    assert probability(sizes, target) == Fraction(sum(sum(r) >= target for r in rolls), len(rolls))


def test_known_value() -> None:
    # reasoning-gym's own example: 1d20, 1d14, 1d12 and 1d6 reaching 21.
    assert probability([20, 14, 12, 6], 21) == Fraction(781, 960)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5/12", Fraction(5, 12)),
        (" 10 / 24 ", Fraction(5, 12)),
        (r"\frac{5}{12}", Fraction(5, 12)),
        ("0.25", Fraction(1, 4)),
        ("1", Fraction(1)),
        ("$1/2$", Fraction(1, 2)),
        ("1/0", None),
        ("", None),
        ("5/12/2", None),
        ("about 1/2", None),
        ("1" * 50 + "/2", None),
        ("nan", None),
        ("1e5", None),
        (r"1\frac{5}{36}", None),
        (r"\frac{5}{1}2", None),
        ("٥/١٢", None),
        ("5/12.", Fraction(5, 12)),
        (r"\(5/12\)", Fraction(5, 12)),
        ("**5/12**", Fraction(5, 12)),
        ("P = 5/12", Fraction(5, 12)),
        ("5⁄12", Fraction(5, 12)),
    ],
)
def test_answers_are_read_as_values(text: str, value: Fraction | None) -> None:
    assert parse_fraction(text) == value


def test_grading_is_strict_on_the_value_and_names_the_form() -> None:
    env = make("palestra/Dice-v0")
    task = Task("", "5/12", "", {"sizes": [4, 6], "target": 6})
    right, doubled, near = (env.grade(task, a) for a in ("5/12", "10/24", "0.4167"))
    assert right.outcome == doubled.outcome == 1.0
    assert (right.process["reduced"], doubled.process["reduced"]) == (1.0, 0.0)
    assert near.outcome == 0.0
    assert env.grade(task, r"\frac{5}{12}").process["reduced"] == 1.0
    quarter = Task("", "1/4", "", {"sizes": [4, 6], "target": 6})
    assert env.grade(quarter, "0.25") == Reward(1.0, {"reduced": 0.0, "possible": 1.0})
    assert env.grade(task, "7/24").process == {"reduced": 0.0, "possible": 1.0}
    assert env.grade(task, "7/25").process == {"reduced": 0.0, "possible": 0.0}


ROLL = re.compile(r"([0-9]+)d([0-9]+)")
BOUND = re.compile(r"at (least|most) ([0-9]+)")


@pytest.mark.parametrize("variant", make("palestra/Dice-v0").variants)
def test_answers_equal_the_enumeration_of_what_the_prompt_says(variant: str) -> None:
    env = make("palestra/Dice-v0", variant)
    for index in range(6 if variant in {"more-dice", "bigger-dice"} else 40):
        task = env.task_at(index)
        faces = [range(1, int(size) + 1) for n, size in ROLL.findall(task.prompt) for _ in range(int(n))]
        direction, bound = BOUND.findall(task.prompt)[0]
        sums = Counter(sum(roll) for roll in itertools.product(*faces))
        good = sum(n for s, n in sums.items() if (s >= int(bound) if direction == "least" else s <= int(bound)))
        assert 0 < good < sums.total()
        assert Fraction(task.answer) == Fraction(good, sums.total())


def test_only_the_rule_variant_turns_the_question_around() -> None:
    asked = {v: make("palestra/Dice-v0", v).task_at(0).prompt for v in make("palestra/Dice-v0").variants}
    assert [v for v, prompt in asked.items() if "at most" in prompt] == ["at-most"]


def test_without_the_tool_there_is_none_and_under_another_name_the_old_one_is_unknown() -> None:
    assert make("palestra/Dice-v0", "no-tool").tools == ()
    env = make("palestra/Dice-v0", "tool-renamed")
    env.reset(options={"index": 0})
    assert env.step(format_tool_call("calculator", {"expression": "1+1"}))[0].startswith("Error: there is no tool")
    assert env.step(format_tool_call("abacus", {"expression": "1+1"}))[0] == "2"


def test_no_task_is_certain_or_impossible() -> None:
    for variant in make("palestra/Dice-v0").variants:
        env = make("palestra/Dice-v0", variant)
        assert all(0 < Fraction(env.task_at(i).answer) < 1 for i in range(300))


def test_a_problem_and_its_complement_are_one() -> None:
    at_least, at_most = make("palestra/Dice-v0", "train"), make("palestra/Dice-v0", "at-most")
    seen: dict[str, Fraction] = {}
    for env in (at_least, at_most):
        for index in range(300):
            task = env.task_at(index)
            chance = Fraction(task.answer)
            assert seen.setdefault(task.key, chance) in {chance, 1 - chance}
    keys = [{env.task_at(index).key for index in range(300)} for env in (at_least, at_most)]
    assert not keys[0] & keys[1]
