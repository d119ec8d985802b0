"""Progress of a training run."""

import math
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from palestra.agents.progress import ProgressReport


class ProgressCallback(TrainerCallback):
    """Shows step, time left and chosen metrics on stderr.

    Args:
        title: What is being trained.
        metrics: Log key -> short label, in the order shown; keys a log lacks are left out.
    """

    def __init__(self, title: str, metrics: dict[str, str]) -> None:
        self.title = title
        self.metrics = metrics
        self.report: ProgressReport | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin at the step the run starts or resumes from."""
        if state.is_world_process_zero:
            self.report = ProgressReport(self.title, "steps", state.max_steps, state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the latest values of the chosen metrics."""
        values = {label: (logs or {}).get(key) for key, label in self.metrics.items()}
        shown = [f"{k} {float(v):.4g}" for k, v in values.items() if v is not None and math.isfinite(float(v))]
        if self.report is not None and shown:
            self.report.update(state.global_step, "  ".join(shown))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Advance."""
        if self.report is not None:
            self.report.update(state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the last state on the screen."""
        if self.report is not None:
            self.report.close()
