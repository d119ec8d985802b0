"""ProRL's hard resets (arXiv 2505.24864): the reference becomes the policy, and the optimiser begins anew.

A penalty to a reference that never moves ends all learning; a reset lets the policy go on from where it is. It comes
on a schedule, or when the validation no longer improves: which is measured on tasks of the training distribution
that are kept out of training, never on an evaluation set.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from palestra.rl.validation import Validation

FILE = "reference.safetensors"


class ReferenceReset(TrainerCallback):
    """Resets the reference and the optimiser.

    Args:
        every: Optimiser steps between resets; 0: none on a schedule.
        patience: Validations in a row without a new best before a reset; 0: none by validation.
        validation: Measured before this callback is told of a step; needed for `patience`.
    """

    def __init__(self, every: int, patience: int, validation: Validation | None) -> None:
        self._every, self._patience, self._validation = every, patience, validation
        self.trainer: Any = None
        """Set once the trainer is made."""
        self.resets: list[int] = []
        """Steps after which there was a reset."""
        self._best = -1.0
        self._since_best = 0
        self._seen = 0

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Reset if it is time; after the last step as well, since the run may be made longer."""
        scheduled = self._every > 0 and state.global_step % self._every == 0
        if scheduled or self._stagnates():
            self._reset(kwargs["optimizer"])
            self.resets.append(state.global_step)
            self._best, self._since_best = -1.0, 0

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the reference into the checkpoint, once it is no longer the model that the run began with."""
        if not self.resets:
            return
        whole = self.trainer.accelerator.get_state_dict(self.trainer.ref_model)  # of all processes
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            save_file({name: tensor.contiguous().clone() for name, tensor in whole.items()}, folder / FILE)

    def begin_with(self, model: Any) -> None:
        """Make the reference, if there is one, the model that the run begins with."""
        if self.trainer.ref_model is not None:
            self._take(model.state_dict())

    def load(self, checkpoint: Path) -> None:
        """Read the reference of a checkpoint, if it has one."""
        if (checkpoint / FILE).exists():
            self._take(load_file(checkpoint / FILE))

    def state(self) -> dict[str, Any]:
        """Return what a resumed run has to restore, but for the reference itself."""
        return {"resets": self.resets, "best": self._best, "since_best": self._since_best, "seen": self._seen}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.resets, self._best = list(state["resets"]), state["best"]
        self._since_best, self._seen = state["since_best"], state["seen"]

    def _take(self, whole: dict[str, Any]) -> None:
        set_model_state_dict(self._reference(), whole, options=StateDictOptions(full_state_dict=True))

    def _reference(self) -> Any:
        return self.trainer.accelerator.unwrap_model(self.trainer.ref_model)

    def _reset(self, optimizer: Any) -> None:
        policy = self.trainer.accelerator.unwrap_model(self.trainer.model)
        self._reference().load_state_dict(policy.state_dict())
        getattr(optimizer, "optimizer", optimizer).state.clear()

    def _stagnates(self) -> bool:
        if self._patience == 0 or self._validation is None:
            return False
        for _, score in self._validation.history[self._seen :]:
            self._since_best = 0 if score > self._best else self._since_best + 1
            self._best = max(self._best, score)
        self._seen = len(self._validation.history)
        return self._since_best >= self._patience
