"""The watch of a run, without a trainer."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from palestra.envs.errors import PalestraError
from palestra.rl.watch import Watch


def test_a_model_that_gives_no_numbers_ends_the_run_in_a_sentence(tmp_path: Path) -> None:
    sampler: Any = SimpleNamespace(sampled=[[]])
    state: Any = SimpleNamespace(global_step=3, is_world_process_zero=True)
    arguments: Any = None
    with pytest.raises(PalestraError, match="no finite numbers any more at step 3: training diverged"):
        Watch(sampler, {}, tmp_path, 0).on_log(arguments, state, arguments, logs={"entropy": None, "loss": None})
