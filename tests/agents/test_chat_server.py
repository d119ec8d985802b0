"""A model behind a server, scripted: what is sent, what is recorded, and what happens when it fails."""

import re
from pathlib import Path

import pytest
from scripted_openai import Conversation, scripted_openai

from palestra.envs.errors import PalestraError, UsageError
from palestra.envs.registry import make
from palestra.eval.run import evaluate
from palestra.eval.settings import EvalSettings
from palestra.eval.store import RunStore, read_manifest, read_samples, read_trajectory

pytest.importorskip("openai")

ENV = "palestra/StringCompose-v0"


def settings(out: Path, url: str, **changes: object) -> EvalSettings:
    wanted = {"model": "openai:scripted", "env": ENV, "base_url": url, "out": out, "problems": 3, "samples": 4}
    return EvalSettings.model_validate({**wanted, "concurrency": 5, **changes})


def right(env_id: str, variant: str = "test") -> dict[str, tuple[str, ...]]:
    """What the oracle says, by prompt."""
    env = make(env_id, variant)
    tasks = [env.task_at(index) for index in env.distinct_indices(3)]
    return {task.prompt: env.demonstrate(task).turns for task in tasks}


def test_episodes_of_a_server_are_a_run_like_any_other(tmp_path: Path) -> None:
    answers = right(ENV)
    with scripted_openai(lambda messages: answers[messages[1]["content"]][0]) as (url, seen):
        evaluate(settings(tmp_path, url))
    samples = read_samples(tmp_path)
    assert len(samples) == len(seen) == 12
    assert all(s.outcome == 1.0 and s.tokens_out == 1 and s.error is None for s in samples)
    assert {conversation[0]["role"] for conversation in seen} == {"system"}
    assert seen[0][0]["content"] == make(ENV, "test").system_prompt()
    assert read_manifest(tmp_path)["model"] == {"name": "openai:scripted"}
    messages = read_trajectory(tmp_path, samples[0].part, samples[0].offset)["messages"]
    assert messages[1]["content"] == answers[messages[0]["content"]][0]


def test_tools_are_called_over_several_turns(tmp_path: Path) -> None:
    answers = right(ENV, "test-tool")

    def reply(messages: Conversation) -> str:
        return answers[messages[1]["content"]][sum(m["role"] == "assistant" for m in messages)]

    with scripted_openai(reply) as (url, seen):
        evaluate(settings(tmp_path, url, variant=("test-tool",), samples=1))
    samples = read_samples(tmp_path)
    assert [s.outcome for s in samples] == [1.0] * 3
    assert {s.turns for s in samples} == {3}
    assert all(m["role"] in ("system", "user", "assistant") for conversation in seen for m in conversation)
    roles = [m["role"] for m in read_trajectory(tmp_path, 0, samples[0].offset)["messages"]]
    assert roles == ["user", "assistant", "tool", "assistant", "tool", "assistant"]


@pytest.mark.parametrize(("reason", "cut"), [("stop", 0), ("length", 1)])
def test_turns_that_the_limit_cut_are_counted(tmp_path: Path, reason: str, cut: int) -> None:
    with scripted_openai(lambda messages: "<answer>x</answer>", reason) as (url, _):
        evaluate(settings(tmp_path, url, samples=1))
    assert [s.cut for s in read_samples(tmp_path)] == [cut] * 3


def test_a_run_goes_on_where_the_server_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palestra.agents.chat_server.RETRIES", 0)
    with scripted_openai(lambda messages: "<answer>x</answer>") as (url, _):
        evaluate(settings(tmp_path, url, samples=2))
    with pytest.raises(PalestraError, match="cannot be reached"):
        evaluate(settings(tmp_path, url))
    with RunStore.open(tmp_path) as store:
        assert len(store.done()) == 6
    with scripted_openai(lambda messages: "<answer>x</answer>") as (url, seen):
        evaluate(settings(tmp_path, url))
    assert len(seen) == 6
    assert len(read_samples(tmp_path)) == 12


def test_a_server_needs_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(UsageError, match=re.escape("give the server's address with --base-url")):
        evaluate(EvalSettings(model="openai:x", env=ENV, out=tmp_path, problems=1, samples=1))


def test_base_url_is_for_servers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="base_url is for models named openai:NAME"):
        EvalSettings(model="random", env=ENV, out=tmp_path, base_url="http://localhost")
