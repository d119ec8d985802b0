"""The key-value cache with rows that come and go: it holds what was written, however it makes room."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from palestra.agents.slots import SlotCache

ROWS = 3
PASSES = st.lists(
    st.tuples(
        st.integers(1, ROWS),
        st.lists(st.integers(1, 90), min_size=ROWS, max_size=ROWS),
        st.sampled_from([set(), {0}, {1, 2}, set(range(ROWS))]),
    ),
    min_size=1,
    max_size=25,
)
"""Of each forward pass: the rows at work, the new tokens of every row, and the rows that are cleared before."""


@torch.inference_mode()
def write(cache: SlotCache, rows: int, counts: list[int], first: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Write tokens, numbered from `first` on, right-aligned as prompts are; returns keys, mask and the next number."""
    width = max(counts[:rows])
    new = torch.zeros(rows, width, dtype=torch.long)
    for row, count in enumerate(counts[:rows]):
        new[row, width - count :] = 1
    mask, _ = cache.attend(slice(0, rows), new)
    values = torch.arange(first, first + rows * width, dtype=torch.float64).reshape(rows, 1, width, 1)
    keys, _ = cache.layers[0].update(values, values)
    cache.advance(width)
    return keys, mask, first + rows * width


@given(PASSES)
def test_every_row_holds_its_tokens_in_their_order(passes: list[tuple[int, list[int], set[int]]]) -> None:
    cache = SlotCache(1, ROWS, 0, torch.device("cpu"))
    held: list[list[float]] = [[] for _ in range(ROWS)]
    number = 0
    for rows, counts, cleared in passes:
        for row in cleared:
            cache.clear(row)
            held[row] = []
        width = max(counts[:rows])
        for row, count in enumerate(counts[:rows]):
            held[row] += range(number + (row + 1) * width - count, number + (row + 1) * width)
        keys, mask, number = write(cache, rows, counts, number)
        for row in range(rows):
            assert keys[row, 0, mask[row] == 1, 0].tolist() == held[row]


def test_room_is_made_where_few_columns_are_in_use_and_many_are_new() -> None:
    """Twice what is in use, and a spare, is then less than the columns that were written and the new ones."""
    cache = SlotCache(1, 1, 0, torch.device("cpu"))
    number = 0
    for count in (55, 55, 52):
        _, _, number = write(cache, 1, [count], number)
    cache.clear(0)
    keys, mask, _ = write(cache, 1, [95], number)
    assert keys[0, 0, mask[0] == 1, 0].tolist() == list(range(162, 257))
