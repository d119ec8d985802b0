"""`palestra serve`, played by OpenEnv's own client. `.ci/interop` runs these where OpenEnv is installed."""

import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from palestra.cli.main import _report
from palestra.envs import make
from palestra.envs.errors import MissingPrerequisiteError

DICE = "palestra/Dice-v0"
FRAGILE = '''
"""An environment whose grader can crash and whose tool can take long."""
import time
from palestra.envs import Demonstration, Reward, Task, TextEnv, Tool, register

class Nap(Tool):
    name, description = "nap", "Sleeps."
    parameters = {"seconds": {"type": "number", "description": "how long"}}
    def __call__(self, **arguments):
        time.sleep(arguments["seconds"])
        return "rested"

@register("tests/Fragile-v0", variants={"train": {}})
class Fragile(TextEnv):
    """Fragile."""
    tools = (Nap(),)
    def sample(self, rng):
        return Task(prompt=f"Say {rng.randint(0, 10**6)}.", answer="yes", key=str(rng.random()))
    def grade(self, task, answer):
        return Reward(1 / (answer != "crash"))
    def solve(self, task):
        return Demonstration(("<answer>yes</answer>",))
'''
SERVE = "import sys; sys.path.insert(0, {folder!r}); import fragile; from palestra.cli.main import main; main()"


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[str]:
    """Run `palestra serve` on a free port until the block is left; yields its address."""
    (folder / "fragile.py").write_text(FRAGILE, encoding="utf-8")
    command = [sys.executable, "-c", SERVE.format(folder=str(folder)), "serve", *arguments, "--port", "0"]
    unbuffered = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=unbuffered) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+:\d+", process.stdout.readline())
            assert found is not None, "the server did not start"
            yield found[0]
        finally:
            process.terminate()
            process.wait(15)


@pytest.fixture(scope="module")
def client() -> Callable[[str], Any]:
    """Makes OpenEnv's generic client of an address; skips where OpenEnv is not installed."""
    if os.environ.get("PALESTRA_REQUIRE_INTEROP") != "openenv":
        pytest.importorskip("openenv", reason="OpenEnv is not installed; .ci/interop runs this")
    from openenv.core import GenericEnvClient

    return lambda address: GenericEnvClient(base_url=address).sync()


@pytest.fixture(scope="module")
def dice(client: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of Dice with room for three sessions."""
    with serving(tmp_path_factory.mktemp("dice"), DICE, "--variant", "test", "--max-sessions", "3") as address:
        yield address


@pytest.fixture(scope="module")
def fragile(client: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of the fragile environment, whose idle sessions end after two seconds."""
    with serving(tmp_path_factory.mktemp("fragile"), "tests/Fragile-v0", "--idle-s", "2") as address:
        yield address


def test_a_missing_package_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "openenv", None)
    monkeypatch.delitem(sys.modules, "palestra.envs.adapters.openenv", raising=False)
    with pytest.raises(MissingPrerequisiteError) as error:
        __import__("palestra.envs.adapters.openenv")
    assert _report(error.value) == 5
    assert 'pip install palestra "openenv' in capsys.readouterr().err


def test_the_oracle_sees_over_the_wire_what_it_sees_in_process(dice: str, client: Callable[[str], Any]) -> None:
    env = make(DICE, "test")
    with client(dice) as remote:
        for index in range(10):
            observation, info = env.reset(options={"index": index})
            assert env.task is not None
            first = remote.reset(index=index)
            assert first.observation["text"] == observation
            assert (first.reward, first.done) == (None, False)
            assert first.metadata["task"] == info["task"]
            assert first.metadata["system_prompt"] == env.system_prompt()
            assert first.metadata["tools"] == [tool.schema() for tool in env.tools]
            for turn in env.solve(env.task).turns:
                observation, reward, terminated, truncated, info = env.step(turn)
                there = remote.step({"text": turn})
                assert there.observation["text"] == observation
                assert (there.reward, there.done) == (reward, terminated or truncated)
                assert there.metadata["truncated"] == truncated
                assert {k: there.metadata[k] for k in ("task", "role", "kind")} == {
                    k: info[k] for k in ("task", "role", "kind")
                }
                assert {k: there.metadata[k] for k in ("outcome", "process")} == info["reward"]
            assert reward == 1.0


def test_equal_seeds_give_equal_tasks_in_every_session(dice: str, client: Callable[[str], Any]) -> None:
    here, _ = make(DICE, "test").reset(seed=5)
    for _ in range(2):
        with client(dice) as remote:
            assert remote.reset(seed=5).observation["text"] == here


def test_concurrent_sessions_do_not_meet(dice: str, client: Callable[[str], Any]) -> None:
    env = make(DICE, "test")
    tasks = [env.task_at(1), env.task_at(2)]
    with client(dice) as one, client(dice) as two:
        sessions = [one, two]
        for index, session in enumerate(sessions, 1):
            session.reset(index=index, episode_id=f"mine-{index}")
        for turns in zip(*(env.solve(task).turns for task in tasks), strict=True):
            last = [session.step({"text": turn}) for session, turn in zip(sessions, turns, strict=True)]
        assert [result.reward for result in last] == [1.0, 1.0]
        one.reset(index=7)
        assert two.state() == {
            "episode_id": "mine-2",
            "step_count": 2,
            "task": f"{DICE}/test/2",
            "variant": "test",
            "done": True,
        }
        assert one.state()["task"] == f"{DICE}/test/7"


