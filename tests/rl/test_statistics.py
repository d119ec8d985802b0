"""Sums over episodes add up over processes."""

import pytest

from palestra.agents.markers import Markers
from palestra.agents.trajectory import Trajectory, TurnSpan
from palestra.envs import TaskId
from palestra.rl.statistics import count, numbers, total

END = 9


def episode(outcome: float, ids: list[int], stop: str = "answer", tool: str = "", **process: float) -> Trajectory:
    return Trajectory(
        TaskId("e/E-v0", "train", 0),
        "k",
        [1],
        ids,
        [1] * len(ids),
        [0.0] * len(ids),
        [TurnSpan(0, len(ids), dict(process), kind="answer" if outcome else "malformed")],
        [{"role": "tool", "content": tool}] if tool else [],
        outcome=outcome,
        stop=stop,
    )


EPISODES = [
    episode(1.0, [5, 5, END], tool="4", near=0.5),
    episode(0.0, [5, 5, 5, 5, 5], tool="Error: no", near=-1.5),
    episode(0.0, [5], stop="error"),
    episode(0.0, [5, 5, END], stop="length"),
]


def test_numbers_of_four_episodes() -> None:
    found = numbers(count(EPISODES, {END}), 2.0)
    assert found["outcome_before_filter"] == pytest.approx(1 / 3), "one broke and says nothing"
    assert found["errors"] == 1
    assert found["tokens_per_second"] == 12 / 2
    assert found["tokens_per_turn"] == 12 / 4
    assert found["malformed_turns"] == 3 / 4
    assert found["out_of_context"] == 1 / 4
    assert found["tool_errors"] == 1 / 2
    assert found["process/near"] == (0.5 - 1.5) / 4


def test_episodes_with_a_marker_are_counted_in_what_the_model_wrote() -> None:
    said = [("assistant", "Wait, no."), ("tool", "wait"), ("assistant", "6~7~"), ("user", "~")]
    episodes = [episode(1.0, [5]) for _ in said]
    for t, (role, text) in zip(episodes, said, strict=True):
        t.messages = [{"role": role, "content": text}]
    assert numbers(count(episodes, {END}), 1.0)["markers"] == 1 / 4
    assert numbers(count(episodes, {END}, Markers(("~", "wait"))), 1.0)["markers"] == 2 / 4


@pytest.mark.parametrize("where", [0, 1, 2, 4])
def test_parts_add_up(where: int) -> None:
    parts = total([count(EPISODES[:where], {END}), count(EPISODES[where:], {END})])
    assert dict(parts) == dict(count(EPISODES, {END}))
