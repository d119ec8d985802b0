"""PythonCoding. What a function should give is derived twice: by trusted operations, and by the rendered text."""

import copy
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from palestra.envs import TextEnv, make
from palestra.envs.grading import unit_tests
from palestra.envs.sandbox.shared import shared_sandbox
from palestra.envs.tasks.code_functions import (
    BATTERY,
    HELD_OUT_OPERATIONS,
    TRAIN_OPERATIONS,
    Function,
    draw_function,
    draw_input,
)
from palestra.envs.tasks.code_steps import Operation, Step
from palestra.envs.tasks.python_coding import PythonCoding, code_in

ID = "palestra/PythonCoding-v0"
HELD_OUT = [o for pool in HELD_OUT_OPERATIONS.values() for o in pool]
OPERATIONS = [*(o for pool in TRAIN_OPERATIONS.values() for o in pool), *HELD_OUT]
EDGES: dict[str, list[Any]] = {
    "numbers": [[], [0], [-3], [5, 5], [5, 5, -5], list(range(12)), [0, -1, 2, -2, 1, 1]],
    "text": ["", " ", "a", "Az z", "aab  bA", "xyz", "e3E3"],
    "words": [[], ["a"], ["bb", "a", "Bb", "bb"], ["", "x"]],
    "moves": ["", "L", "UUUURRRRDDDDLLLL", "LURD", "RRDUL"],
    "n": [1, 2, 7, 16, 97, 120],
}


