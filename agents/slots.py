"""A key-value cache whose rows come and go: what a sequence has been read up to is never read again.

Every forward pass works on consecutive rows and writes new columns behind all that were written before, for all
rows alike; a mask says which columns are a row's own. So rows of any length share one batch without copies, a turn
that goes on after an observation costs only the observation, and a row that ends makes room for another one.
Columns that no row uses are squeezed out when they become too many.
"""

import math
from typing import Any

import numpy as np
import torch
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

_SPARE_COLUMNS = 64


class _Layer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values of one layer: `(rows, heads, columns, width)`."""

    is_sliding = False

    def __init__(self, slots: "SlotCache") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._slots = slots

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate, once the shapes are known."""
        rows, columns = self._slots.mask.shape
        self.keys = _zeros(key_states, rows, key_states.shape[1], columns, key_states.shape[3])
        self.values = _zeros(value_states, rows, value_states.shape[1], columns, value_states.shape[3])
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new columns of the rows at work; returns all columns of those rows."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        rows, column = self._slots.rows, self._slots.column
        end = column + key_states.shape[2]
        self.keys[rows, :, column:end] = key_states
        self.values[rows, :, column:end] = value_states
        return self.keys[rows, :, :end], self.values[rows, :, :end]

    def held(self) -> list[torch.Tensor]:
        """Keys and values, once there are any."""
        return [held for held in (self.keys, self.values) if held is not None]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns, and where they begin."""
        return self._slots.column + query_length, 0

    def get_seq_length(self) -> int:
        """Columns that were written before."""
        return self._slots.column

    def get_max_length(self) -> int:
        """No bound: columns are added as they are needed."""
        return -1


class SlotCache(Cache):
    """The cache, for one forward pass at a time.

    Args:
        layers: Layers of the model.
        rows: Sequences that it holds at most.
        columns: Columns to begin with.
        device: Where it is.
    """

    def __init__(self, layers: int, rows: int, columns: int, device: torch.device) -> None:
        self.mask = torch.zeros(rows, columns, dtype=torch.long, device=device)
        """`(rows, columns)`: 1 where a column holds a token of the row."""
        self.length = torch.zeros(rows, 1, dtype=torch.long, device=device)
        """`(rows, 1)`: tokens of each row."""
        self.column = 0
        """First column that is not written yet."""
        self.rows = slice(0, 0)
        """The rows at work."""
        self._layers = [_Layer(self) for _ in range(layers)]
        super().__init__(layers=list(self._layers))

    @torch.inference_mode()
    def attend(self, rows: slice, new: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Prepare a forward pass of some rows over new columns.

        Args:
            rows: Which.
            new: `(rows, new columns)`, 1 where there is a token.

        Returns:
            The attention mask `(rows, all columns)` and the positions `(rows, new columns)`.
        """
        width = new.shape[1]
        self._make_room(width)
        end = self.column + width
        self.rows = rows
        self.mask[rows, self.column : end] = new
        place = self.length[rows] + new.cumsum(1)
        self.length[rows] = place[:, -1:]
        return self.mask[rows, :end], (place - 1).clamp(min=0)

    def advance(self, width: int) -> None:
        """End a forward pass that wrote so many columns."""
        self.column += width

    @torch.inference_mode()
    def clear(self, row: int) -> None:
        """Forget what a row holds."""
        self.mask[row] = 0
        self.length[row] = 0

    @torch.inference_mode()
    def copy(self, row: int, to: int) -> None:
        """Put what a row holds into another one, which holds nothing."""
        for held in self._held():
            held[to, ..., : self.column, :] = held[row, ..., : self.column, :]
        self.length[to] = self.length[row]

    def release(self) -> None:
        """Give the memory back now: cache and layers know each other, and would wait for the collector of cycles."""
        for layer in self._layers:
            layer.keys = layer.values = None
            layer.is_initialized = False

    def _held(self) -> list[torch.Tensor]:
        """All that has a row for each sequence and a column for each token, columns last but one."""
        return [self.mask[..., None], *(held for layer in self._layers for held in layer.held())]

    def _make_room(self, width: int) -> None:
        """Have room for new columns, of which at least half are of use to a row that has as many as any."""
        used = int(self.length.max())
        enough = 2 * (used + width) + _SPARE_COLUMNS
        if self.column + width > enough:
            self._squeeze(used)
        if self.column + width > self.mask.shape[1]:
            self._grow(enough)

    def _squeeze(self, used: int) -> None:
        """Move the tokens of every row to its first columns, in their order."""
        live = self.length[:, 0].nonzero()[:, 0]
        order = torch.argsort(1 - self.mask[live, : self.column], dim=1, stable=True)[:, :used]
        for held in self._held():
            kept = held[live, ..., : self.column, :]
            index = (order if held.ndim == 3 else order[:, None])[..., None]
            held[live, ..., :used, :] = kept.gather(-2, index.expand(*kept.shape[:-2], used, kept.shape[-1]))
        self.mask[:, used:] = 0
        self.column = used

    def _grow(self, columns: int) -> None:
        self.mask = _longer(self.mask[..., None], columns, self.column)[..., 0]
        for layer in self._layers:
            if layer.is_initialized:
                layer.keys, layer.values = (_longer(held, columns, self.column) for held in layer.held())


def _longer(held: torch.Tensor, columns: int, used: int) -> torch.Tensor:
    longer = _zeros(held, *held.shape[:-2], columns, held.shape[-1])
    longer[..., :used, :] = held[..., :used, :]
    return longer


def _zeros(like: torch.Tensor, *shape: int) -> torch.Tensor:
    """Return zeros of a tensor's type. On a CPU the system fills a page with them when it is first written to."""
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    pages = np.zeros(math.prod(shape) * like.element_size(), np.uint8)
    return torch.from_numpy(pages).view(like.dtype).view(shape)