def test_a_session_too_many_is_turned_away(dice: str, client: Callable[[str], Any]) -> None:
    with client(dice) as one, client(dice) as two, client(dice) as three:
        for session in (one, two, three):
            session.reset(index=0)
        with pytest.raises((RuntimeError, ConnectionError), match="CAPACITY_REACHED"), client(dice) as four:
            four.reset(index=0)
        assert one.step({"text": "<answer>1</answer>"}).done


@pytest.mark.parametrize("arguments", [{"seed": -1}, {"seed": "x"}, {"index": 1.5}, {"index": True}, {"task": 1}])
def test_wrong_arguments_are_refused_and_the_session_goes_on(
    dice: str, client: Callable[[str], Any], arguments: dict[str, Any]
) -> None:
    with client(dice) as remote:
        remote.reset(index=0)
        with pytest.raises(RuntimeError, match=next(iter(arguments))):
            remote.reset(**arguments)
        assert remote.step({"text": "<answer>1</answer>"}).done


def test_hostile_messages_harm_nobody_else(dice: str, client: Callable[[str], Any]) -> None:
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    hostile = [
        "not json",
        "[1]",
        '"x"',
        "{}",
        '{"type": "step", "data": {"text": 3}}',
        '{"type": "step", "data": {"text": "x", "more": 1}}',
        '{"type": "step", "data": {"text": "\\ud800"}}',
        '{"type": "reset", "data": {"episode_id": "\\ud800", "index": 1}}',
        '{"type": "step", "data": []}',
        '{"type": "mcp", "data": {"method": "tools/call"}}',
        "{" * 10_000,
        b"\x00\xff",
    ]
    with client(dice) as remote:
        remote.reset(index=0)
        for message in hostile:
            with connect(dice.replace("http", "ws") + "/ws") as socket:
                try:
                    socket.send(message)
                    assert json.loads(socket.recv(timeout=10))["type"] in {"error", "observation", "mcp"}
                except ConnectionClosed:
                    pass
        assert remote.step({"text": make(DICE, "test").task_at(0).answer}).reward == 0.0, "no answer, but answered"
        assert remote.state()["step_count"] == 1


def get(address: str, path: str, body: Any = None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_plain_http_has_health_schema_and_first_observations(dice: str) -> None:
    assert get(dice, "/health") == (200, {"status": "healthy"})
    assert get(dice, "/metadata")[1]["name"] == DICE
    assert "text" in get(dice, "/schema")[1]["action"]["properties"]
    assert get(dice, "/reset", {"seed": 5})[1]["observation"]["text"] == make(DICE, "test").reset(seed=5)[0]
    status, answer = get(dice, "/step", {"action": {"text": "x"}})
    assert status == 400
    assert "WebSocket" in answer["detail"]


def test_a_crashing_grader_ends_neither_its_session_nor_others(fragile: str, client: Callable[[str], Any]) -> None:
    with client(fragile) as one, client(fragile) as two:
        one.reset(index=0)
        two.reset(index=1)
        with pytest.raises(RuntimeError, match="EXECUTION_ERROR"):
            one.step({"text": "<answer>crash</answer>"})
        assert two.step({"text": "<answer>yes</answer>"}).reward == 1.0
        one.reset(index=0)
        assert one.step({"text": "<answer>yes</answer>"}).reward == 1.0


def test_a_slow_tool_delays_only_its_own_session(fragile: str, client: Callable[[str], Any]) -> None:
    nap = '<tool_call>{"name": "nap", "arguments": {"seconds": 3}}</tool_call>'
    with client(fragile) as slow, client(fragile) as quick:
        slow.reset(index=0)
        quick.reset(index=1)
        rested: list[Any] = []
        thread = threading.Thread(target=lambda: rested.append(slow.step({"text": nap})))
        thread.start()
        time.sleep(0.2)
        assert quick.step({"text": "<answer>yes</answer>"}).reward == 1.0
        assert not rested, "the quick session did not wait for the slow one"
        thread.join()
        assert rested[0].observation["text"] == "rested"


def test_an_idle_session_ends_and_says_so(fragile: str, client: Callable[[str], Any]) -> None:
    with client(fragile) as idle:
        idle.reset(index=0)
        time.sleep(11)  # OpenEnv looks every five seconds
        for call in (lambda: idle.step({"text": "x"}), lambda: idle.reset(index=0)):
            with pytest.raises(RuntimeError, match="idle for too long"):
                call()
    with client(fragile) as fresh:
        assert fresh.reset(index=0).observation["text"].startswith("Say ")


def test_a_taken_port_is_one_sentence(client: Any, dice: str) -> None:
    port = dice.rpartition(":")[2]
    command = [sys.executable, "-m", "palestra", "serve", DICE, "--port", port]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"palestra: cannot listen on 127.0.0.1 port {port}")
    assert done.stderr.count("\n") == 1
