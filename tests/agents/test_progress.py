"""Progress where there is no terminal: lines every so often, whether or not anything was done."""

import gc
import threading
import time

import pytest

from palestra.agents import progress
from palestra.agents.progress import ProgressReport


def telling() -> set[threading.Thread]:
    """The threads that tell progress."""
    return {thread for thread in threading.enumerate() if thread.name == "palestra-progress"}


def tellers(wanted: int, before: set[threading.Thread]) -> bool:
    """Wait for so many threads that tell progress, and did not before."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if len(telling() - before) == wanted:
            return True
        time.sleep(0.02)
    return False


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.05)


def test_work_of_which_nothing_is_done_yet_is_told_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressReport("eval x", "episodes", 80, 20) as report:
        time.sleep(0.3)
        report.update(50, "solved 0.5")
    waiting, *_, last = capsys.readouterr().err.splitlines()
    assert waiting.startswith("eval x: 20/80 episodes, ")
    assert "left" not in waiting
    assert last.startswith("eval x: 50/80 episodes, ")
    assert last.endswith(" left  solved 0.5")


def test_a_report_that_nobody_closes_falls_silent() -> None:
    before = telling()
    report = ProgressReport("train x", "steps", 3)
    assert tellers(1, before)
    del report
    gc.collect()
    assert tellers(0, before)
    with ProgressReport("train x", "steps", 3):
        assert tellers(1, before)
    assert tellers(0, before)
