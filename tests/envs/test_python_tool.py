import os
import typing
from collections.abc import Callable, Iterator

import gymnasium
import pytest
from scripted_sandbox import Answer, ScriptedSandbox, result

from palestra.envs import Demonstration, Reward, Task, TextEnv, format_tool_call
from palestra.envs.errors import MissingPrerequisiteError
from palestra.envs.sandbox.base import ExecResult, SandboxError, SessionEndedError, Status
from palestra.envs.sandbox.shared import shared_sandbox
from palestra.envs.tools import python
from palestra.envs.tools.base import EpisodeState, Tool, ToolError
from palestra.envs.tools.python import MAX_SHOWN, RESTARTED, PythonTool, describe

Install = Callable[[ScriptedSandbox], ScriptedSandbox]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Makes the tool use a given sandbox."""

    def use(sandbox: ScriptedSandbox) -> ScriptedSandbox:
        monkeypatch.setattr(python, "shared_sandbox", lambda name: sandbox)
        return sandbox

    return use


@pytest.mark.parametrize(
    ("outcome", "shown"),
    [
        (result("ok", "42\n"), "42"),
        (result("ok", "a\n\nb\n\n"), "a\n\nb"),
        (result("ok"), "(no output)"),
        (
            result("error", "1\n", "Traceback ...\n  1 / 0\nZeroDivisionError: x\n", 1),
            "1\nZeroDivisionError: x",
        ),
        (result("error", "", "", 3), "exited with code 3"),
        (result("timeout", "part", exit_code=None), "part\ntimed out after 5 s"),
        (result("memory", exit_code=113), "ran out of memory (MemoryError)"),
        (result("output", exit_code=None), "stopped: it printed too much"),
        (result("killed", exit_code=139), "killed by signal 11"),
        (result("killed", exit_code=None), "killed"),
    ],
)
def test_result_in_words(outcome: ExecResult, shown: str) -> None:
    assert describe(outcome, 5.0) == shown


@pytest.mark.parametrize("status", sorted(set(typing.get_args(Status)) - {"ok", "sandbox-failure"}))
def test_every_way_to_end_but_ok_is_told(status: Status) -> None:
    assert describe(result(status, "printed", "", 137), 5.0).startswith("printed\n")


def test_timeout_is_named_in_seconds() -> None:
    assert describe(result("timeout", exit_code=None), 0.5) == "timed out after 0.5 s"


def test_long_output_is_cut_with_a_notice() -> None:
    assert describe(result("ok", "x" * MAX_SHOWN), 5.0) == "x" * MAX_SHOWN
    shown = describe(result("ok", "x" * 50_000), 5.0)
    assert shown == "x" * MAX_SHOWN + f"\n[output cut after {MAX_SHOWN} characters]"


def test_long_error_is_cut() -> None:
    assert len(describe(result("error", "", "E" * 50_000, 1), 5.0)) == 300


@pytest.mark.parametrize("answer", [SandboxError("lost"), result("sandbox-failure", "", "lost", None)])
def test_failure_of_the_sandbox_is_not_shown_to_the_agent(install: Install, answer: Answer) -> None:
    install(ScriptedSandbox(answer))
    with pytest.raises(SandboxError, match="lost"):
        PythonTool().call({"code": "print(1)"})


def test_missing_isolation_is_raised_and_not_worked_around(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(name: str | None) -> ScriptedSandbox:
        assert name is None
        raise MissingPrerequisiteError("no bubblewrap")

    monkeypatch.setattr(python, "shared_sandbox", unavailable)
    with pytest.raises(MissingPrerequisiteError):
        PythonTool().call({"code": "print(1)"})


def test_wrong_call_is_the_agents_error() -> None:
    with pytest.raises(ToolError, match="needs the argument 'code'"):
        PythonTool().call({"source": "print(1)"})
    with pytest.raises(ToolError, match="type string"):
        PythonTool().call({"code": 1})


def test_tool_says_that_it_blocks() -> None:
    assert PythonTool.blocking


def test_the_description_says_whether_variables_stay() -> None:
    assert "calls share no state" in PythonTool().schema()["function"]["description"]
    assert "variables stay from call to call" in PythonTool(stateful=True).schema()["function"]["description"]


def test_the_sandbox_and_the_time_limit_of_the_tool_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = ScriptedSandbox()
    names: list[str | None] = []

    def use(name: str | None) -> ScriptedSandbox:
        names.append(name)
        return sandbox

    monkeypatch.setattr(python, "shared_sandbox", use)
    assert PythonTool("docker", timeout=1.5).call({"code": "print(42)"}) == "42"
    assert names == ["docker"]
    assert [(r.code, r.timeout) for r in sandbox.requests] == [(b"print(42)", 1.5)]


def test_a_stateless_tool_starts_from_nothing_in_an_episode(install: Install) -> None:
    sandbox = install(ScriptedSandbox())
    state = EpisodeState()
    assert [PythonTool().call({"code": "x"}, state) for _ in range(3)] == ["42"] * 3
    assert len(sandbox.requests) == 3
    assert not sandbox.opened


def test_a_call_on_its_own_keeps_nothing(install: Install) -> None:
    sandbox = install(ScriptedSandbox())
    assert PythonTool(stateful=True).call({"code": "x"}) == "42"
    assert not sandbox.opened


def test_calls_of_an_episode_share_an_interpreter_and_others_do_not(install: Install) -> None:
    sandbox = install(ScriptedSandbox(sessions=[[result("ok")] * 9] * 2))
    tool, first, second = PythonTool(stateful=True), EpisodeState(), EpisodeState()
    for state, code in ((first, "a"), (second, "b"), (first, "c")):
        tool.call({"code": code}, state)
    assert [session.cells for session in sandbox.opened] == [["a", "c"], ["b"]]
    first.close()
    assert [session.closed for session in sandbox.opened] == [1, 0]


def test_the_agent_is_told_when_its_code_ended_the_interpreter(install: Install) -> None:
    dead = [result("ok"), result("timeout", exit_code=None)]
    sandbox = install(ScriptedSandbox(sessions=[dead, [result("ok", "new"), result("ok")]]))
    tool, state = PythonTool(stateful=True), EpisodeState()
    shown = [tool.call({"code": code}, state) for code in "abc"]
    assert shown == ["(no output)", f"timed out after 5 s\n{RESTARTED}", "new"]
    assert sandbox.opened[0].closed == 1
    assert [session.cells for session in sandbox.opened] == [["a", "b"], ["c"]]


def test_a_cell_that_never_ran_runs_in_the_new_interpreter(install: Install) -> None:
    first = [SessionEndedError("a thread of an earlier cell ended it"), result("ok")]
    sandbox = install(ScriptedSandbox(sessions=[first, [result("ok", "7"), result("ok")]]))
    state = EpisodeState()
    assert PythonTool(stateful=True).call({"code": "print(7)"}, state) == f"{RESTARTED}\n7"
    assert sandbox.opened[0].closed == 1
    state.close()
    assert sandbox.opened[1].closed == 1


def test_what_is_kept_is_closed_once_newest_first_even_if_one_fails() -> None:
    closed: list[str] = []

    class Kept:
        def __init__(self, name: str) -> None:
            self.name = name

        def close(self) -> None:
            closed.append(self.name)
            if self.name == "b":
                raise SandboxError("b is stuck")

    state = EpisodeState()
    kept = [state.keep(name, lambda name=name: Kept(name)) for name in "abc"]  # type: ignore[misc]
    assert state.keep("a", lambda: Kept("another")) is kept[0]
    with pytest.raises(SandboxError, match="b is stuck"):
        state.close()
    state.close()
    assert closed == ["c", "b", "a"]


class Remembering(Tool):
    """Counts the calls of its episode."""

    name = "count"
    description = "Counts."
    parameters: typing.ClassVar = {}

    def __init__(self) -> None:
        self.open = 0

    def __call__(self, **arguments: object) -> str:
        return "1"

    def in_episode(self, state: EpisodeState, /, **arguments: object) -> str:
        counter = state.keep(self, lambda: Counter(self))
        counter.calls += 1
        return str(counter.calls)


class Counter:
    def __init__(self, tool: Remembering) -> None:
        self.calls = 0
        self.tool = tool
        tool.open += 1

    def close(self) -> None:
        self.tool.open -= 1


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> Iterator[TextEnv]:
    class Guess(TextEnv):
        """Guess."""

        tools = (Remembering(),)
        max_turns = 3

        def sample(self, rng: object) -> Task:
            return Task("?", "1", "only one")

        def grade(self, task: Task, answer: str) -> Reward:
            return Reward(1.0)

        def solve(self, task: Task) -> Demonstration:
            return Demonstration(("<answer>1</answer>",))

    monkeypatch.setattr(Guess, "env_id", "t/Guess-v0")
    monkeypatch.setattr(Guess, "variants", {"train": {}})
    monkeypatch.setattr("palestra.envs.splits.split_cell", lambda *_: (0.0, 1.0))
    with Guess() as made:
        yield made


def test_what_a_tool_keeps_lives_exactly_as_long_as_the_episode(env: TextEnv) -> None:
    tool = env.tools[0]
    assert isinstance(tool, Remembering)
    call = format_tool_call("count", {})
    for ending in ([call, "<answer>1</answer>"], [call, "Hm."]):
        env.reset(seed=0)
        assert tool.open == 0
        assert env.step(call)[0] == "1"
        assert tool.open == 1
        assert env.step(ending[0])[0] == "2"
        _, _, terminated, truncated, _ = env.step(ending[1])
        assert terminated or truncated
        assert tool.open == 0
    env.reset(seed=0)
    assert env.step(call)[0] == "1"
    env.reset(seed=0)
    assert tool.open == 0
    assert env.step(call)[0] == "1"
    env.close()
    assert tool.open == 0
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(call)


def test_unsafe_process_is_used_where_it_is_asked_for() -> None:
    assert PythonTool(sandbox="unsafe-process").call({"code": "print(6 * 7)"}) == "42"


@pytest.mark.sandbox
def test_program_runs_in_the_sandbox() -> None:
    tool = PythonTool(timeout=1)
    assert tool.call({"code": "print(6 * 7)"}) == "42"
    assert tool.call({"code": "while True: pass"}) == "timed out after 1 s"
    assert tool.call({"code": "print(1); x"}) == "1\nNameError: name 'x' is not defined"
    assert tool.call({"code": "import numpy, sympy; print(numpy.arange(3).sum(), sympy.factorint(12))"}) == (
        "3 {2: 2, 3: 1}"
    )
    assert tool.call({"code": f"import os; os.kill({os.getpid()}, 0)"}).startswith("ProcessLookupError")


@pytest.mark.sandbox
def test_an_interpreter_of_an_episode_remembers_until_its_code_ends_it() -> None:
    tool, state, other = PythonTool(timeout=1, stateful=True), EpisodeState(), EpisodeState()
    assert tool.call({"code": "x = 6"}, state) == "(no output)"
    assert tool.call({"code": "print(x * 7)"}, state) == "42"
    assert tool.call({"code": "print(x)"}, other) == "NameError: name 'x' is not defined"
    assert tool.call({"code": "1 / 0"}, state) == "ZeroDivisionError: division by zero"
    assert tool.call({"code": "print(x)"}, state) == "6"
    ended = tool.call({"code": "import os; os._exit(3)"}, state)
    assert ended.endswith(RESTARTED)
    assert tool.call({"code": "print(x)"}, state) == "NameError: name 'x' is not defined"
    state.close()
    other.close()


@pytest.mark.sandbox
def test_an_interpreter_that_will_not_stop_is_replaced() -> None:
    tool, state = PythonTool(timeout=0.5, stateful=True), EpisodeState()
    stuck = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nx = 1\nwhile True: pass"
    assert tool.call({"code": stuck}, state) == f"timed out after 0.5 s\n{RESTARTED}"
    assert tool.call({"code": "print('x' in globals())"}, state) == "False"
    state.close()
    assert shared_sandbox().run("print(1)").stdout == "1\n"
