"""A key-value cache whose rows come and go: what a sequence has been read up to is never read again.

Every row has its own length: a forward pass of some consecutive rows writes each one's new tokens behind those that it
has, and sees of it no more than that. So rows of any length share one batch, a turn that goes on after an observation
costs only the observation, and a row that ends makes room for another one, without a column that no row needs.
"""

import math
import mmap
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

_SPARE_COLUMNS = 64


class _Layer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values of one layer: `(rows, heads, columns, width)`."""

    is_sliding = False

    def __init__(self, slots: "SlotCache") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._slots = slots

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate, once the shapes are known."""
        rows, columns = len(self._slots.length), self._slots.columns
        self.keys = _zeros(key_states, rows, key_states.shape[1], columns, key_states.shape[3])
        self.values = _zeros(value_states, rows, value_states.shape[1], columns, value_states.shape[3])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the new tokens of the rows at work; returns all columns of those rows that any of them has."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        places = self._slots.places(key_states.shape[1])
        for held, states in ((self.keys, key_states), (self.values, value_states)):
            held.view(-1, held.shape[-1]).index_copy_(0, places, self._slots.only_tokens(states))
        rows, end = self._slots.rows, self._slots.end
        return self.keys[rows, :, :end], self.values[rows, :, :end]

    def held(self) -> list[Tensor]:
        """Keys and values, once there are any."""
        return [held for held in (self.keys, self.values) if held is not None]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns, and where they begin."""
        return self._slots.end, 0

    def get_seq_length(self) -> int:
        """Columns; positions are given to the model."""
        return self._slots.end

    def get_max_length(self) -> int:
        """No bound: columns are added as they are needed."""
        return -1


class SlotCache(Cache):
    """The cache, for one forward pass at a time.

    Args:
        layers: Layers of the model.
        rows: Sequences that it holds at most.
        columns: Tokens of a row to begin with.
        device: Where it is.
    """

    def __init__(self, layers: int, rows: int, columns: int, device: torch.device) -> None:
        self.length = [0] * rows
        """Tokens of each row."""
        self.columns = columns
        self.end = 0
        """Columns that the pass at work sees."""
        self.rows = slice(0, 0)
        """The rows at work."""
        none = torch.zeros(0, dtype=torch.long, device=device)
        self._tokens: tuple[Tensor, ...] = (none, none)
        """The row and the column of every new token in the pass."""
        self._columns = none
        """The column of every new token in the cache."""
        self._sources: dict[int, int] = {}
        """The rows in which something else lies still than they hold: what they hold lies in those."""
        self._places: dict[int, Tensor] = {}
        self._layers = [_Layer(self) for _ in range(layers)]
        super().__init__(layers=list(self._layers))

    @torch.inference_mode()
    def attend(self, rows: slice, new: Tensor) -> tuple[Tensor, Tensor]:
        """Prepare a forward pass of some rows over new tokens.

        Args:
            rows: Which.
            new: `(rows, width)`, 1 where there is a token and 0 on padding.

        Returns:
            Which columns a token sees, `(rows, 1, width, columns)`, and its position `(rows, width)`. Padding sees
            what was there before it, or the first column.
        """
        self.settle()
        before = self.length[rows]
        positions = (torch.tensor(before, device=new.device)[:, None] + new.cumsum(1) - 1).clamp(min=0)
        self.length[rows] = [held + more for held, more in zip(before, new.sum(1).tolist(), strict=True)]
        self.rows, self.end = rows, max(self.length[rows])
        if self.end > self.columns:
            self._grow(2 * self.end + _SPARE_COLUMNS)
        self._tokens, self._places = new.nonzero(as_tuple=True), {}  # for all layers: on a GPU it is waited for
        self._columns = positions[self._tokens]
        columns = torch.arange(self.end, device=new.device)
        return (columns <= positions[..., None])[:, None], positions

    def places(self, heads: int) -> Tensor:
        """Return where the new tokens of the pass go `(tokens x heads,)`, counted through rows, heads and columns."""
        if heads not in self._places:
            row = self._tokens[0][:, None] + self.rows.start
            first = (row * heads + torch.arange(heads, device=row.device)) * self.columns
            self._places[heads] = (first + self._columns[:, None]).flatten()
        return self._places[heads]

    def only_tokens(self, states: Tensor) -> Tensor:
        """Return `(tokens x heads, width)` of `(rows, heads, new columns, width)`: without padding."""
        if states.shape[2] > 1:
            row, column = self._tokens
            states = states[row, :, column]
        return states.reshape(-1, states.shape[-1])

    def clear(self, row: int) -> None:
        """Forget what a row holds."""
        self.length[row] = 0
        self._sources.pop(row, None)

    def copy(self, row: int, to: int) -> None:
        """Put what a row holds into another one: with all other copies, when the next pass begins."""
        self.length[to] = self.length[row]
        self._sources[to] = self._sources.get(row, row)

    @torch.inference_mode()
    def settle(self) -> None:
        """Make the copies that were asked for since the last pass, all at once; a pass begins with that."""
        if not self._sources:
            return
        device = self._columns.device
        targets, sources = (torch.tensor(rows, device=device) for rows in zip(*self._sources.items(), strict=True))
        longest = max(self.length[row] for row in self._sources)
        for layer in self._layers:
            for held in layer.held():
                used = held[:, :, :longest]
                used.index_copy_(0, targets, used.index_select(0, sources))
        self._sources = {}

    def release(self) -> None:
        """Give the memory back now: cache and layers know each other, and would wait for the collector of cycles."""
        self.length, self._sources = [0] * len(self.length), {}
        for layer in self._layers:
            layer.keys = layer.values = None
            layer.is_initialized = False

    def _grow(self, columns: int) -> None:
        """Have longer rows; those that hold nothing are not copied."""
        kept = [row for row, length in enumerate(self.length) if length]
        for layer in self._layers:
            if layer.is_initialized:
                layer.keys, layer.values = (_longer(held, columns, kept) for held in layer.held())
        self.columns = columns


def _longer(held: Tensor, columns: int, rows: list[int]) -> Tensor:
    longer = _zeros(held, *held.shape[:-2], columns, held.shape[-1])
    longer[rows, :, : held.shape[-2]] = held[rows]
    return longer


def _zeros(like: Tensor, *shape: int) -> Tensor:
    """Return zeros of a tensor's type. On a CPU the system fills a page with them when it is first written to.

    Pages stay small there: rows use the beginning of what they may, and a huge page for each would be mostly filling.
    """
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    pages = mmap.mmap(-1, math.prod(shape) * like.element_size())
    if hasattr(mmap, "MADV_NOHUGEPAGE"):  # Linux
        with suppress(OSError):  # whose kernel may have no huge pages
            pages.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(pages, dtype=like.dtype).view(shape)
