"""Environments whose prompts and demonstrations write tool calls in a chosen syntax, and what a turn then is."""

import re

import numpy as np
import pytest

from palestra.envs import Demonstration, Reward, Task, TextEnv, Tool, format_tool_call, make, register, specs
from palestra.envs.core import MAX_TEXT
from palestra.envs.errors import UsageError
from palestra.envs.toolcalls import SYNTAXES, parse_tool_calls

WITH_TOOLS = [
    (spec.id, variant)
    for spec in specs()
    if re.fullmatch(r"palestra/[^/]+", spec.id)
    for variant in spec.variants
    if (env := make(spec.id, variant)).tools and not env.blocking
]


@register("test/Program-v0", variants={"train": {}, "test": {}, "train-prose": {"answers_in_fences": False}})
class Program(TextEnv):
    """Asks for a program."""

    answers_in_fences = True
    attempts = 3

    def sample(self, rng):
        return Task("Write it.", "x = 1", str(rng.random()))

    def grade(self, task, answer):
        return Reward(float(answer == task.answer))

    def solve(self, task):
        return Demonstration((f"```python\n{task.answer}\n```",))


class Count(Tool):
    """A tool with an optional text and a number."""

    name, description = "count", "Counts."
    parameters = {"n": {"type": "integer", "description": "how far"}}

    def __call__(self, **arguments):
        return f"counted to {arguments['n']}"


@register("test/Count-v0", variants={"train": {}, "test": {}, "train-xml": {"syntax": "xml"}})
class CountEnv(TextEnv):
    """Counts by a tool, in a turn with words around the call."""

    tools = (Count(),)

    def sample(self, rng):
        return Task("Count.", "3", str(rng.random()))

    def grade(self, task, answer):
        return Reward(float(answer == task.answer))

    def solve(self, task):
        return Demonstration((f"I count: {format_tool_call('count', {'n': 3})}", "<answer>3</answer>"))


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize(("env_id", "variant"), WITH_TOOLS)
def test_a_demonstration_solves_in_every_syntax(env_id: str, variant: str, syntax: str) -> None:
    env = make(env_id, variant, syntax=syntax)
    for index in range(5):
        env.reset(options={"index": index})
        assert env.task is not None
        for turn, original in zip(env.demonstrate(env.task).turns, env.solve(env.task).turns, strict=True):
            assert parse_tool_calls(turn, env._toolbox) == parse_tool_calls(original, env._toolbox)
            _, reward, terminated, _, _ = env.step(turn)
        assert (reward, terminated) == (1.0, True)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_prompt_and_examples_show_calls_in_the_syntax(syntax: str) -> None:
    env = make("palestra/Dice-v0", syntax=syntax)
    shown = env.format_call("calculator", {"expression": "1"})
    opening = shown[: shown.index("calculator")]
    assert opening in env.system_prompt()
    assert any(opening in action for action in env.example_actions())
    if syntax != "hermes":
        hermes = make("palestra/Dice-v0").format_call("calculator", {"expression": "1"})
        assert hermes[: hermes.index("calculator")] not in env.system_prompt()


def test_a_syntax_is_chosen_by_name_or_by_the_variant() -> None:
    assert make("test/Count-v0").syntax == "hermes"
    assert make("test/Count-v0", "train-xml").syntax == "xml"
    env = make("test/Count-v0", "train-xml")
    assert env.demonstrate(env.task_at(0)).turns[0] == 'I count: <tool name="count"><n>3</n></tool>'
    with pytest.raises(UsageError, match="'qwen-coder'"):
        make("test/Count-v0", syntax="qwen-code")


@pytest.mark.parametrize(
    "written", ['<tool name="count"><n>4</n></tool>', "<function=count><parameter=n>4</parameter></function>"]
)
def test_arguments_written_as_text_reach_the_tool_with_their_type(written: str) -> None:
    env = make("test/Count-v0")
    env.reset(seed=0)
    assert env.step(written)[0] == "counted to 4"
    assert env.step(written.replace("4", "four"))[0] == "Error: the argument 'n' of count must be of type integer."


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_submit_call_is_an_answer(syntax: str) -> None:
    env = make("palestra/StringCompose-v0")
    env.reset(seed=5)
    assert env.task is not None
    written = format_tool_call("submit", {"answer": env.task.answer}, syntax)
    assert env.step(written)[1:3] == (1.0, True)


