import random

import gymnasium
import pytest

import palestra
from palestra.envs import Reward, Task, TaskId, TextEnv, Tool, ToolError, format_tool_call, make, register
from palestra.envs.core import MAX_CALLS, Demonstration, ProcessTerm
from palestra.envs.errors import UsageError
from palestra.envs.tools.base import EpisodeState


def call(**arguments: object) -> str:
    return format_tool_call("calculator", arguments)


def test_gymnasium_make_gives_the_environment() -> None:
    env = gymnasium.make("palestra/Dice-v0", variant="test")
    observation, info = env.reset(seed=0)
    assert observation.startswith("Roll ")
    assert info["task"].startswith("palestra/Dice-v0/test/")
    assert palestra.__version__


def test_seed_decides_the_task_and_index_names_it() -> None:
    env = make("palestra/Dice-v0")
    first, info = env.reset(seed=3)
    again, _ = make("palestra/Dice-v0").reset(seed=3)
    index = int(info["task"].rsplit("/", 1)[1])
    by_index, _ = env.reset(options={"index": index})
    assert first == again == by_index
    assert env.reset()[1]["task"] != env.reset()[1]["task"]


def test_a_tool_turn_is_answered_as_a_tool() -> None:
    env = make("palestra/Dice-v0")
    env.reset(seed=0)
    observation, reward, terminated, truncated, info = env.step(call(expression="1/6+1/4"))
    assert (observation, reward, terminated, truncated) == ("5/12", 0.0, False, False)
    assert (info["role"], info["kind"]) == ("tool", "tool")


@pytest.mark.parametrize(
    ("action", "part"),
    [
        (call(expression="1/0"), "division by zero"),
        (call(wrong="1"), "needs the argument 'expression'"),
        (call(expression="1", more="2"), "no argument 'more'"),
        (call(expression=5), "must be of type string"),
        (format_tool_call("abacus", {}), "there is no tool 'abacus'; tools: calculator"),
        ("<tool_call>{broken</tool_call>", "must hold valid JSON"),
        ("<tool_call>[1]</tool_call>", 'must be a JSON object with a "name"'),
    ],
)
def test_a_wrong_call_says_what_is_wrong(action: str, part: str) -> None:
    env = make("palestra/Dice-v0")
    env.reset(seed=0)
    observation, *_ = env.step(action)
    assert part in observation
    assert observation.startswith("Error: ")


def test_calls_beyond_the_limit_are_not_run() -> None:
    env = make("palestra/Dice-v0")
    env.reset(seed=0)
    observation, *_ = env.step(call(expression="1") * (MAX_CALLS + 3))
    lines = observation.splitlines()
    assert lines[:MAX_CALLS] == ["1"] * MAX_CALLS
    assert lines[MAX_CALLS:] == [f"Error: at most {MAX_CALLS} calls are run in a turn."]


def test_neither_call_nor_answer_costs_turns_until_truncation() -> None:
    env = make("palestra/Dice-v0")
    env.reset(seed=0)
    for turn in range(1, env.max_turns + 1):
        observation, reward, terminated, truncated, info = env.step("Hm.")
        assert "No answer found" in observation
        assert info["kind"] == "malformed"
        assert (reward, terminated, truncated) == (0.0, False, turn == env.max_turns)


@pytest.mark.parametrize(
    "wrap",
    [
        "<answer>{}</answer>",
        "so \\boxed{{{}}}.",
        '{{"answer": "{}"}}',
        '<tool_call>{{"name": "submit", "arguments": {{"answer": "{}"}}}}</tool_call>',
    ],
)
def test_every_answer_format_counts(wrap: str) -> None:
    env = make("palestra/StringCompose-v0")
    env.reset(seed=5)
    assert env.task is not None
    _, reward, terminated, _, info = env.step(wrap.format(env.task.answer))
    assert (reward, terminated) == (1.0, True)
    assert info["reward"]["outcome"] == 1.0


def test_task_seeds_do_not_neighbour() -> None:
    a, b = TaskId("e/E-v0", "test", 1).seed(), TaskId("e/E-v0", "test", 2).seed()
    assert abs(a - b) > 2**32
    assert TaskId("e/E-v0", "train", 1).seed() != a


def test_distinct_indices_have_distinct_keys() -> None:
    env = make("palestra/Dice-v0", "more-dice")
    indices = env.distinct_indices(300)
    assert len({env.task_at(i).key for i in indices}) == 300
    assert indices[:50] == env.distinct_indices(50)


class Broken(TextEnv):
    """Pays what its test tells it to."""

    reward = Reward(1.0)

    def sample(self, rng: object) -> Task:
        return Task("?", "1", "only one")

    def grade(self, task: Task, answer: str) -> Reward:
        return self.reward

    def solve(self, task: Task) -> Demonstration:
        return Demonstration(("<answer>1</answer>",))


@pytest.mark.parametrize(
    ("reward", "part"),
    [(Reward(0.5), "outcome must be 0.0 or 1.0"), (Reward(1.0, {"x": 1.0}), "'x' is not declared")],
)
def test_an_author_cannot_pay_undeclared_rewards(monkeypatch: pytest.MonkeyPatch, reward: Reward, part: str) -> None:
    monkeypatch.setattr(Broken, "env_id", "t/Broken-v0")
    monkeypatch.setattr(Broken, "variants", {"train": {"reward": reward}})
    monkeypatch.setattr("palestra.envs.splits.split_cell", lambda *_: (0.0, 1.0))
    env = Broken()
    env.reset(seed=0)
    with pytest.raises(ValueError, match=part):
        env.step("<answer>1</answer>")


