"""What a model cost so far, kept beside its weights, so that arms can be compared at equal cost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from palestra.envs.folders import write_json

COST = "cost.json"
"""In the folder of a run's model and in each of its checkpoints."""


class WriteCost(TrainerCallback):
    """Writes into every checkpoint what it cost.

    Args:
        cost: Returns it: `optimiser_steps`, `tokens_sampled`, `tokens_trained`, `seconds` and more.
    """

    def __init__(self, cost: Callable[[TrainerState], dict[str, Any]]) -> None:
        self._cost = cost

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the file."""
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / COST, self._cost(state))
