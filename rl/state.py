"""What a run has to remember beyond TRL's checkpoints, kept inside them: one small file per process."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from palestra.envs.errors import UsageError
from palestra.envs.folders import write_json
from palestra.rl.processes import rank, world


class Stateful(Protocol):
    """Something whose state is carried over a resume."""

    def state(self) -> dict[str, Any]:
        """Return the state, as JSON takes it."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        ...


class KeepState(TrainerCallback):
    """Writes the state of the parts into every checkpoint; `restore` brings it back.

    Args:
        parts: By name.
    """

    def __init__(self, parts: Mapping[str, Stateful]) -> None:
        self._parts = parts
        self._name = f"palestra-{rank()}.json"

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the file."""
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / self._name, {name: part.state() for name, part in self._parts.items()})

    def restore(self, checkpoint: Path) -> None:
        """Read the file of a checkpoint.

        Raises:
            UsageError: The checkpoint is of another number of processes.
        """
        before = len(list(checkpoint.glob("palestra-*.json")))
        if before != world():
            raise UsageError(
                f"'{checkpoint}' was written by {before} process{'es' * (before > 1)}, not {world()}: go on with as "
                "many as before, or choose another --out"
            )
        states = json.loads((checkpoint / self._name).read_text(encoding="utf-8"))
        for name, part in self._parts.items():
            part.restore(states[name])


class Stopwatch(TrainerCallback):
    """Measures the seconds of training, over all resumes; what was lost with a kill is not counted."""

    def __init__(self) -> None:
        self._before, self._began = 0.0, time.perf_counter()

    def elapsed(self) -> float:
        """Seconds since the run began."""
        return self._before + time.perf_counter() - self._began

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start: loading the model is no training."""
        self._began = time.perf_counter()

    def state(self) -> dict[str, Any]:
        """Return what a resumed run has to restore."""
        return {"seconds": self.elapsed()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._before = float(state["seconds"])