def test_too_few_tasks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Broken, "env_id", "t/Broken-v0")
    monkeypatch.setattr(Broken, "variants", {"train": {}})
    monkeypatch.setattr("palestra.envs.splits.split_cell", lambda *_: (0.0, 1.0))
    with pytest.raises(UsageError, match="about 1 different tasks, not 5"):
        Broken().distinct_indices(5)


def test_an_unregistered_environment_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="not registered"):
        Broken()


def test_render_shows_the_episode() -> None:
    env = make("palestra/Dice-v0")
    prompt, _ = env.reset(seed=0)
    env.step(call(expression="2+2"))
    assert env.render().splitlines()[0] == prompt
    assert env.render().splitlines()[-1] == "4"


def test_the_system_prompt_names_tools_and_answer_format() -> None:
    text = make("palestra/Dice-v0").system_prompt()
    assert '"name": "calculator"' in text
    assert "<answer>" in text


def test_a_fence_is_prose_where_there_is_no_python_tool() -> None:
    env = make("palestra/Dice-v0")
    env.reset(seed=0)
    assert env.task is not None
    _, reward, terminated, _, _ = env.step(f"```python\nprint(1)\n```\n<answer>{env.task.answer}</answer>")
    assert (reward, terminated) == (1.0, True)


def test_observations_can_be_encoded_whatever_a_call_names() -> None:
    env = make("palestra/Dice-v0")
    env.reset(seed=0)
    for action in (r'<tool_call>{"name": "\ud800", "arguments": {}}</tool_call>', call(**{"\udfff" * 5_000: 1})):
        observation, *_ = env.step(action)
        observation.encode("utf-8")
        assert len(observation) < 1_000


class Door(Tool):
    """Opens the door of the world."""

    name, description = "open", "Opens the door."
    parameters = {"key": {"type": "string", "description": "which key"}}

    def __call__(self, **arguments: object) -> str:
        raise ToolError("there is no door outside an episode.")

    def in_episode(self, state: EpisodeState, /, **arguments: object) -> str:
        state.world["open"] = arguments["key"] == "brass"
        return "It opens." if state.world["open"] else "It stays shut."


@register("test/Door-v0", variants={"train": {}, "test": {}})
class DoorEnv(TextEnv):
    """A door that the right key opens, which ends the episode; or the answer, in two attempts."""

    tools = (Door(),)
    attempts = 2

    def sample(self, rng):
        return Task(prompt="Which key?", answer="brass", key=str(rng.random()))

    def begin(self, task):
        return {"open": False}

    def judge(self, task, turn):
        return Reward(1.0) if self.world["open"] else super().judge(task, turn)

    def feedback(self, task, turn):
        return f"Not {turn.answer}."

    def grade(self, task, answer):
        return Reward(float(answer == task.answer))

    def solve(self, task):
        return Demonstration((format_tool_call("open", {"key": "brass"}),))


def test_a_tool_that_reaches_the_goal_ends_the_episode() -> None:
    env = make("test/Door-v0")
    env.reset(seed=0)
    step = env.step(format_tool_call("open", {"key": "iron"}))
    assert step[:4] == ("It stays shut.", 0.0, False, False)
    step = env.step(format_tool_call("open", {"key": "brass"}))
    assert step[:4] == ("It opens.", 1.0, True, False)
    assert step[4]["role"] == "tool"
    env.reset(seed=0)
    assert env.world == {"open": False}


def test_a_wrong_answer_before_the_last_attempt_is_met_with_feedback() -> None:
    env = make("test/Door-v0")
    env.reset(seed=0)
    observation, reward, terminated, truncated, info = env.step("<answer>iron</answer>")
    assert (observation, reward, terminated, truncated) == ("Not iron.", 0.0, False, False)
    assert (info["kind"], info["role"]) == ("answer", "user")
    assert "Not iron." in env.render()
    assert env.step("<answer>tin</answer>")[:4] == ("", 0.0, True, False)
    env.reset(seed=0)
    env.step("<answer>iron</answer>")
    assert env.step("<answer>brass</answer>")[1:3] == (1.0, True)


def test_process_terms_are_paid_wherever_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a variant, on an object, or on a class that has been made already."""
    terms = {"p": ProcessTerm(0.0, 1.0, "anything")}

    @register(
        "tests/Shaped-v0",
        variants={"train": {}, "shaped": {"process": lambda task, turns: {"p": 0.5}, "process_terms": terms}},
    )
    class Shaped(Broken):
        process_terms = terms

        def sample(self, rng: random.Random) -> Task:
            return Task("?", "1", str(rng.random()))

    def paid(env: TextEnv) -> object:
        env.reset(options={"index": 0})
        return env.step("hm")[4]["reward"]["process"]

    assert paid(Shaped("shaped")) == {"p": 0.5}
    plain, patched = Shaped(), Shaped()
    assert paid(plain) == {}
    patched.process = lambda task, turns: {"p": 0.25}
    assert paid(patched) == {"p": 0.25}
    monkeypatch.setattr(Shaped, "process", lambda self, task, turns: {"p": 0.75})
    assert paid(plain) == {"p": 0.75}