def test_a_turn_with_a_call_never_ends_the_episode_whatever_it_answers() -> None:
    env = make("palestra/Dice-v0")
    for syntax in set(SYNTAXES) - {"llama"}:
        env.reset(seed=0)
        assert env.task is not None
        call = format_tool_call("calculator", {"expression": "1+1"}, syntax)
        observation, reward, terminated, _, info = env.step(f"<answer>{env.task.answer}</answer> {call}")
        assert (observation, reward, terminated, info["kind"]) == ("2", 0.0, False, "tool")


@pytest.mark.parametrize(
    ("turn", "answer"),
    [
        ("```python\nx = 1\n```", "x = 1"),
        ("Like this:\n```py\nx = 0\n```\nno,\n```\nx = 1\n```\nis better.", "x = 1"),
        ("<answer>x = 1</answer>\n```python\nx = 0\n```", "x = 1"),
        ('```python\nx = {"output": 2}\n```', 'x = {"output": 2}'),
        ('```json\n{"answer": "x = 1"}\n```', "x = 1"),
        ("```python\nx = 1", None),
        ("```sh\nls\n```", None),
    ],
)
def test_code_in_a_fence_is_the_answer_where_the_environment_says_so(turn: str, answer: str | None) -> None:
    env = make("test/Program-v0")
    env.reset(seed=0)
    env.step(turn)
    assert env.turns[0].answer == answer
    assert "```python" in env.system_prompt()
    prose = make("test/Program-v0", "train-prose")
    prose.reset(seed=0)
    prose.step("```python\nx = 1\n```")
    assert prose.turns[0].answer is None
    assert "```" not in prose.system_prompt()


def test_members_of_a_group_share_their_task_and_the_memory_of_tasks_is_bounded() -> None:
    drawn: list[int] = []

    @register("test/Drawn-v0", variants={"train": {}, "test": {}})
    class Drawn(Program):
        def task_at(self, index):
            drawn.append(index)
            return super().task_at(index)

    members = [make("test/Drawn-v0") for _ in range(8)]
    for index in range(600):
        for member in members:
            member.reset(options={"index": index})
    assert drawn == list(range(600))
    assert len({id(member.task) for member in members}) == 1
    members[0].reset(options={"index": 0})
    assert drawn[600:] == [0]
    assert 0 < len(Drawn._recent._made) <= 512
    make("test/Drawn-v0", "test").reset(options={"index": 0})
    assert drawn[601:] == [0]


def test_a_very_long_turn_is_read_in_a_moment() -> None:
    env = make("palestra/Dice-v0")
    env.reset(seed=0)
    observation, *_ = env.step("<tool_call>" + "x" * (MAX_TEXT - 100))
    assert "valid JSON" in observation


def submit(value: object) -> str:
    return format_tool_call("submit", {"answer": value})


@pytest.mark.parametrize(
    ("turn", "answer"),
    [
        (submit({"b": 1, "a": [2]}), '{"b": 1, "a": [2]}'),
        (submit([[1, 2], [3]]), "[[1, 2], [3]]"),
        (submit(0.00001), "0.00001"),
        (submit(3), "3"),
        (submit(True), "True"),
        (submit(r"\boxed{9/22}"), "9/22"),
        (submit("1") + submit("2"), "2"),
        ("<think>Or " + submit("1") + "?</think>" + submit("2"), "2"),
        ("<think>Or " + submit("1") + " or not", None),
        ("<think>Or " + submit("1") + "<think>", None),
        ('{"answer": 0.00001}', "0.00001"),
    ],
)
def test_a_submitted_value_is_graded_as_a_stated_one(turn: str, answer: str | None) -> None:
    env = make("palestra/StringCompose-v0")
    env.reset(seed=0)
    env.step(turn)
    assert env.turns[0].answer == answer


def test_an_empty_submission_is_told_what_it_lacks() -> None:
    env = make("palestra/Dice-v0")
    env.reset(seed=0)
    assert env.step('<tool_call>{"name": "submit", "arguments": {}}</tool_call>')[0] == (
        "Error: submit needs the argument 'answer'."
    )


@pytest.mark.parametrize("index", [1.0, "1", -1, [1], None.__class__])
def test_an_index_is_a_whole_number(index: object) -> None:
    with pytest.raises(UsageError, match="the index of a task is a whole number from 0, not"):
        make("palestra/Dice-v0").reset(options={"index": index})


def test_equal_indices_are_one_task() -> None:
    names = []
    for index in (np.int64(1), True, 1):
        env = make("palestra/Dice-v0")
        names.append((env.reset(options={"index": index})[0], str(env.task_id)))
    assert len(set(names)) == 1


def test_where_no_answer_is_asked_for_a_call_is() -> None:
    env = make("palestra/Navigation-v0")
    env.reset(seed=0)
    assert env.step("Hm.")[0].startswith("No call found. Write a call of a tool (")
