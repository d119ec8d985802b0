"""`bench/curves.py` on curves whose numbers are known."""

import json
import math
import subprocess
import sys
from pathlib import Path

CURVES = Path(__file__).parents[2] / "bench" / "curves.py"


def write_run(folder: Path, scores: list[float], tokens: int) -> Path:
    """Validations every 10 steps; each step samples `tokens` in 2 groups of 4 episodes with 5 turns."""
    log = {"episodes/tokens_sampled": tokens, "episodes/turns": 5.0, "episodes/groups_sampled": 2.0}
    history: list[dict[str, float]] = [{"step": 0, "validation/pass@1": scores[0]}]
    for step in range(1, 10 * (len(scores) - 1) + 1):
        checked = {} if step % 10 else {"validation/pass@1": scores[step // 10]}
        history.append({"step": step, **log, **checked})
    folder.mkdir()
    text = json.dumps({"config": {"group_size": 4}, "history": history})
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    return folder


def curves(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, CURVES, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_arms_are_compared_seed_by_seed(tmp_path: Path) -> None:
    slow = [write_run(tmp_path / f"slow-{s}", [0.0, 0.2, 0.4 + s, 0.6 + s], 100) for s in (0.0, 0.1)]
    fast = [write_run(tmp_path / f"fast-{s}", [0.0, 0.4, 0.8 + s, 0.8 + s], 200) for s in (0.0, 0.1)]
    result = curves("--arm", "slow", *slow, "--arm", "fast", *fast, "--reach", "0.5")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[2] == "| slow, seed 0 | .000 | .200 | .400 | .600 | 3,000 | 1,200 |"
    assert "slow: gain +0.650 [+0.015, +1.285]; turns until 0.5: 1,000, 800" in lines
    # At 3,000 tokens, `fast` is half-way between steps 10 and 20: 0.6 and 0.65.
    assert "fast - slow: +0.200 [+0.200, +0.200] at step 30, -0.025 [-0.343, +0.293] at equal tokens" in lines
    turns = 400 + 400 * 0.1 / 0.4, 400 + 400 * 0.1 / 0.5
    assert f"slow needs {math.sqrt(1000 / turns[0] * 800 / turns[1]):.2f} [" in lines[-1]


def test_an_arm_that_never_gets_there_has_no_ratio(tmp_path: Path) -> None:
    low, high = write_run(tmp_path / "low", [0.0, 0.1], 10), write_run(tmp_path / "high", [0.0, 0.9], 10)
    result = curves("--arm", "low", low, "--arm", "high", high, "--reach", "0.5")
    assert "low needs not defined: never times the turns of high to reach 0.5" in result.stdout


def test_a_run_without_validations_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"config": {"group_size": 4}}', encoding="utf-8")
    result = curves("--arm", "a", tmp_path)
    assert result.returncode == 1
    assert result.stderr == f"{tmp_path}: fewer than two validations; train with --validate-every\n"


def test_a_longer_run_is_compared_at_the_last_step_of_the_shorter(tmp_path: Path) -> None:
    short, long = write_run(tmp_path / "short", [0.0, 0.1], 20), write_run(tmp_path / "long", [0.0, 0.2, 0.4], 10)
    result = curves("--arm", "short", short, "--arm", "long", long)
    lines = result.stdout.splitlines()
    assert lines[2] == "| short, seed 0 | .000 | .100 |  | 200 | 400 |"
    # Both have sampled 200 tokens in the end.
    assert lines[-1] == "long - short: +0.100 (one run) at step 10, +0.300 (one run) at equal tokens"


def test_runs_with_other_validations_are_refused(tmp_path: Path) -> None:
    often, seldom = write_run(tmp_path / "often", [0.0, 0.1, 0.2], 10), write_run(tmp_path / "seldom", [0.0, 0.1], 10)
    path = seldom / "manifest.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"step": 10,', '"step": 20,'), encoding="utf-8")
    result = curves("--arm", "often", often, "--arm", "seldom", seldom)
    assert result.returncode == 2
    assert "not validated after the same steps" in result.stderr
