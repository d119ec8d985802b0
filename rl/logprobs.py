"""How far the sampler's log-probabilities are from the trained model's own: what makes on-policy data off-policy."""

from typing import Any

import torch

_ROWS = 16
"""Rows that are looked at: a whole batch would cost as much as training on it."""


def sampling_mismatch(model: Any, batch: dict[str, Any], temperature: float) -> dict[str, float]:
    """Compare both on the first rows of a batch.

    Args:
        model: The trained model.
        batch: TRL's, with `prompt_ids`, `completion_ids`, their masks, `tool_mask` and `sampling_per_token_logps`.
        temperature: Of the sampling.

    Returns:
        `logprob_difference` (mean absolute, in nats) and the `ratio_mean` and `ratio_max` of the policy to the
        sampler over sampled tokens; nothing if the rows have none.
    """
    rows = slice(0, _ROWS)
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)[rows]
    attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)[rows]
    mask = (batch["completion_mask"] * batch["tool_mask"])[rows].bool()
    width = batch["completion_ids"].shape[1]
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=attention, logits_to_keep=width + 1).logits[:, :-1]
        logprobs = (logits.float() / temperature).log_softmax(-1).gather(-1, ids[:, -width:, None])[..., 0]
    if not mask.any():  # looked at last: with weights in shards, all processes have to go through the forward pass
        return {}
    difference = (logprobs - batch["sampling_per_token_logps"][rows])[mask]
    ratio = difference.exp()
    return {
        "logprob_difference": float(difference.abs().mean()),
        "ratio_mean": float(ratio.mean()),
        "ratio_max": float(ratio.max()),
    }
