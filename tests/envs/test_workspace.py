"""The file tools; what runs in a sandbox runs in `unsafe-process` here, and in the default one under its mark."""

from collections.abc import Callable, Iterator

import pytest

from palestra.envs.tools import ToolError, workspace_tools
from palestra.envs.tools.base import EpisodeState
from palestra.envs.tools.python import MAX_SHOWN
from palestra.envs.tools.workspace import LOST, MAX_CONTENT

Call = Callable[..., str]


@pytest.fixture(params=["unsafe-process", pytest.param(None, marks=pytest.mark.sandbox)])
def sandbox(request: pytest.FixtureRequest) -> str | None:
    name: str | None = request.param
    return name


@pytest.fixture
def call(sandbox: str | None) -> Iterator[Call]:
    tools = {tool.name: tool for tool in workspace_tools(sandbox, timeout=3)}
    state = EpisodeState()
    yield lambda name, **arguments: tools[name].call(arguments, state)
    state.close()


def test_files_are_written_listed_read_and_run(call: Call) -> None:
    assert call("list_files") == "(no files)"
    assert call("write_file", path="src/m.py", content="X = 'ü'\n") == "9 bytes written."
    call("write_file", path="src/main.py", content="import m\nprint(m.X, __name__)\nopen('out', 'w').write('hi')\n")
    assert call("list_files") == "src/m.py\nsrc/main.py"
    assert call("run_file", path="src/main.py") == "ü __main__"
    assert call("read_file", path="out") == "hi"
    assert call("read_file", path="src/main.py", line=3) == "open('out', 'w').write('hi')\n"


def test_slack_in_a_path_is_taken_out(call: Call) -> None:
    call("write_file", path="./b//c.py", content="print(5)")
    assert call("read_file", path="b/./c.py") == "print(5)"
    assert call("run_file", path="././b/c.py") == "5"


def test_a_program_sees_what_was_written_last(call: Call) -> None:
    call("write_file", path="main.py", content="import m\nprint(m.X)")
    for value in ("1", "22", "333"):
        call("write_file", path="m.py", content=f"X = {value}")
        assert call("run_file", path="main.py") == value
    call("write_file", path="main.py", content="print('m' in dir())")
    assert call("run_file", path="main.py") == "False"


def test_how_a_program_fails_is_shown(call: Call) -> None:
    call("write_file", path="main.py", content="print(1)\n1 / 0")
    assert call("run_file", path="main.py") == "1\nZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    ("name", "arguments", "part"),
    [
        ("read_file", {"path": "../secret"}, "not a relative path"),
        ("write_file", {"path": "/etc/passwd", "content": ""}, "not a relative path"),
        ("run_file", {"path": "none.py"}, "no such file or directory"),
        ("read_file", {"path": "none"}, "no such file or directory"),
        ("write_file", {"path": "big", "content": "x" * (MAX_CONTENT + 1)}, "longer than 100000 characters"),
        ("read_file", {"path": "a", "line": 4}, "'a' has 2 lines."),
        ("read_file", {"path": "a", "line": 0}, "'a' has 2 lines."),
        ("write_file", {"path": "a"}, "write_file needs the argument 'content'."),
    ],
)
def test_a_wrong_call_is_the_agents_error(call: Call, name: str, arguments: dict[str, object], part: str) -> None:
    call("write_file", path="a", content="1\n2\n")
    with pytest.raises(ToolError) as caught:
        call(name, **arguments)
    assert part.lower() in str(caught.value).lower()
    assert str(caught.value).endswith(".")


def test_a_long_file_is_cut_with_a_notice(call: Call) -> None:
    call("write_file", path="a", content="x" * (MAX_SHOWN + 1))
    assert call("read_file", path="a").endswith(f"x\n[cut after {MAX_SHOWN} characters; the file has 1 lines]")


def test_a_program_that_ends_the_workspace_is_told(call: Call) -> None:
    call("write_file", path="main.py", content="import os\nos._exit(3)")
    assert call("run_file", path="main.py").endswith(LOST)
    assert call("list_files") == "(no files)"


def test_episodes_do_not_see_each_other_and_nothing_outlives_one(sandbox: str | None) -> None:
    write, read, *_ = workspace_tools(sandbox)
    one, other = EpisodeState(), EpisodeState()
    write.call({"path": "a", "content": "1"}, one)
    with pytest.raises(ToolError):
        read.call({"path": "a"}, other)
    one.close()
    with pytest.raises(ToolError):
        read.call({"path": "a"}, one)
    one.close()
    other.close()


def test_there_are_no_files_outside_an_episode() -> None:
    for tool in workspace_tools():
        arguments = {name: "a" for name in (tool.parameters if tool.required is None else tool.required)}
        with pytest.raises(ToolError, match="no files outside an episode"):
            tool.call(arguments)
        assert tool.blocking
