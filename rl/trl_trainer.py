"""GRPO on TRL, whose episodes and advantages are ours, and everything else TRL's.

Four seams: `rollout_func` (public) takes trajectories, one override replaces the advantages `(rows,)` by
`(rows, tokens)`, which TRL's losses accept, one deals out the rows of a step to its micro-batches, and one reads what
rows share but once where TRL computes log-probabilities.
tests/rl/test_trl_contract.py fails with a sentence when TRL moves one of them.
"""

import time
from collections.abc import Mapping
from statistics import mean
from typing import Any

import numpy as np
import torch
from trl import GRPOTrainer

from palestra.rl.credit import CREDIT_RULES, EpisodeRewards
from palestra.rl.credit.step_groups import singleton_share, step_group_credit
from palestra.rl.logprobs import sampling_mismatch
from palestra.rl.microbatches import deal
from palestra.rl.prefix_tree import PassCost, PrefixTrees, reads_trees
from palestra.rl.processes import gather, sharding
from palestra.rl.sampler import GroupSampler

_TOKEN_MEANS = {"kl", "entropy", "clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean"}
"""What TRL logs as the mean over a step's micro-batches of means over their tokens."""
_EXTREMES = {"clip_ratio/low_min": np.fmin.reduce, "clip_ratio/high_max": np.fmax.reduce}
"""What TRL logs as the mean over micro-batches of extremes over their episodes, which may not be numbers."""
_EPISODE_MEANS, _TOKEN_SUMS = {"grpo"}, {"dapo"}
"""Losses of a micro-batch that are a mean over its episodes; that are a sum over its tokens by those of the step."""


