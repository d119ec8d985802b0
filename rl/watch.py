"""Watches a run: feeds the monitors after every step, says their warnings once, and writes episodes for people."""

import logging
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from palestra.agents.trajectory import Trajectory
from palestra.envs.core import ProcessTerm
from palestra.envs.errors import PalestraError
from palestra.rl.credit import EpisodeRewards
from palestra.rl.monitors import CollapseMonitor, HackingMonitor, LimitMonitor, RepetitionMonitor
from palestra.rl.sampler import GroupSampler, Sample

logger = logging.getLogger(__name__)

EPISODES_FILE = "episodes.txt"
_MONITORS = ("hacking", "repetition", "collapse", "limit")


class Watch(TrainerCallback):
    """Calls the monitors and logs what they count.

    Args:
        sampler: Whose last groups are looked at.
        terms: The environment's process terms.
        folder: Where `episodes.txt` goes.
        show_every: Steps between episodes written there; 0: never.
    """

    def __init__(self, sampler: GroupSampler, terms: Mapping[str, ProcessTerm], folder: Path, show_every: int) -> None:
        self._sampler, self._folder, self._show_every = sampler, folder, show_every
        self.hacking = HackingMonitor({name: term.high for name, term in terms.items()})
        self.repetition = RepetitionMonitor()
        self.collapse = CollapseMonitor()
        self.limit = LimitMonitor()
        self.warnings: list[str] = []
        """All that was said, each with its step."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Take the numbers of a step; other logs (of the validation, of the end) are none.

        Raises:
            PalestraError: The model gives no numbers any more.
        """
        if not logs or "entropy" not in logs or not self._sampler.sampled:
            return
        if logs["entropy"] is None:  # what transformers makes of NaN
            raise PalestraError(
                f"the model gives no finite numbers any more at step {state.global_step}: training diverged; start "
                "anew with a lower --lr and another --out."
            )
        groups = self._sampler.sampled
        episodes = [_rewards(sample) for group in groups for sample in group]
        size = self._sampler.settings.group_size
        said = self.hacking.update(episodes, size) + self.repetition.update([_turns(group) for group in groups])
        cut = [turn.cut for group in groups for sample in group for turn in sample.trajectory.turns]
        said += self.limit.update(cut, self._sampler.settings.params.max_tokens)
        deviations = [pstdev(rewards) for group in groups if len(rewards := _paid(group)) > 1]
        outcomes = [e.outcome for e in episodes if e.outcome is not None]
        if deviations and outcomes:
            said += self.collapse.update(
                outcome=mean(outcomes),
                deviation=mean(deviations),
                entropy=float(logs["entropy"]),
                gradient_norm=float(logs.get("grad_norm", 0.0)),
            )
            logs["episodes/hacked"] = sum(map(self.hacking.is_hacked, episodes)) / len(outcomes)
            logs["episodes/reward_deviation"] = mean(deviations)
        for warning in said:
            self.warnings.append(f"step {state.global_step}: {warning}")
            if state.is_world_process_zero:
                logger.warning(self.warnings[-1])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write a solved and a failed episode of the step, if it is time."""
        if not self._show_every or state.global_step % self._show_every or not state.is_world_process_zero:
            return
        samples = [s.trajectory for group in self._sampler.sampled for s in group if s.reward is not None]
        shown = [next((t for t in samples if t.outcome == wanted), None) for wanted in (1.0, 0.0)]
        with (self._folder / EPISODES_FILE).open("a", encoding="utf-8") as file:
            for t in shown:
                if t is not None:
                    file.write(readable(t, state.global_step))

    def state(self) -> dict[str, Any]:
        """Return what a resumed run has to restore."""
        monitors = {name: getattr(self, name).state() for name in _MONITORS}
        return {**monitors, "warnings": self.warnings}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        for name in _MONITORS:
            if name in state:  # checkpoints of older versions have fewer
                getattr(self, name).restore(state[name])
        self.warnings = list(state["warnings"])


def readable(t: Trajectory, step: int) -> str:
    """Return an episode as people read it."""
    terms = "".join(f", {name} {value:g}" for name, value in t.process.items())
    lines = [f"== step {step}, {t.task}: outcome {t.outcome:g}{terms}, ended by {t.stop}"]
    for message in t.messages:
        text = message["content"].replace("\n", "\n    ")
        lines.append(f"{message['role'] + ':':11}{text}")
    return "\n".join(lines) + "\n\n"


def _rewards(sample: Sample) -> EpisodeRewards:
    t = sample.trajectory
    outcome = None if sample.reward is None else t.outcome
    return EpisodeRewards(outcome, tuple(sum(turn.process.values()) for turn in t.turns), terms=t.process)


def _turns(group: list[Sample]) -> list[str]:
    return [m["content"] for sample in group for m in sample.trajectory.messages if m["role"] == "assistant"]


def _paid(group: list[Sample]) -> list[float]:
    return [s.reward for s in group if s.reward is not None]
