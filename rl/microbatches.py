"""Micro-batches of episodes that are cheap to read together: of like length, or that begin alike.

Episodes of tools differ in length by a factor of ten, and a pass over padding costs as much as one over tokens; the
members of a group begin alike, and what they share need be read but once (`prefix_tree.py`). What is short, or shared,
leaves room for more: several micro-batches become one pass where that reads no more than a micro-batch may. Which
episodes share a pass decides nothing: losses are means over the episodes or over the tokens of all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch

from palestra.rl.prefix_tree import Packing, PassCost

_PROMPT = ("prompt_ids", "prompt_mask")
_PASS_TOKENS = 128
"""What a pass costs beside its tokens, in tokens."""


@dataclass(frozen=True, slots=True)
class _Pass:
    """Some rows that are read together, in the cheaper of the two ways."""

    some: list[int]
    tokens: int
    """That are read, with padding."""
    cost: float
    """Without the price of a pass."""

    @classmethod
    def over(cls, some: list[int], rows: Sequence[list[int]], cost: PassCost) -> Self:
        chosen = [rows[row] for row in some]
        lengths, sizes = [len(row) for row in chosen], Packing.best(chosen, cost).sizes
        ways = (cost.rows(lengths), len(lengths) * max(lengths)), (cost.trees(sizes), len(sizes) * max(sizes))
        price, tokens = min(way for way in ways if way[1])  # rows of one token make trees of none
        return cls(some, tokens, price)


def deal(batches: list[dict[str, Any]], cost: PassCost | None = None, *, merge: bool = False) -> list[dict[str, Any]]:
    """Deal the rows of the micro-batches of a step out anew, each micro-batch cut to its longest row.

    Args:
        batches: Equal keys and numbers of rows. `prompt_*` are padded on the left, (rows, prompt); `completion_ids`
            and what has its shape on the right, (rows, tokens); masks are 0 on padding. Scalars belong to the step.
        cost: What passes over trees cost; None if the model cannot read them.
        merge: Whether micro-batches may become one, where `cost` is known: no pass is then larger than one over as
            many rows as a micro-batch has, all as long as the longest.

    Returns:
        Those with rows, and empty ones in the place of those that were merged into others.
    """
    together = {name: _joined([batch[name] for batch in batches]) for name in batches[0]}
    rows = _tokens(together)
    chunks = _by_length(rows, len(batches))
    if cost is not None:
        ways = [[_Pass.over(some, rows, cost) for some in way] for way in (chunks, _by_prefix(rows, len(batches)))]
        if merge:
            longest = [max(map(len, rows))] * len(chunks[0])
            ways = [_merged(way, rows, cost, _Pass(chunks[0], sum(longest), cost.rows(longest))) for way in ways]
        best = min(ways, key=lambda way: sum(one.cost + _PASS_TOKENS * cost.token for one in way))
        chunks = [one.some for one in best]
    dealt = [_cut({name: _rows(value, torch.tensor(some)) for name, value in together.items()}) for some in chunks]
    return dealt + [{} for _ in batches[len(dealt) :]]


def _merged(passes: list[_Pass], rows: Sequence[list[int]], cost: PassCost, largest: _Pass) -> list[_Pass]:
    """Make one pass of neighbours as long as that costs less than two, and is not larger than the largest may be."""
    merged = passes[:1]
    for one in passes[1:]:
        both = _Pass.over(merged[-1].some + one.some, rows, cost)
        fits = both.tokens <= largest.tokens and both.cost <= largest.cost
        if fits and both.cost <= merged[-1].cost + one.cost + _PASS_TOKENS * cost.token:
            merged[-1] = both
        else:
            merged.append(one)
    return merged


def _by_length(rows: list[list[int]], count: int) -> list[list[int]]:
    """Return which rows are dealt to which of so many micro-batches, the longest together."""
    return _chunks(sorted(range(len(rows)), key=lambda row: -len(rows[row])), count)


def _by_prefix(rows: list[list[int]], count: int) -> list[list[int]]:
    """Return which rows are dealt to which of so many micro-batches, those together that begin alike."""
    return _chunks(sorted(range(len(rows)), key=rows.__getitem__), count)


def _chunks(order: list[int], count: int) -> list[list[int]]:
    size = len(order) // count
    return [order[start : start + size] for start in range(0, len(order), size)]


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
