"""Micro-batches of episodes of like length: a short episode is not padded to the longest of the whole step.

Episodes of tools differ in length by a factor of ten, and a pass over padding costs as much as one over tokens. Which
episodes share a micro-batch decides nothing: every micro-batch has as many, and losses are means over the episodes or
over the tokens of all of them.
"""

from typing import Any

import torch

_PROMPT = ("prompt_ids", "prompt_mask")


def by_length(batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Deal the rows of the micro-batches of a step out anew, the longest together, each cut to its longest row.

    Args:
        batches: Equal keys and numbers of rows. `prompt_*` are padded on the left, (rows, prompt); `completion_ids`
            and what has its shape on the right, (rows, tokens); masks are 0 on padding. Scalars belong to the step.
    """
    together = {name: _joined([batch[name] for batch in batches]) for name in batches[0]}
    lengths = together["prompt_mask"].sum(1) + together["completion_mask"].sum(1)
    order = torch.argsort(lengths, descending=True, stable=True)
    return [_cut({name: _rows(value, some) for name, value in together.items()}) for some in order.chunk(len(batches))]


def _joined(values: list[Any]) -> Any:
    return torch.cat(values) if torch.is_tensor(values[0]) and values[0].ndim else values[0]


def _rows(value: Any, some: torch.Tensor) -> Any:
    return value[some] if torch.is_tensor(value) and value.ndim else value


def _cut(batch: dict[str, Any]) -> dict[str, Any]:
    """Drop the columns that are padding in every row; a prompt and a completion keep one at least."""
    prompt = max(1, int(batch["prompt_mask"].sum(1).max()))
    tokens = max(1, int(batch["completion_mask"].sum(1).max()))
    shape = batch["completion_ids"].shape
    for name, value in batch.items():
        if name in _PROMPT:
            batch[name] = value[:, -prompt:]
        elif torch.is_tensor(value) and value.shape == shape:
            batch[name] = value[:, :tokens]
    return batch
