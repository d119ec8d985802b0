"""Episodes in the terminal: chosen, turn by turn, and unable to steer it."""

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from toyruns import MakeRun, trajectory_of

from palestra.envs.errors import UsageError, visible
from palestra.eval.records import SampleRecord
from palestra.eval.viewing import Wanted, episodes_to_view

COUNTS = [0, 1, 2]


def shown(run: Any, wanted: Wanted, limit: int = 20) -> str:
    out = StringIO()
    Console(file=out, width=100).print(*episodes_to_view(run, wanted, limit), sep="\n")
    return out.getvalue()


def test_episodes_are_chosen_and_in_order(make_run: MakeRun) -> None:
    run = make_run("run", {"test": COUNTS, "harder": COUNTS}, 2)
    text = shown(run, Wanted(variant="test"))
    titles = [line for line in text.splitlines() if "problem" in line and "─" in line]
    assert len(titles) == 6
    assert titles == sorted(titles)
    assert shown(run, Wanted(solved=True)).count("success") == 6
    assert "test problem 2, sample 1: success" in shown(run, Wanted("test", 2, 1))
    assert "10 more" in shown(run, Wanted(), 2)


def test_turns_are_shown_with_their_roles(make_run: MakeRun) -> None:
    text = shown(make_run("run", {"test": COUNTS}, 2), Wanted("test", 0, 1))
    assert [line for line in text.splitlines() if line in ("user", "assistant")] == ["user", "assistant"]
    assert "What is it?" in text
    assert "stopped: answer, 2 turns, 12 tokens, format 1" in text


def test_a_model_cannot_steer_the_terminal(make_run: MakeRun) -> None:
    def hostile(sample: SampleRecord) -> dict[str, Any]:
        return {
            **trajectory_of(sample),
            "messages": [{"role": "assistant\x1b[2J", "content": "\x1b]0;owned\x07 [red]x[/]\x9b\ud800\u202e"}],
        }

    text = shown(make_run("run", {"test": [1]}, 1, trajectory=hostile), Wanted())
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(text)
    assert "\\x1b]0;owned\\x07 [red]x[/]\\x9b\\xd800\\x202e" in text
    assert visible("a\tb\n\u200d") == "a\tb\n\u200d"


def test_no_such_episode_is_a_sentence(make_run: MakeRun) -> None:
    run = make_run("run", {"test": COUNTS}, 2)
    with pytest.raises(UsageError, match="has no such episode"):
        shown(run, Wanted("test", 9))
    with pytest.raises(UsageError, match="unknown variant of run .* 'tset'; did you mean 'test'"):
        shown(run, Wanted("tset"))


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"command": "train"}', encoding="ascii")
    with pytest.raises(UsageError, match="holds a training run"):
        shown(tmp_path, Wanted())
