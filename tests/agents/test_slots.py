"""The key-value cache with rows that come and go: it holds what was written, however it makes room."""

import mmap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palestra.agents.slots import SlotCache

ROWS = 3
PASSES = st.lists(
    st.tuples(
        st.integers(0, ROWS - 1),
        st.lists(st.integers(1, 90), min_size=ROWS, max_size=ROWS),
        st.sampled_from([set(), {0}, {1, 2}, set(range(ROWS))]),
    ),
    min_size=1,
    max_size=25,
)
"""Of each forward pass: the first row at work, the new tokens of every row, and the rows that are cleared before."""


@torch.inference_mode()
def write(cache: SlotCache, first: int, counts: list[int], number: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Have rows from `first` on read tokens, numbered from `number` on, right-aligned as prompts are.

    Returns the keys that they see, which of them each token sees, and the next number.
    """
    width = max(counts)
    new = torch.zeros(len(counts), width, dtype=torch.long)
    for row, count in enumerate(counts):
        new[row, width - count :] = 1
    mask, _ = cache.attend(slice(first, first + len(counts)), new)
    values = torch.arange(number, number + len(counts) * width, dtype=torch.float64).reshape(-1, 1, width, 1)
    both = torch.cat([values, -values], dim=1)
    keys, found = cache.layers[0].update(both, both + 0.5)
    assert torch.equal(keys[:, 1], -keys[:, 0])
    seen = mask[:, 0, -1]
    assert torch.equal(found[:, 0][seen], keys[:, 0][seen] + 0.5)
    return keys, mask, number + len(counts) * width


@given(PASSES)
@settings(deadline=None)  # the machine may be busy
def test_every_row_holds_its_tokens_in_their_order(passes: list[tuple[int, list[int], set[int]]]) -> None:
    cache = SlotCache(1, ROWS, 0, torch.device("cpu"))
    held: list[list[float]] = [[] for _ in range(ROWS)]
    number = 0
    for first, counts, cleared in passes:
        for row in cleared:
            cache.clear(row)
            held[row] = []
        counts, width = counts[first:], max(counts[first:])
        for row, count in enumerate(counts):
            held[first + row] += range(number + (row + 1) * width - count, number + (row + 1) * width)
        keys, mask, number = write(cache, first, counts, number)
        for row, count in enumerate(counts):
            tokens = held[first + row]
            for token in range(count):
                seen = mask[row, 0, width - count + token]
                assert keys[row, 0, seen, 0].tolist() == tokens[: len(tokens) - count + token + 1]
            assert mask[row, 0].any(1).all(), "padding sees something, too: nothing would make it not a number"


@pytest.mark.skipif(not hasattr(mmap, "MADV_NOHUGEPAGE"), reason="a hint of Linux")
def test_a_kernel_without_huge_pages_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmap, "MADV_NOHUGEPAGE", 12345)
    keys, *_ = write(SlotCache(1, 1, 0, torch.device("cpu")), 0, [3], 0)
    assert keys[0, 0, :, 0].tolist() == [0.0, 1.0, 2.0]


def test_a_row_is_copied_as_it_is_and_longer_rows_keep_what_they_have() -> None:
    cache = SlotCache(1, 3, 0, torch.device("cpu"))
    _, _, number = write(cache, 0, [3, 5], 0)
    cache.copy(0, 2)
    keys, mask, _ = write(cache, 1, [300, 200], number)
    assert cache.columns > 305
    assert keys[1, 0, mask[1, 0, -1], 0].tolist() == [2.0, 3.0, 4.0, *range(number + 400, number + 600)]
    assert keys[0, 0, mask[0, 0, -1], 0].tolist() == [*range(5, 10), *range(number, number + 300)]