class AgentGRPOTrainer(GRPOTrainer):
    """GRPO on multi-turn trajectories.

    Args:
        sampler: Runs the episodes.
        credit: Name of the credit rule.
        credit_options: What the rule is told, besides the step and Monte-Carlo values.
        exact: Whether the sampler's log-probabilities are those of the trained model itself. If not, and for
            episodes carried over from an earlier step, they are what the policy ratio is taken against, so that
            its clipping covers the difference.
        **kwargs: As `trl.GRPOTrainer`, without reward functions.
    """

    _buffered_inputs: list[dict[str, Any]]  # TRL's: the micro-batches of the step

    def __init__(
        self,
        *,
        sampler: GroupSampler,
        credit: str = "outcome",
        credit_options: Mapping[str, float] | None = None,
        exact: bool = True,
        **kwargs: Any,
    ) -> None:
        self.sampler = sampler
        self._rule, self._credit_options, self._exact = CREDIT_RULES[credit], dict(credit_options or {}), exact
        self._seconds: dict[str, float] = {}
        self._weights: list[float] = []
        rewards: list[Any] = [outcome, reward, process]
        own = "forward" not in getattr(kwargs["model"], "__dict__", {})  # the name of a model is loaded by TRL
        super().__init__(reward_funcs=rewards, rollout_func=self._episodes, **kwargs)
        self.fused_forward = vars(self.model).get("forward") if own else None
        """What TRL has put in the place of the model's own forward pass, to compute log-probabilities in parts."""
        device = self.accelerator.device.type
        self._pass_cost = PassCost.of(self.model.config, device) if reads_trees(self.model) else None
        self._merges = (
            self.accelerator.num_processes == 1  # several meet in every pass
            and sharding() is None
            and self.args.steps_per_generation == self.args.gradient_accumulation_steps
            and self.loss_type in _EPISODE_MEANS | _TOKEN_SUMS
        )

    def _episodes(self, prompts: list[str], trainer: GRPOTrainer) -> dict[str, Any]:
        columns = self.sampler(prompts, trainer)
        for name, value in self.sampler.statistics.items():
            self.record(f"episodes/{name}" if "/" not in name else name, value)
        return columns

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        batch["advantages"] = self._token_advantages(inputs, batch["completion_ids"])
        mask = batch["completion_mask"] * batch["tool_mask"]
        stale = not self._exact or any(row["stale"] for row in inputs)
        together = gather([(int(mask.sum()), stale)])
        self.sampler.costs["trained"] += sum(trained for trained, _ in together)
        if stale:
            batch["old_per_token_logps"] = batch["sampling_per_token_logps"]
        if any(stale for _, stale in together):
            found = [part for part in gather([sampling_mismatch(self.model, batch, self.temperature)]) if part]
            for name in found[0] if found else ():
                self.record(f"sampling/{name}", mean(part[name] for part in found))
        return batch

    def _token_advantages(self, rows: list[dict[str, Any]], completion_ids: torch.Tensor) -> torch.Tensor:
        """Spread turn advantages over the tokens of each turn; shape as `completion_ids`."""
        size = self.num_generations if self.model.training else self.num_generations_eval
        episodes = [
            EpisodeRewards(row["reward"], tuple(paid for *_, paid in row["turns"]), tuple(row["states"]))
            for row in rows
        ]
        if self._rule.function is step_group_credit:
            self.record("credit/singleton_share", singleton_share(episodes, size))
        options: dict[str, Any] = {**self._credit_options, "step": self.state.global_step}
        if "values" in self._rule.needs:
            options["values"] = [row["values"] for row in rows]
        per_turn = self._rule(episodes, size, **options)
        advantages = torch.zeros(completion_ids.shape, dtype=torch.float32)
        for i, row in enumerate(rows):
            for (start, end, _), advantage in zip(row["turns"], per_turn[i], strict=True):
                advantages[i, start:end] = float(advantage)
        return advantages.to(completion_ids.device)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Time what a step takes, apart from sampling."""
        forward, began = self._seconds.get("forward", 0.0), time.perf_counter()
        sampled = self._seconds.get("prepare", 0.0)
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        took = time.perf_counter() - began
        ahead = self._seconds["forward"] - forward + self._seconds.get("prepare", 0.0) - sampled
        self._seconds["backward"] = self._seconds.get("backward", 0.0) + took - ahead
        return loss

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Time the forward pass, and have what TRL says of a micro-batch add up to what is so of the step."""
        began = time.perf_counter()
        if not inputs:  # its rows are in others
            loss = torch.zeros((), device=self.accelerator.device, requires_grad=True)
        else:
            loss = super().compute_loss(model, inputs, *args, **kwargs)
        self._seconds["forward"] = self._seconds.get("forward", 0.0) + time.perf_counter() - began
        if inputs and self.model.training:
            number, metrics = self._step % self.args.steps_per_generation, self._metrics["train"]
            for name in _TOKEN_MEANS & metrics.keys():
                metrics[name][-1] *= self._weights[number]
            for name in _EXTREMES.keys() & metrics.keys():
                so_far = metrics[name][-number - 1 :]
                metrics[name][-number - 1 :] = [float(_EXTREMES[name](so_far))] * len(so_far)
            if self.loss_type in _EPISODE_MEANS:
                loss = loss * (len(inputs["completion_ids"]) / self.args.per_device_train_batch_size)
        return loss

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Compute log-probabilities and entropies `(rows, tokens)` as TRL does, over trees where that costs less.

        A pass over `batch_size` rows is one pass either way: processes whose weights are in shards keep step.
        """
        theirs = super()._get_per_token_logps_and_entropies
        if self._pass_cost is None:
            found: tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None] = theirs(
                model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **kwargs
            )
            return found
        parts = []
        size = batch_size or len(input_ids)
        for ids, attention in zip(torch.split(input_ids, size), torch.split(attention_mask, size), strict=True):
            trees = PrefixTrees.where_cheaper(ids, attention, logits_to_keep, self._pass_cost)
            if trees is None:
                logprobs, entropies, _ = theirs(model, ids, attention, logits_to_keep, None, compute_entropy, **kwargs)
            else:
                with self.accelerator.autocast():
                    nodes = model(**trees.inputs(), fused_lm_head=True)
                logprobs = trees.spread(nodes.log_probs)
                entropies = trees.spread(nodes.entropy) if compute_entropy else None
            parts.append((logprobs, entropies))
        logprobs, entropies = zip(*parts, strict=True)
        return torch.cat(logprobs), torch.cat(entropies) if compute_entropy else None, None

    def _token_weights(self, batches: list[dict[str, Any]]) -> list[float]:
        """Return the trained tokens of each pass, of all processes, divided by their mean."""
        tokens = torch.stack([(batch["completion_mask"] * batch["tool_mask"]).sum() for batch in batches])
        tokens = self.accelerator.reduce(tokens.float(), reduction="sum")
        weights: list[float] = (len(tokens) * tokens / tokens.sum().clamp(min=1.0)).tolist()
        return weights

    def _prepare_inputs(self, *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        before = self._buffered_inputs
        inputs = super()._prepare_inputs(*args, **kwargs)
        if self._buffered_inputs is not before:  # a new step was sampled
            self._buffered_inputs = deal(self._buffered_inputs, self._pass_cost, merge=self._merges)
            self._weights = self._token_weights([batch for batch in self._buffered_inputs if batch])
            inputs = self._buffered_inputs[self._step % self.args.steps_per_generation]
        self._seconds["prepare"] = self._seconds.get("prepare", 0.0) + time.perf_counter() - began
        return inputs

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add where the time went since the last log."""
        for name in ("forward", "backward"):
            if name in self._seconds:
                logs[f"seconds/{name}"] = self._seconds[name]
        self._seconds.clear()
        super().log(logs, *args, **kwargs)

    def record(self, name: str, value: float) -> None:
        """Have a number in the next log."""
        self._metrics["train" if self.model.training else "eval"][name].append(value)


def outcome(completions: list[Any], outcome: list[float | None], **kwargs: Any) -> list[float | None]:
    """TRL reward function, for the log: the strict outcomes that the rollout brought."""
    return outcome


def reward(completions: list[Any], reward: list[float | None], **kwargs: Any) -> list[float | None]:
    """TRL reward function: what counted as each episode's reward."""
    return reward


def process(completions: list[Any], process: list[float | None], **kwargs: Any) -> list[float | None]:
    """TRL reward function: the summed process terms that the rollout brought."""
    return process
