"""Episodes that begin alike, read once: a pass over trees of prefixes in place of one over rows.

The members of a group share their prompt, and often most of what follows; a pass over rows reads it for each of them.
Here rows become a few trees in which a shared prefix stands once: a token has the position that it has in its
episodes, and a mask shows it their past. Log-probabilities and gradients are those of the rows, up to rounding. Known
as prefix grouping (prompts only, arXiv 2506.05433) and tree training (arXiv 2511.00413), which packs trees as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
import torch
from accelerate.utils import is_peft_model
from torch import Tensor, nn

from palestra.agents.decoder import FAMILIES, FIXED_ROPE

_STRETCH = tuple(1.1**i for i in range(22))
"""How large trees may be, in longest rows: one row each at worst, the members of a group at best."""
_IGNORED = -100
_MASKED_ON_GPU = 3.0
"""Read off an H200 in bf16 (Qwen2 of 0.5B and 1.5B): there, attention without a mask has kernels of its own."""


@dataclass(frozen=True, slots=True)
class PassCost:
    """What a pass costs, in units of one token seeing another one.

    Args:
        token: What all but attention costs per token. A layer takes 2 operations per weight, and 4 x heads x width of
            a head per token that is seen.
        masked: What it costs to see a token, or not, where a mask says which.
    """

    token: float
    masked: float = 1.0

    @classmethod
    def of(cls, config: Any, device: str = "cpu") -> Self:
        """Read it off the configuration of a model with gated feed-forward layers, and the type of its device."""
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        heads = 2 * config.num_attention_heads + 2 * config.num_key_value_heads
        weights = config.hidden_size * (heads * width + 3 * config.intermediate_size)
        return cls(weights / (2 * config.num_attention_heads * width), _MASKED_ON_GPU if device == "cuda" else 1.0)

    def rows(self, lengths: Sequence[int]) -> float:
        """Return the cost of a pass over rows of so many tokens: padded to the longest, they see what is before."""
        longest = max(lengths)
        return len(lengths) * longest * (self.token + longest / 2)

    def trees(self, sizes: Sequence[int]) -> float:
        """Return the cost of a pass over trees of so many nodes: padded to the largest, they see all of it, masked."""
        largest = max(sizes)
        return len(sizes) * largest * (self.token + self.masked * largest)


@dataclass(frozen=True, slots=True)
class Packing:
    """How the rows of a batch are put into trees."""

    order: list[int]
    """The rows by their tokens: those that begin alike are neighbours."""
    shared: list[int]
    """For each in that order: how many nodes it has in common with the one before; 0 where a tree begins."""
    sizes: list[int]
    """Nodes of each tree."""
    starts: list[int]
    """Where in the order each tree begins."""

    @classmethod
    def best(cls, rows: list[list[int]], cost: PassCost) -> Self:
        """Return the cheapest of some ways to cut the rows, in their order, into trees."""
        order = sorted(range(len(rows)), key=rows.__getitem__)
        shared = [0, *(_shared(rows[a], rows[b]) for a, b in pairwise(order))]
        nodes = [len(rows[i]) - 1 for i in order]
        limits = (int(max(nodes) * stretch) for stretch in _STRETCH)
        starts, sizes = min((_filled(shared, nodes, limit) for limit in limits), key=lambda way: cost.trees(way[1]))
        for start in starts:
            shared[start] = 0
        return cls(order, shared, sizes, starts)


@dataclass(frozen=True, slots=True)
class PrefixTrees:
    """The rows of a batch as trees.

    A node is a token and the one that comes after it: where rows part, the last token that they share stands once for
    each way on, since a model's head predicts one token per place.
    """

    ids: Tensor
    """`(trees, nodes)`, padded on the right."""
    positions: Tensor
    """`(trees, nodes)`: where a token stands in its episodes."""
    mask: Tensor
    """`(trees, 1, nodes, nodes)`: whether a node (third) sees another one (last); all see themselves."""
    labels: Tensor
    """`(trees, nodes)`: the token that comes next; -100 where no completion's token is predicted, and on padding."""
    place: Tensor
    """`(rows, tokens)`: the node, counted through all trees, that predicts a completion's token."""
    scored: Tensor
    """`(rows, tokens)`: whether there is a token, and not padding."""

    @classmethod
    def where_cheaper(cls, ids: Tensor, attention: Tensor, completion: int, cost: PassCost) -> Self | None:
        """Return the trees of a batch, or None where a pass over its rows costs less.

        Args:
            ids: `(rows, columns)`: prompts padded on the left, completions on the right.
            attention: 1 for tokens and 0 for padding; shape as `ids`.
            completion: How many columns, the last ones, are the completion's.
            cost: Of passes of the model.
        """
        rows = [row[there].tolist() for row, there in zip(ids.cpu(), attention.cpu().bool(), strict=True)]
        packing = Packing.best(rows, cost)
        cheaper = 0 < cost.trees(packing.sizes) < cost.rows([len(row) for row in rows])
        return cls.of(rows, packing, attention[:, -completion:].bool()) if cheaper else None

    @classmethod
    def of(cls, rows: list[list[int]], packing: Packing, scored: Tensor) -> Self:
        """Put rows into trees.

        Args:
            rows: The tokens of each, prompt and completion.
            packing: Of these rows.
            scored: `(rows, tokens)`: where a completion has tokens, the last ones of its row.
        """
        size = max(packing.sizes)
        shape = (len(packing.sizes), size)
        ids, positions, labels = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.full(shape, _IGNORED)
        mask = np.zeros((*shape, size), np.bool_)
        mask[:, range(size), range(size)] = True
        there = scored.cpu().numpy()
        place = np.zeros(there.shape, np.int64)
        bounds = zip(packing.starts, [*packing.starts[1:], len(rows)], strict=True)
        for tree, (start, end) in enumerate(bounds):
            filled, path = 0, np.zeros(0, np.int64)
            for k in range(start, end):
                row, shared = packing.order[k], packing.shared[k]
                tokens = rows[row]
                last = len(tokens) - 1
                new = slice(filled, filled + last - shared)
                filled, path = new.stop, np.concatenate([path[:shared], np.arange(new.start, new.stop)])
                ids[tree, new], labels[tree, new] = tokens[shared:-1], tokens[shared + 1 :]
                positions[tree, new] = range(shared, last)
                past = mask[tree, new]
                past[:, path[:shared]] = True
                past[:, new] = np.tri(last - shared, dtype=np.bool_)
                place[row, there[row]] = path[last - there[row].sum() :] + tree * size

        predicts = np.zeros(labels.size, np.bool_)
        predicts[place[there]] = True  # a head is computed for labels alone, which a prompt has none of
        labels[~predicts.reshape(shape)] = _IGNORED

        def tensor(array: np.ndarray[Any, Any]) -> Tensor:
            return torch.from_numpy(array).to(scored.device)

        return cls(tensor(ids), tensor(positions), tensor(mask[:, None]), tensor(labels), tensor(place), scored)

    def inputs(self) -> dict[str, Tensor]:
        """Return what a model with TRL's fused head is called with."""
        return {
            "input_ids": self.ids,
            "position_ids": self.positions,
            "attention_mask": self.mask,
            "shift_labels": self.labels,
        }

    def spread(self, found: Tensor) -> Tensor:
        """Return what was found at nodes `(trees, nodes)` for the rows' tokens `(rows, tokens)`; padding is 0."""
        return found.flatten()[self.place].masked_fill(~self.scored, 0)


