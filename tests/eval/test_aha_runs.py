"""Back-tracking in stored runs: what is read, which runs belong together, and what is said."""

from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from rich.console import Console
from toyruns import SAMPLING, MakeRun, trajectory_of
from typer.testing import CliRunner

from palestra.agents.markers import Markers
from palestra.cli.main import app
from palestra.envs.errors import UsageError
from palestra.eval.aha_runs import aha_tables, measure_runs
from palestra.eval.records import SampleRecord

TILDE = Markers(("~",))
BANNED = {"sampling": {**SAMPLING, "banned": ["~"]}, "model": {"name": "rl", "weights": "77"}}
RL = {"model": {"name": "rl", "weights": "77"}}
COUNTS = [6, 10] * 20
"""Successes of 20 samples of each of 40 problems."""


def marked(most: int) -> Callable[[SampleRecord], dict[str, Any]]:
    """Put a marker into what the model wrote in the first samples of a problem; the environment writes one always."""

    def trajectory(sample: SampleRecord) -> dict[str, Any]:
        text = "go ~ on" if sample.sample < most else "go on"
        turns = [{"role": "tool", "content": "~~~"}, {"role": "assistant", "content": text}]
        return {**trajectory_of(sample), "messages": turns}

    return trajectory


@pytest.fixture
def runs(make_run: MakeRun) -> list[str]:
    base = make_run("base", {"test": COUNTS}, 20, trajectory=marked(0))
    middle = make_run("middle", {"test": COUNTS}, 20, trajectory=marked(2))
    rl = make_run("rl", {"test": [c + 4 for c in COUNTS]}, 20, trajectory=marked(8), manifest=RL)
    return [str(base), str(middle), str(rl)]


def test_rates_over_checkpoints_and_the_ablation(runs: list[str], make_run: MakeRun) -> None:
    without = make_run("banned", {"test": COUNTS}, 20, trajectory=marked(0), manifest=BANNED)
    (found,) = measure_runs(runs, TILDE, str(without))
    assert found.labels == ("base", "middle", "rl")
    assert [traces.rate.estimate for traces in found.traces] == [0, 0.1, 0.4]
    assert [traces.count for traces in found.traces] == [800] * 3
    assert [change.rate_change.estimate for change in found.changes] == [0.1, 0.4]
    middle, rl = found.changes
    assert (middle.verdict, middle.ablation) == ("undetermined", None), "the control is of the last model"
    assert rl.ablation is not None
    assert rl.ablation.estimate == pytest.approx(-0.2)
    assert rl.verdict == "used"
    assert rl.sentence.startswith("0.0% [0.0%, 8.8%] of traces held a marker before training and 40.0%")
    text = StringIO()
    Console(file=text, width=140).print(*aha_tables([found]), sep="\n")
    assert "40.0" in text.getvalue()
    assert "rl: used (" in text.getvalue()
    assert "eval --ban" in text.getvalue()


def test_the_control_has_to_be_one(runs: list[str], make_run: MakeRun) -> None:
    def control(label: str, **manifest: Any) -> str:
        return str(make_run(label, {"test": COUNTS}, 1, manifest=manifest))

    with pytest.raises(UsageError, match="sampled with nothing banned"):
        measure_runs(runs, TILDE, control("plain", **RL))
    with pytest.raises(UsageError, match="is of another model than rl"):
        measure_runs(runs, TILDE, control("other", **{**BANNED, "model": {"name": "x", "weights": "78"}}))
    with pytest.raises(UsageError, match=r"sampling.temperature is 1.0 in rl and 0.5 in cool"):
        measure_runs(runs, TILDE, control("cool", **RL, sampling={**BANNED["sampling"], "temperature": 0.5}))
    with pytest.raises(UsageError, match="give the base and that model's run"):
        measure_runs(runs[2:], TILDE, control("alone", **BANNED))


def test_one_run_gives_its_base_rate_on_the_command_line(runs: list[str]) -> None:
    result = CliRunner().invoke(app, ["aha", runs[1], "--marker", "~", "--json"])
    assert result.exit_code == 0, result.output
    assert '"rate": {"estimate": 0.1,' in result.output
    assert '"changes": []' in result.output


def test_runs_of_other_problems_are_refused(runs: list[str], make_run: MakeRun) -> None:
    other = make_run("short", {"test": COUNTS[:3]}, 20)
    with pytest.raises(UsageError, match="evaluate both on the same problems"):
        measure_runs([runs[0], str(other)], TILDE)
