"""The only file that subclasses TRL: GRPO whose episodes and advantages are ours, and everything else TRL's.

Two seams: `rollout_func` (public) takes trajectories, and one override replaces the advantages `(rows,)` by
`(rows, tokens)`, which TRL's losses accept. tests/rl/test_trl_contract.py fails with a sentence when TRL moves either.
"""

from typing import Any

import torch
from trl import GRPOTrainer

from palestra.rl.credit import group_advantages, turn_advantages
from palestra.rl.sampler import GroupSampler


class AgentGRPOTrainer(GRPOTrainer):
    """GRPO on multi-turn trajectories.

    Args:
        sampler: Runs the episodes.
        outcome_weight: Weight of the group-relative outcome advantage, given to every turn.
        process_weight: Weight of the turn's own group-relative process advantage.
        **kwargs: As `trl.GRPOTrainer`, without reward functions.
    """

    def __init__(self, *, sampler: GroupSampler, outcome_weight: float, process_weight: float, **kwargs: Any) -> None:
        self.sampler = sampler
        self.outcome_weight = outcome_weight
        self.process_weight = process_weight
        rewards: list[Any] = [outcome, process]
        super().__init__(reward_funcs=rewards, rollout_func=self._episodes, **kwargs)

    def _episodes(self, prompts: list[str], trainer: GRPOTrainer) -> dict[str, Any]:
        columns = self.sampler(prompts, trainer)
        mode = "train" if self.model.training else "eval"
        for name, value in self.sampler.statistics.items():
            self._metrics[mode][f"episodes/{name}"].append(value)
        return columns

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        batch["advantages"] = self._token_advantages(inputs, batch["completion_ids"])
        return batch

    def _token_advantages(self, rows: list[dict[str, Any]], completion_ids: torch.Tensor) -> torch.Tensor:
        """Spread turn advantages over the tokens of each turn; shape as `completion_ids`."""
        size = self.num_generations if self.model.training else self.num_generations_eval
        outcomes = group_advantages([row["outcome"] for row in rows], size)
        processes = turn_advantages([[reward for *_, reward in row["turns"]] for row in rows], size)
        advantages = torch.zeros(completion_ids.shape, dtype=torch.float32)
        for i, row in enumerate(rows):
            for t, (start, end, _) in enumerate(row["turns"]):
                turn = self.outcome_weight * outcomes[i] + self.process_weight * processes[i][t]
                advantages[i, start:end] = float(turn)
        return advantages.to(completion_ids.device)


def outcome(completions: list[Any], outcome: list[float | None], **kwargs: Any) -> list[float | None]:
    """TRL reward function: the strict outcomes that the rollout brought."""
    return outcome


def process(completions: list[Any], process: list[float | None], **kwargs: Any) -> list[float | None]:
    """TRL reward function: the summed process terms that the rollout brought."""
    return process