def _filled(shared: list[int], nodes: list[int], limit: int) -> tuple[list[int], list[int]]:
    """Fill a tree after the other until it has as many nodes as it may; returns where each begins, and its nodes."""
    starts, sizes, size = [0], [], nodes[0]
    for k in range(1, len(nodes)):
        more = size + nodes[k] - shared[k]
        if more <= limit:
            size = more
        else:
            starts.append(k)
            sizes.append(size)
            size = nodes[k]
    return starts, [*sizes, size]


def reads_trees(model: Any) -> bool:
    """Return whether mask and positions decide what a model's tokens see, and passes differ in nothing else.

    Of adapters that is so with LoRA; others put tokens before a row, or begin at one (aLoRA).
    """
    adapters = getattr(model, "peft_config", {}).values()
    base, config = model.get_base_model() if is_peft_model(model) else model, model.config
    return (
        all(one.peft_type == "LORA" and not getattr(one, "alora_invocation_tokens", None) for one in adapters)
        and isinstance(base, FAMILIES)
        and config._attn_implementation == "sdpa"
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and config.rope_parameters["rope_type"] in FIXED_ROPE
        and not getattr(config, "attention_dropout", 0)
        and not any(isinstance(module, nn.Dropout) and module.p for module in base.modules())
    )


def _shared(before: list[int], row: list[int]) -> int:
    """Return how many nodes a row has in common with the one before it in their order.

    A node has a successor: of all the tokens that are alike, the last one is followed by another one, or by none.
    """
    both = zip(before, row, strict=False)
    alike = next((place for place, (a, b) in enumerate(both) if a != b), min(len(before), len(row)))
    return max(alike - 1, 0)
