"""Micro-batches of episodes that are cheap to read together: of like length, or that begin alike.

Episodes of tools differ in length by a factor of ten, and a pass over padding costs as much as one over tokens; the
members of a group begin alike, and what they share need be read but once (`prefix_tree.py`). Which episodes share a
micro-batch decides nothing: all have as many, and losses are means over the episodes or over the tokens of all.
"""

from collections.abc import Sequence
from typing import Any

import torch

from palestra.rl.prefix_tree import Packing, PassCost

_PROMPT = ("prompt_ids", "prompt_mask")


def deal(batches: list[dict[str, Any]], cost: PassCost | None = None) -> list[dict[str, Any]]:
    """Deal the rows of the micro-batches of a step out anew, each micro-batch cut to its longest row.

    Args:
        batches: Equal keys and numbers of rows. `prompt_*` are padded on the left, (rows, prompt); `completion_ids`
            and what has its shape on the right, (rows, tokens); masks are 0 on padding. Scalars belong to the step.
        cost: What passes over trees cost; None if the model cannot read them.
    """
    together = {name: _joined([batch[name] for batch in batches]) for name in batches[0]}
    rows = _tokens(together)
    chunks = _by_length(rows, len(batches))
    if cost is not None:
        alike = _by_prefix(rows, len(batches))
        if sum(_cheapest(rows, some, cost) for some in alike) < sum(_cheapest(rows, some, cost) for some in chunks):
            chunks = alike
    return [_cut({name: _rows(value, torch.tensor(some)) for name, value in together.items()}) for some in chunks]


def _by_length(rows: list[list[int]], count: int) -> list[list[int]]:
    """Return which rows are dealt to which of so many micro-batches, the longest together."""
    return _chunks(sorted(range(len(rows)), key=lambda row: -len(rows[row])), count)


def _by_prefix(rows: list[list[int]], count: int) -> list[list[int]]:
    """Return which rows are dealt to which of so many micro-batches, those together that begin alike."""
    return _chunks(sorted(range(len(rows)), key=rows.__getitem__), count)


def _chunks(order: list[int], count: int) -> list[list[int]]:
    size = len(order) // count
    return [order[start : start + size] for start in range(0, len(order), size)]


def _cheapest(rows: Sequence[list[int]], some: list[int], cost: PassCost) -> float:
    chosen = [rows[row] for row in some]
    return min(cost.rows([len(row) for row in chosen]), cost.trees(Packing.best(chosen, cost).sizes))


def _tokens(batch: dict[str, Any]) -> list[list[int]]:
    """Return each row's prompt and completion without padding."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1).tolist()
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1).tolist()
    return [[token for token, there in zip(*row, strict=True) if there] for row in zip(ids, mask, strict=True)]


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
