import random
import re
from collections import Counter

import pytest

from palestra.envs import Task, make
from palestra.envs.expressions import parse_formula

ID = "palestra/Countdown-v0"
TASK = Task("", "", "", {"numbers": [3, 7, 25, 2], "target": 46})


@pytest.mark.parametrize("variant", make(ID).variants)
def test_the_formula_that_a_task_is_built_from_obeys_what_the_prompt_says(variant: str) -> None:
    env = make(ID, variant)
    for index in range(200):
        task = env.task_at(index)
        said = [int(number) for number in re.findall("[0-9]+", task.prompt)]
        target, numbers = task.data["target"], task.data["numbers"]
        assert sorted(said) == sorted([*numbers, target])
        value, used = parse_formula(task.answer)
        assert value == target
        assert target not in numbers
        assert Counter(used) <= Counter(numbers)
        if "every number exactly once" in task.prompt:
            assert Counter(used) == Counter(numbers)


def test_variants_differ_in_what_their_names_say() -> None:
    def counts(variant: str) -> set[int]:
        return {len(make(ID, variant).task_at(i).data["numbers"]) for i in range(50)}

    assert counts("train") == counts("test") == {3, 4}
    assert (counts("numbers-5"), counts("numbers-6")) == ({5}, {6})
    assert min(make(ID, "bigger-targets").task_at(i).data["target"] for i in range(100)) >= 200
    assert max(make(ID).task_at(i).data["target"] for i in range(100)) < 200
    assert [v for v in make(ID).variants if make(ID, v).tools] == ["train-tool", "test-tool"]


@pytest.mark.parametrize(
    ("answer", "at_most_once", "all_of_them"),
    [
        ("3*7+25", 1.0, 0.0),
        ("25*2-7+3", 1.0, 1.0),
        ("3*7+25 = 46", 1.0, 0.0),
        ("46", 0.0, 0.0),
        ("25+7*3*1", 0.0, 0.0),
        ("7*7-3", 0.0, 0.0),
        ("25*2", 0.0, 0.0),
        ("nonsense", 0.0, 0.0),
    ],
)
def test_the_rule_decides_whether_numbers_may_be_left_out(
    answer: str, at_most_once: float, all_of_them: float
) -> None:
    assert make(ID).grade(TASK, answer).outcome == at_most_once
    assert make(ID, "all-numbers").grade(TASK, answer).outcome == all_of_them


@pytest.mark.parametrize(
    ("variant", "answer", "feedback"),
    [
        ("train", "25*2", "Wrong: it makes 50, not 46. Try again."),
        ("train", "7*7-3", "Wrong: it uses 7, which you do not have (or not that often). Try again."),
        ("all-numbers", "3*7+25", "Wrong: it leaves out 2. Try again."),
        ("train", "25/2", "Wrong: it makes 25/2, not 46. Try again."),
    ],
)
def test_feedback_is_about_the_formula(variant: str, answer: str, feedback: str) -> None:
    env = make(ID, variant)
    env.reset(options={"index": 0})
    env.task = TASK
    assert env.step(f"<answer>{answer}</answer>")[0] == feedback


def test_the_demonstration_checks_its_formula_with_the_tool() -> None:
    env = make(ID, "train-tool")
    env.reset(options={"index": 5})
    assert env.task is not None
    call, answer = env.solve(env.task).turns
    assert env.step(call)[0] == str(env.task.data["target"])
    assert env.step(answer)[1] == 1.0


def test_no_operation_of_a_formula_comes_back_to_a_number_it_had() -> None:
    env = make(ID, "numbers-6")
    for index in range(100):
        task = env.task_at(index)
        made = [line.split(" = ")[1].split(";")[0] for line in env.solve(task).turns[0].splitlines()[:-1]]
        assert len(set(made)) == len(made)
        assert not set(map(int, made)) & set(task.data["numbers"])


def test_sampling_is_a_function_of_the_generator_alone() -> None:
    for variant in make(ID).variants:
        env = make(ID, variant)
        assert env.sample(random.Random(5)) == env.sample(random.Random(5))