@pytest.fixture
def unsafe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs tests of harmless submissions where there is no bubblewrap."""
    monkeypatch.setattr("palestra.envs.sandbox.shared._default", "unsafe-process")


def named(name: str, *params: Any) -> Step:
    return Step(next(o for o in OPERATIONS if o.name == name), params)


# The operations.


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: o.name)
def test_the_text_of_an_operation_does_what_the_trusted_code_does(operation: Operation) -> None:
    rng = random.Random(1)
    inputs = [*EDGES[operation.takes], *BATTERY[operation.takes]]
    inputs += [draw_input(operation.takes, rng, long) for long in (False, True) for _ in range(5)]
    before = copy.deepcopy(inputs)
    steps = [Step(operation, operation.draw(rng)) for _ in range(3)]
    expected = [[step.run(value) for value in inputs] for step in steps]
    assert inputs == before
    bodies = "\n".join(Function(operation.takes, (step,)).render(f"f{i}", "argument") for i, step in enumerate(steps))
    program = (
        f"import json\n{bodies}\ninputs = {inputs!r}\n"
        "print(json.dumps([[f(json.loads(json.dumps(v))) for v in inputs] for f in (f0, f1, f2)]))"
    )
    result = shared_sandbox("unsafe-process").run(program)
    assert result.status == "ok", result.stderr
    assert json.loads(result.stdout) == expected


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: o.name)
def test_both_wordings_name_every_parameter_and_differ(operation: Operation) -> None:
    step = Step(operation, operation.draw(random.Random(2)))
    for wording in (0, 1):
        assert all(str(p) in step.describe(wording) for p in step.params)
        assert "{" not in step.describe(wording)
    assert step.describe(0) != step.describe(1)


def test_operations_have_names_of_their_own_and_give_what_they_say() -> None:
    assert len({o.name for o in OPERATIONS}) == len(OPERATIONS)
    kinds = {"numbers": list, "number": int, "text": str, "words": list}
    for operation in OPERATIONS:
        for value in EDGES[operation.takes]:
            got = operation.run(value, *operation.draw(random.Random(3)))
            assert type(got) is kinds[operation.gives]
            if operation.gives in ("numbers", "words"):
                assert {type(item) for item in got} <= {int if operation.gives == "numbers" else str}


def test_a_function_computed_by_hand() -> None:
    function = Function("numbers", (named("multiples", 3), named("square"), named("totals"), named("ends")))
    assert function([3, 4, -6, 9, 1]) == (9 + 36 + 81) - 9
    assert function.render("f", "v") == (
        "def f(v):\n    x = v\n    x = [v for v in x if v % 3 == 0]\n    x = [v * v for v in x]\n"
        "    total, sums = 0, []\n    for v in x:\n        total += v\n        sums.append(total)\n    x = sums\n"
        "    x = x[-1] - x[0] if x else 0\n    return x"
    )


def test_functions_that_do_the_same_have_the_same_key() -> None:
    one = Function("numbers", (named("multiples", 3), named("reverse"), named("square")))
    twin = Function("numbers", (named("reverse"), named("square"), named("multiples", 3)))
    other = Function("numbers", (named("reverse"), named("square"), named("multiples", 2)))
    assert one.key == twin.key != other.key


def test_a_step_without_effect_is_refused() -> None:
    assert not Function("numbers", (named("sort"), named("sum"))).discriminates()
    assert not Function("numbers", (named("square"), named("above", -2))).discriminates()
    assert Function("numbers", (named("totals"), named("multiples", 3))).discriminates()


# The tasks.


def mistakes(function: Function) -> list[Any]:
    """Every function with one step done wrong or left out."""
    made = []
    for i, step in enumerate(function.steps):
        for wrong in step.mistakes():
            before, after = function.steps[:i], function.steps[i + 1 :]

            def run(value: Any, before: Any = before, wrong: Any = wrong, after: Any = after) -> Any:
                for earlier in before:
                    value = earlier.run(value)
                value = wrong(value)
                for later in after:
                    value = later.run(value)
                return value

            made.append(run)
    return made


@pytest.mark.parametrize("variant", PythonCoding.variants)
def test_hidden_tests_fail_near_misses_constants_and_hard_coded_examples(variant: str) -> None:
    env = make(ID, variant)
    for index in range(30):
        task = env.task_at(index)
        function, hidden, visible = task.data["function"], task.data["hidden"], task.data["visible"]
        right = [function(value) for value in hidden]
        for wrong in mistakes(function):
            assert [wrong(value) for value in hidden] != right
        assert all(right != [constant] * len(right) for constant in right)
        assert right != hidden
        known = {repr(value): function(value) for value in visible}
        for fallback in (*known.values(), None, 0, "", []):
            assert [known.get(repr(value), fallback) for value in hidden] != right


@pytest.mark.parametrize("variant", PythonCoding.variants)
def test_no_input_is_tested_twice_and_none_that_is_hidden_is_shown(variant: str) -> None:
    env = make(ID, variant)
    for index in range(30):
        task = env.task_at(index)
        inputs = [repr(value) for value in (*task.data["visible"], *task.data["hidden"])]
        assert len(set(inputs)) == len(inputs) == env.examples + 9  # type: ignore[attr-defined]
        assert not any(f"({value!r})" in task.prompt for value in task.data["hidden"])
        assert all(f"({value!r})" in task.prompt for value in task.data["visible"])


def test_training_never_has_a_held_out_operation_and_that_variant_always() -> None:
    held_out = {o.name for o in HELD_OUT}
    for variant in PythonCoding.variants:
        env = make(ID, variant)
        for index in range(30):
            names = {step.operation.name for step in env.task_at(index).data["function"].steps}
            assert bool(names & held_out) == (variant == "other-operations")


@pytest.mark.slow
def test_there_are_20000_functions_and_a_random_one_is_hardly_ever_right() -> None:
    rng = random.Random(0)
    draws = 40_000
    keys = Counter(draw_function(rng, (TRAIN_OPERATIONS,), (3, 4)).key for _ in range(draws))
    assert len(keys) > 20_000
    same = sum(n * (n - 1) for n in keys.values())
    assert same / (draws * (draws - 1)) < 1e-3


# The episodes.


def test_code_is_found_in_an_answer() -> None:
    code = "def f(x):\n    return x"
    assert code_in(code) == code
    for answer in (f"```python\n{code}\n```", f"So:\n```py\n{code}\n```\nDone.", f"```\nx\n```\n```\n{code}\n```"):
        assert code_in(answer) == code
    documented = 'def f(x):\n    """Doc.\n\n    ```\n    f(1)\n    ```\n    """\n    return x'
    assert code_in(documented) == documented
    assert code_in(f"So:\n```python\n{documented}\n```\nDone.") == documented
    assert code_in(f"```python\n{code}") == code


WRAPS = (
    "```python\n{}\n```",
    "This is it:\n```\n{}\n```\nIt works.",
    "<answer>\n{}\n</answer>",
    "<answer>\n```python\n{}\n```\n</answer>",
)


@pytest.mark.parametrize("wrap", WRAPS)
def test_code_counts_however_it_is_wrapped(unsafe: None, wrap: str) -> None:
    env = make(ID)
    env.reset(options={"index": 0})
    assert env.task is not None
    _, reward, terminated, _, info = env.step(wrap.format(env.task.answer))
    assert (reward, terminated, info["kind"]) == (1.0, True, "answer")
    assert info["reward"]["process"] == {"tests": 1.0}


def test_with_a_tool_fenced_code_is_run_and_between_answer_tags_it_is_graded(unsafe: None) -> None:
    with make(ID, "train-tool") as env:
        env.reset(options={"index": 0})
        assert env.task is not None
        code = env.task.answer
        observation, _, terminated, _, info = env.step(f"```python\n{code}\nprint(1 + 1)\n```")
        assert (observation, terminated, info["kind"]) == ("2", False, "tool")
        assert env.step(WRAPS[3].format(code))[1:3] == (1.0, True)


@pytest.mark.parametrize("variant", PythonCoding.variants)
def test_the_oracle_solves_every_variant(unsafe: None, variant: str) -> None:
    with make(ID, variant) as env:
        for index in range(3):
            env.reset(options={"index": index})
            assert env.task is not None
            for action in env.demonstrate(env.task).turns:
                _, reward, terminated, _, _ = env.step(action)
            assert (reward, terminated) == (1.0, True)


def answer_with(env: TextEnv, body: str) -> str:
    assert env.task is not None
    return f"<answer>def {env.task.data['name']}(x):\n    {body}</answer>"


def test_feedback_shows_how_examples_fail_and_only_counts_hidden_tests(unsafe: None) -> None:
    env = make(ID)
    env.reset(options={"index": 0})
    assert env.task is not None
    name, visible, function = env.task.data["name"], env.task.data["visible"], env.task.data["function"]
    observation, reward, terminated, _, info = env.step(answer_with(env, "raise ValueError(f'got {x!r}')"))
    assert (reward, terminated, info["reward"]["process"]) == (0.0, False, {})
    lines = observation.splitlines()
    assert lines[0] == "3 of 3 examples fail."
    assert lines[1:4] == [
        f"{name}({v!r}) should be {function(v)!r}, but failed: ValueError: got {v!r}." for v in visible
    ]
    assert lines[4] == "9 of 9 hidden tests fail."
    assert not any(repr(value) in observation for value in env.task.data["hidden"] if len(repr(value)) > 12)
    observation, *_ = env.step(answer_with(env, "return 'nothing'"))
    assert 'but returned "nothing".' in observation
    _, reward, terminated, _, info = env.step(answer_with(env, "return None"))
    assert (reward, terminated, info["reward"]["process"]) == (0.0, True, {"tests": 0.0})


def test_an_answer_can_be_repaired(unsafe: None) -> None:
    env = make(ID)
    env.reset(options={"index": 0})
    assert env.task is not None
    env.step(answer_with(env, "return x"))
    assert env.step(f"<answer>{env.task.answer}</answer>")[1:3] == (1.0, True)


def test_hard_coded_examples_earn_the_process_term_but_not_the_outcome(unsafe: None) -> None:
    env = make(ID, "test")
    env.reset(options={"index": 0})
    assert env.task is not None
    table = {repr(value): env.task.data["function"](value) for value in env.task.data["visible"]}
    cheat = answer_with(env, f"return {table!r}.get(repr(x), 0)")
    for _ in range(2):
        observation, reward, terminated, *_ = env.step(cheat)
        assert (reward, terminated) == (0.0, False)
        assert observation.startswith("0 of 3 examples fail.\n")
    _, reward, terminated, _, info = env.step(cheat)
    assert (reward, terminated, info["reward"]["process"]) == (0.0, True, {"tests": 1.0})


def test_without_examples_only_a_number_is_told(unsafe: None) -> None:
    env = make(ID, "no-examples")
    env.reset(options={"index": 0})
    observation, _, _, _, info = env.step(answer_with(env, "return x"))
    assert observation.splitlines()[0].endswith(" of 9 hidden tests fail.")
    assert len(observation.splitlines()) == 2
    assert info["reward"]["process"] == {}


def test_an_example_that_does_not_end_is_told_and_the_hidden_tests_are_spared(
    unsafe: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("palestra.envs.tasks.python_coding.TIMEOUT_S", 0.2)
    env = make(ID)
    env.reset(options={"index": 0})
    observation, *_ = env.step(answer_with(env, "while True: pass"))
    assert observation.count("but was stopped after") == 3
    assert "The hidden tests were not run." in observation


def test_what_defines_no_such_function_needs_no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(name: str | None) -> None:
        raise AssertionError(name)

    monkeypatch.setattr(unit_tests, "shared_sandbox", unreachable)
    env = make(ID)
    rng = random.Random(0)
    env.reset(options={"index": 0})
    observation, reward, *_ = env.step("<answer>42</answer>")
    assert observation.startswith("The answer does not define the function ")
    for index in range(30):
        env.reset(options={"index": index})
        assert env.step(env.random_action(rng))[1] == 0.0


def test_what_is_expected_never_enters_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    from scripted_sandbox import ScriptedSandbox, result

    sandbox = ScriptedSandbox(result("ok", "null"))
    monkeypatch.setattr(unit_tests, "shared_sandbox", lambda name: sandbox)
    env = make(ID)
    index = next(i for i in range(50) if env.task_at(i).data["function"].gives == "text")
    env.reset(options={"index": index})
    assert env.task is not None
    env.step(answer_with(env, "return None"))
    data = env.task.data
    expected = [data["function"](value) for value in (*data["visible"], *data["hidden"])]
    for request in sandbox.requests:
        text = (request.code + request.stdin).decode()
        assert not any(json.dumps(value) in text for value in expected if len(value) > 3)


HOSTILE = json.loads(Path(__file__).with_name("hostile_submissions.json").read_text(encoding="utf-8"))["submissions"]


@pytest.mark.sandbox
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_submission_fails(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palestra.envs.tasks.python_coding.TIMEOUT_S", 0.5)
    env = make(ID, "no-examples")
    task = env.task_at(0)
    source = "\n".join(HOSTILE[name]) + f"\n{task.data['name']} = f"
    assert env.grade(task, source).outcome == 0.0
    assert env.grade(task, task.answer).outcome == 1.0


@pytest.mark.sandbox
def test_a_submission_that_looks_for_the_tests_finds_only_its_own_input() -> None:
    env = make(ID)
    task = env.task_at(0)
    source = f"""
import gc, os, sys
def {task.data["name"]}(x):
    seen, frame = [], sys._getframe()
    while frame:
        seen += [*frame.f_locals.values(), *frame.f_globals.values()]
        frame = frame.f_back
    for found in seen:
        if isinstance(found, dict) and "expected" in found:
            return found["expected"]
    for cls in gc.get_objects():
        if type(cls).__name__ in ("FunctionCase", "Function", "Task"):
            return cls.expected
    return sorted(os.listdir("."))
"""
    assert env.grade(task, source).outcome == 0.0
