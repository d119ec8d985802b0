import random
import re

import gymnasium
import pytest

import palestra.envs
from palestra.envs.core import Task
from palestra.envs.tasks.counting import MIN_ANSWER, Condition, Counting, count, parse_count
from palestra.envs.toolcalls import parse_tool_calls

VARIANTS = list(Counting.variants)
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def tasks(variant: str, number: int) -> list[Task]:
    env = Counting(variant)
    return [env.task_at(index) for index in range(number)]


def brute_force(task: Task) -> int:
    """Count with the conditions' code alone, which is what a model could have written."""
    test = compile(" and ".join(f"({code})" for code in task.data["codes"]), "<test>", "eval")
    return sum(bool(eval(test, {"n": n})) for n in range(task.data["a"], task.data["b"] + 1))


@every_variant
def test_answer_agrees_with_the_code_of_the_conditions(variant: str) -> None:
    for task in tasks(variant, 6):
        assert brute_force(task) == int(task.answer)


def test_every_kind_of_condition_agrees_with_its_code() -> None:
    seen: set[str] = set()
    for seed in range(300):
        task = Counting("train").sample(random.Random(seed))
        seen |= {re.sub(r"\d+", "#", code) for code in task.data["codes"]}
        if seed < 40:
            assert brute_force(task) == int(task.answer)
    assert len(seen) == 9


@every_variant
def test_answers_are_worth_counting_and_seldom_guessed(variant: str) -> None:
    env = Counting(variant)
    rng = random.Random(1)
    drawn = tasks(variant, 60)
    assert all(int(task.answer) >= MIN_ANSWER for task in drawn)
    hits = sum(env.grade(task, env.guess(task, rng)).outcome for task in drawn for _ in range(50))
    assert hits / 3000 < 0.03


def test_hand_counted_example() -> None:
    seventh = Condition("n % 7 == 0", ("",), lambda s: s.n % 7 == 0, 1 / 7)
    palindrome = Condition("str(n) == str(n)[::-1]", ("",), lambda s: s.palindrome, 1 / 100)
    assert count(1, 200, (seventh, palindrome)) == 3  # 7, 77 and 161


def test_prompt_states_the_range() -> None:
    for task in tasks("train", 10):
        assert re.search(rf"\b{task.data['a']}\b.*\b{task.data['b']}\b", task.prompt)


def test_condition_that_excludes_nothing_is_refused() -> None:
    third = Condition("n % 3 == 0", ("",), lambda s: s.n % 3 == 0, 1 / 3)
    sixth = Condition("n % 6 == 0", ("",), lambda s: s.n % 6 == 0, 1 / 6)
    assert count(1, 100, (third, sixth)) == 16
    assert count(1, 100, (sixth, third)) == 0


@every_variant
def test_variants_differ_as_they_say(variant: str) -> None:
    env = Counting(variant)
    for task in tasks(variant, 10):
        assert env.conditions[0] <= len(task.data["codes"]) <= env.conditions[1]
        assert env.widths[0] <= task.data["b"] - task.data["a"] + 1 <= env.widths[1]


def test_wording_varies_and_does_not_enter_the_key() -> None:
    drawn = tasks("train", 40)
    assert len({task.prompt.split()[0] for task in drawn}) == 3
    assert all(task.key.startswith(f"{task.data['a']}..{task.data['b']}: ") for task in drawn)
    assert len({task.key for task in drawn}) == 40


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1234", 1234),
        ("1,234", 1234),
        (" $1 234$ ", 1234),
        ("1_234.", 1234),
        ("+12", 12),
        ("12.0", 12),
        ("0", 0),
        ("12.5", None),
        ("-3", None),
        ("twelve", None),
        ("", None),
        ("1,23", None),
        ("12 or 13", None),
        ("9" * 40, None),
        ("\u0661\u0662", None),
    ],
)
def test_counts_are_read_leniently(text: str, value: int | None) -> None:
    assert parse_count(text) == value


def test_grading_is_strict_and_close_is_only_a_process_term() -> None:
    env = Counting("train")
    task = next(t for t in tasks("train", 50) if int(t.answer) > 100)
    right = int(task.answer)
    assert env.grade(task, f"{right:,}").outcome == 1.0
    near = env.grade(task, str(right + 1))
    assert (near.outcome, near.process) == (0.0, {"close": 1.0})
    assert env.grade(task, str(2 * right)).process == {"close": 0.0}
    assert env.grade(task, "about 100").outcome == 0.0


@every_variant
def test_oracle_writes_a_program_that_prints_the_answer(variant: str, capsys: pytest.CaptureFixture[str]) -> None:
    env = Counting(variant)
    for task in tasks(variant, 3):
        call, answer = env.solve(task).turns
        (parsed,) = parse_tool_calls(call)
        exec(compile(parsed.arguments["code"], "<oracle>", "exec"), {})
        assert capsys.readouterr().out == f"{task.answer}\n"
        assert answer == f"<answer>{task.answer}</answer>"


def test_environment_can_be_made_without_a_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    env = gymnasium.make("palestra/Counting-v0", variant="test")
    observation, info = env.reset(options={"index": 3})
    assert str(info["task"]) == "palestra/Counting-v0/test/3"
    right = palestra.envs.make("palestra/Counting-v0", "test").task_at(3).answer
    assert env.step(f"<answer>{right}</answer>")[1:3] == (1.0, True)
    assert "integer" in observation


@pytest.mark.sandbox
@every_variant
def test_oracle_solves_it_in_the_sandbox(variant: str) -> None:
    env = Counting(variant)
    for index in range(3):
        env.reset(options={"index": index})
        assert env.task is not None
        call, answer = env.solve(env.task).turns
        observation, _, terminated, _, info = env.step(call)
        assert (observation, terminated, info["kind"]) == (env.task.answer, False, "tool")
        assert env.step(answer)[1:3] == (1.0, True)


@pytest.mark.sandbox
def test_episodes_repeat_exactly() -> None:
    code = "print({str(n) for n in range(20)}, hash('a')); undefined"
    turns = [f"```python\n{code}\n```", "no idea", "<answer>7</answer>"]

    def play() -> list[object]:
        env = Counting("train")
        return [env.reset(options={"index": 1}), *(env.step(turn) for turn in turns)]

    assert play() == play()
