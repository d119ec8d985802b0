import json
import subprocess
import sys
from pathlib import Path

import pytest

from palestra.envs.sandbox.local import LocalSandbox

SOAK = Path(__file__).parents[3] / "bench" / "sandbox_soak.py"

pytestmark = [pytest.mark.sandbox, pytest.mark.slow]


def test_a_short_soak_leaves_nothing_and_every_result_is_right(local: LocalSandbox, tmp_path: Path) -> None:
    report = tmp_path / "soak.json"
    options = ["--executions", "1500", "--minutes", "4", "--json", str(report)]

    done = subprocess.run([sys.executable, SOAK, *options], capture_output=True, encoding="utf-8", check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text(encoding="utf-8"))
    assert found["executions"] >= 1500
    assert found["wrong"] == []
    assert found["after"]["processes"] == 0
    assert len([name for name in found["kinds"] if name.startswith("hostile")]) > 10
