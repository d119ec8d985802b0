"""Tools of a real MCP server, started over stdio; what is expected of a process is checked by its id."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from palestra.envs import Demonstration, Reward, Task, TextEnv, format_tool_call
from palestra.envs.errors import MissingPrerequisiteError, PalestraError, UsageError
from palestra.envs.tools import Tool, ToolError, mcp_tools
from palestra.envs.tools.base import EpisodeState

pytest.importorskip("mcp")

COMMAND = (sys.executable, str(Path(__file__).with_name("mcp_server.py")))
Call = Callable[..., str]


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(scope="module")
def tools() -> dict[str, Tool]:
    return {tool.name: tool for tool in mcp_tools(COMMAND, timeout=20)}


@pytest.fixture(scope="module")
def call(tools: dict[str, Tool]) -> Iterator[Call]:
    state = EpisodeState()
    yield lambda name, **arguments: tools[name].call(arguments, state)
    state.close()


def test_names_and_schemas_are_those_of_the_server(tools: dict[str, Tool]) -> None:
    assert list(tools) == ["add", "counter", "pid", "norm", "fail", "wait", "die"]
    assert tools["add"].description == "Add two integers."
    schema = tools["norm"].schema()["function"]["parameters"]
    assert schema["$defs"]["Point"]["required"] == ["x"]
    assert schema["properties"]["points"]["items"] == {"$ref": "#/$defs/Point"}
    assert schema["required"] == ["points"]
    assert all(tool.blocking for tool in tools.values())


def bare_server(*arguments: str) -> tuple[str, ...]:
    return sys.executable, str(Path(__file__).with_name("mcp_bare_server.py")), *arguments


def test_odd_lists_of_tools() -> None:
    [tool] = mcp_tools(bare_server("one"), timeout=20)
    assert (tool.parameters, tool.required) == ({}, ())
    with pytest.raises(UsageError, match="has two tools named 'one'"):
        mcp_tools(bare_server("one", "two", "one"), timeout=20)
    with pytest.raises(PalestraError, match="broke the protocol: its list of tools does not end"):
        mcp_tools(bare_server("one", "--endless"), timeout=20)


def test_calls_are_answered(call: Call) -> None:
    assert call("add", a=1, b=2) == "3"
    assert call("add", a=1) == "11"
    assert call("norm", points=[{"x": 1}, {"x": -3, "y": 2}]) == "l1 6"


def test_a_wrong_call_is_the_agents_error_wherever_it_is_found(call: Call) -> None:
    for arguments, part in [
        ({}, "add needs the argument 'a'."),
        ({"a": "x"}, "the argument 'a' of add must be of type integer."),
        ({"a": 1, "c": 2}, "add has no argument 'c'"),
    ]:
        with pytest.raises(ToolError, match=part):
            call("add", **arguments)
    with pytest.raises(ToolError, match="Field required"):
        call("norm", points=[{"y": 1}])
    with pytest.raises(ToolError, match="Error executing tool fail"):
        call("fail", message="no")


def test_every_episode_has_a_process_that_ends_with_it(tools: dict[str, Tool]) -> None:
    one, other = EpisodeState(), EpisodeState()
    pids = [int(tools["pid"].call({}, state)) for state in (one, other, one)]
    assert pids[0] == pids[2] != pids[1]
    assert [tools["counter"].call({}, one) for _ in range(3)] == ["1", "2", "3"]
    assert tools["counter"].call({}, other) == "1"
    one.close()
    assert not runs(pids[0])
    assert runs(pids[1])
    other.close()
    assert not runs(pids[1])


def test_a_call_outside_an_episode_leaves_no_process(tools: dict[str, Tool]) -> None:
    assert not runs(int(tools["pid"].call({})))


def test_a_server_that_dies_is_no_fault_of_the_agent(tools: dict[str, Tool]) -> None:
    state = EpisodeState()
    with pytest.raises(PalestraError, match=r"failed: .*\(it wrote: something is broken\)"):
        tools["die"].call({}, state)
    with pytest.raises(PalestraError, match="failed"):
        tools["counter"].call({}, state)
    state.close()


@pytest.mark.slow
def test_a_call_that_takes_too_long_is_told_and_the_next_one_works(tools: dict[str, Tool]) -> None:
    quick = {tool.name: tool for tool in mcp_tools(COMMAND, timeout=4)}
    state = EpisodeState()
    assert quick["add"].call({"a": 1}, state) == "11"
    with pytest.raises(ToolError, match=r"wait gave no answer within 4 s\."):
        quick["wait"].call({"seconds": 5.0}, state)
    assert quick["add"].call({"a": 2}, state) == "12"
    state.close()


@pytest.mark.slow
def test_a_shared_server_serves_all_episodes_and_is_replaced_when_it_dies() -> None:
    tools = {tool.name: tool for tool in mcp_tools(COMMAND, shared=True, timeout=20)}
    one, other = EpisodeState(), EpisodeState()
    pid = int(tools["pid"].call({}, one))
    assert int(tools["pid"].call({}, other)) == int(tools["pid"].call({})) == pid
    one.close()
    assert runs(pid)
    with ThreadPoolExecutor(8) as threads:
        sums = threads.map(lambda i: tools["add"].call({"a": i, "b": i}, other), range(40))
        assert list(sums) == [str(2 * i) for i in range(40)]
    with pytest.raises(PalestraError):
        tools["die"].call({}, other)
    assert not runs(pid)
    assert int(tools["pid"].call({}, other)) != pid


@pytest.mark.slow
def test_a_process_that_ends_leaves_no_server_behind() -> None:
    program = (
        "import sys\nfrom palestra.envs.tools import mcp_tools\nfrom palestra.envs.tools.base import EpisodeState\n"
        f"for shared in (False, True):\n    tools = mcp_tools({COMMAND!r}, shared=shared)\n"
        "    state = EpisodeState()\n"
        "    print(next(t for t in tools if t.name == 'pid').call({}, state), flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    pids = [int(line) for line in done.stdout.split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 10
    while any(map(runs, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(runs, pids))


@pytest.mark.parametrize(
    ("command", "part"),
    [
        (["/no/such/program"], "could not be started: .*No such file"),
        ([sys.executable, "-c", "import sys; sys.exit('bad configuration')"], r"\(it wrote: bad configuration\)"),
        ([sys.executable, "-c", "import time; time.sleep(60)"], "did not start within 1 s"),
    ],
)
def test_a_server_that_does_not_start_is_named_with_the_reason(command: list[str], part: str) -> None:
    with pytest.raises(PalestraError, match=part):
        mcp_tools(command, timeout=1)


def test_an_empty_command_is_refused() -> None:
    with pytest.raises(UsageError, match="needs a command"):
        mcp_tools([])


def test_a_missing_sdk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(MissingPrerequisiteError, match=r"palestra\[mcp\]"):
        mcp_tools(COMMAND)


def test_an_environment_plays_with_them(tools: dict[str, Tool], monkeypatch: pytest.MonkeyPatch) -> None:
    class Sum(TextEnv):
        """A sum."""

        def sample(self, rng: object) -> Task:
            return Task("1 + 2 = ?", "3", "only one")

        def grade(self, task: Task, answer: str) -> Reward:
            return Reward(float(answer == task.answer))

        def solve(self, task: Task) -> Demonstration:
            return Demonstration((format_tool_call("add", {"a": 1, "b": 2}), "<answer>3</answer>"))

    monkeypatch.setattr(Sum, "env_id", "t/Sum-v0")
    monkeypatch.setattr(Sum, "variants", {"train": {"tools": (tools["add"], tools["pid"])}})
    monkeypatch.setattr(TextEnv, "task_at", lambda self, index: self.sample(None))
    with Sum() as env:
        env.reset(seed=0)
        assert env.blocking
        assert env.step(format_tool_call("add", {"a": 1, "b": 2}))[0] == "3"
        pid = int(env.step(format_tool_call("pid", {}))[0])
        assert runs(pid)
        assert env.step("<answer>3</answer>")[1:3] == (1.0, True)
        assert not runs(pid)
