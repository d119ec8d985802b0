import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toyruns import MakeRun

from palestra.envs.errors import UsageError
from palestra.eval.planning import plan_runs
from palestra.eval.stats.passk import pass_at_k, pass_at_k_variance
from palestra.eval.stats.plan import plan

BASE = [0, 1, 2, 4, 8, 16, 0, 0, 3, 5, 16, 1]
RL = [9, 0, 5, 16, 9, 16, 0, 9, 0, 9, 16, 0]


@pytest.fixture
def pilot(make_run: MakeRun) -> list[str | Path]:
    return [make_run(label, {"test": c, "harder": c[::-1]}) for label, c in (("base", BASE), ("rl", RL))]


def test_two_runs_plan_from_their_difference(pilot: list[str | Path]) -> None:
    test, harder = plan_runs(pilot, k=2, delta=0.1, seed_sd=0.1)
    assert (test.variant, harder.variant) == ("test", "harder")
    assert test.plan == plan(16, BASE, RL, k=2, delta=0.1, seed_sd=0.1)
    assert (test.problems, test.samples) == (12, 16)


def test_one_run_stands_for_two_models_with_nothing_in_common(pilot: list[str | Path]) -> None:
    (found,) = plan_runs(pilot[:1], variants=["test"], k=2, delta=0.1)
    assert found.plan.parts.total == pytest.approx(2 * np.var(pass_at_k(16, BASE, 2), ddof=1))
    assert found.plan.parts.sampling == pytest.approx(2 * np.mean(pass_at_k_variance(16, BASE, 2)))
    paired = plan_runs(pilot, variants=["test"], k=2, delta=0.1)[0].plan.problems
    assert found.plan.problems is not None
    assert paired is not None
    assert found.plan.problems > paired


def test_a_plan_says_what_it_takes(pilot: list[str | Path]) -> None:
    found = plan_runs(pilot, variants=["test"], k=2, delta=0.1, seed_sd=0.1)[0]
    text = str(found)
    assert f"a difference of 0.1 in pass@2 takes {found.plan.problems} problems with 16 samples each" in text
    assert f"{found.plan.seeds} training seeds per method" in text
    assert "no number of samples of 12 problems does" in text
    assert "training seeds" not in str(plan_runs(pilot, delta=0.1)[0])
    assert "or 2 samples of each of 12 problems" in str(plan_runs(pilot, delta=0.9)[0])


def test_a_pilot_without_spread_plans_nothing(make_run: MakeRun) -> None:
    (found,) = plan_runs([make_run("none", {"test": [0] * 12})])
    assert (found.plan.problems, found.plan.samples) == (None, None)
    assert "nothing can be planned for a difference of 0.05 in pass@1 from 12 problems" in str(found)
    assert found.to_json()["problems"] is None


def test_json_is_valid_and_says_null_where_no_number_does(pilot: list[str | Path]) -> None:
    row = json.loads(json.dumps(plan_runs(pilot, delta=0.001)[0].to_json(), allow_nan=False))
    assert (row["variant"], row["k"], row["samples"], row["seeds"]) == ("test", 1, None, None)
    assert row["pilot"] == {"problems": 12, "samples": 16}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 9}, "test: the variance of pass@9 needs at least 18 samples of every problem, not 16"),
        ({"delta": 0.0}, "delta must lie in"),
        ({"power": 1.0}, "power must lie strictly between 0 and 1"),
        ({"seed_sd": 0.0}, "must be a number > 0, not 0"),
        ({"seed_sd": float("nan")}, "must be a number > 0, not nan"),
        ({"variants": ["tset"]}, "did you mean 'test'"),
    ],
)
def test_what_cannot_be_planned_is_refused(pilot: list[str | Path], changes: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan_runs(pilot, **changes)


def test_a_pilot_is_one_run_or_two_with_several_problems(make_run: MakeRun, pilot: list[str | Path]) -> None:
    with pytest.raises(UsageError, match="one run or two, not 3"):
        plan_runs([*pilot, pilot[0]])
    with pytest.raises(UsageError, match="at least 2 problems"):
        plan_runs([make_run("one", {"test": [1]}, 4)])
