import random
import re
from fractions import Fraction

import pytest

from palestra.envs import Task, format_tool_call, make
from palestra.envs.tasks.word_problems import parse_amount
from palestra.envs.tasks.word_stories import OTHER, USUAL, tell

ID = "palestra/WordProblems-v0"
IN_WORDS = {
    "half": 2,
    "third": 3,
    "quarter": 4,
    "fifth": 5,
    "twice": 2,
    "three times": 3,
    "four times": 4,
    "five times": 5,
}
NUMBER = re.compile("|".join([r"[0-9]+", *IN_WORDS]))


def computed(key: str) -> Fraction:
    """The answer by an independent reading of the key."""
    _, *parts = key.split("; ")
    values: list[Fraction] = []
    for part in parts:
        name, *rest = re.fullmatch(r"([a-z ]+\??)((?: [0-9]+)*)", part).groups()  # type: ignore[union-attr]
        m, k = ([1] + [int(n) for n in rest[0].split()])[-2:] if rest[0] else (0, 0)
        v = values[-1] if values else Fraction(0)
        match name:
            case "own" | "machine" | "bill":
                values.append(Fraction(m * k))
            case "more" | "get" | "delivery" | "second" | "bags" | "also":
                values.append(v + m * k)
            case "fewer" | "give" | "coupon" | "faulty" | "costs":
                values.append(v - k)
            case "as many" | "grow" | "hours" | "price":
                values.append(v * k)
            case "a part" | "keep" | "boxes" | "workers" | "split?":
                values.append(v / k)
            case "discount":
                values.append(v - v * k / 100)
            case "change?":
                values.append(k - v)
            case "total?":
                values.append(sum(values, Fraction(0)))
            case "gap?":
                values.append(abs(values[-1] - values[0]))
            case _:
                assert name.endswith("?")
    return values[-1]


@pytest.mark.parametrize("variant", make(ID).variants)
def test_answers_equal_an_independent_reading_of_the_story(variant: str) -> None:
    env = make(ID, variant)
    for index in range(150):
        task = env.task_at(index)
        assert Fraction(task.answer) == computed(task.key), task


def numbers_of(text: str) -> list[int]:
    return [IN_WORDS.get(word) or int(word) for word in NUMBER.findall(text)]


@pytest.mark.parametrize("variant", [v for v in make(ID).variants if v != "distractor"])
def test_the_prompt_states_exactly_the_numbers_of_the_problem_in_order(variant: str) -> None:
    env = make(ID, variant)
    for index in range(150):
        task = env.task_at(index)
        assert numbers_of(task.prompt) == [int(n) for n in re.findall("[0-9]+", task.key)]


def test_a_distractor_adds_one_sentence_with_one_number_and_changes_nothing_else() -> None:
    for seed in range(200):
        plain, aside = (tell(random.Random(seed), 3, (2, 60), False, asides) for asides in (0, 1))
        (extra,) = [s for s in aside.sentences if s not in plain.sentences]
        assert [s for s in aside.sentences if s != extra] == plain.sentences
        assert len(numbers_of(extra)) == 1
        assert aside.sentences.index(extra) not in (0, len(aside.sentences) - 1)
        assert (plain.key, plain.value) == (aside.key, aside.value)


def test_phrases_of_the_wording_variant_are_its_own() -> None:
    assert USUAL.keys() == OTHER.keys()
    assert not {p for phrases in USUAL.values() for p in phrases} & {p for phrases in OTHER.values() for p in phrases}


def test_names_and_things_are_no_part_of_the_problem() -> None:
    env = make(ID)
    key = env.task_at(0).key
    assert not re.search("[A-Z]", key)


def test_the_number_of_steps_is_that_of_the_variant() -> None:
    for variant, allowed in (("train", {2, 3, 4}), ("more-steps", {5, 6, 7})):
        env = make(ID, variant)
        assert {len(env.task_at(i).data["steps"]) for i in range(150)} == allowed


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("17", 17),
        ("$13.50", Fraction(27, 2)),
        (r"\$13.50", Fraction(27, 2)),
        ("$27/2$", Fraction(27, 2)),
        ("27/2", Fraction(27, 2)),
        (r"\frac{27}{2}", Fraction(27, 2)),
        ("1,200 dollars", 1200),
        ("12 Stamps.", 12),
        (r"12\text{ boxes}", 12),
        ("12 thousand", None),
        ("12 or 13", None),
        ("twelve", None),
        ("", None),
    ],
)
def test_amounts_are_read_as_values(text: str, value: Fraction | None) -> None:
    assert parse_amount(text) == value


def test_grading_is_strict_on_the_value() -> None:
    task = Task("", "22/3", "", {"steps": [], "numbers": []})
    env = make(ID)
    assert env.grade(task, "22/3").outcome == env.grade(task, "44/6").outcome == 1.0
    assert env.grade(task, "7.33").outcome == env.grade(task, "7.3333333333").outcome == 0.0


def test_each_needed_value_of_the_calculator_is_paid_once_and_in_order() -> None:
    env = make(ID)
    env.reset(options={"index": 1})
    assert env.task is not None
    steps = env.task.data["steps"]
    paid = []
    for expression in (steps[-1].expression, *(s.expression for s in steps), steps[0].expression, "0"):
        *_, info = env.step(format_tool_call("calculator", {"expression": expression}))
        paid.append(info["reward"]["process"].get("steps", 0.0))
    assert paid == pytest.approx([0.0, *[1 / len(steps)] * len(steps), 0.0, 0.0])


def test_the_tool_variants_differ_in_the_tool_only() -> None:
    names = {v: [tool.name for tool in make(ID, v).tools] for v in make(ID).variants}
    assert names.pop("no-tool") == []
    assert names.pop("tool-renamed") == ["abacus"]
    assert all(n == ["calculator"] for n in names.values())


def test_nobody_is_told_of_twice_in_a_comparison() -> None:
    from math import gcd

    from palestra.envs.tasks.word_stories import NAMES

    assert all(gcd(stride, len(NAMES)) == 1 for stride in range(1, len(NAMES)))
