"""Sampling turns of many sequences with one model: the rows at work stay together, the others keep their cache.

Rows are in three consecutive parts: those whose turn is being sampled, those that wait for their environment, and
free ones. A row moves between the parts by changing places with the one at the border.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import torch

from palestra.agents.decoder import Decoder
from palestra.agents.engine import Completion, SamplingParams
from palestra.agents.sampling import sample_tokens
from palestra.agents.slots import SlotCache

_JOIN_AT = 8
"""New tokens are read once their rows are at least one in so many of those at work: a forward pass has a price."""


@dataclass(slots=True)
class _Row:
    key: int
    new: list[int]
    """Tokens that were not read yet."""
    random: random.Random
    fresh: bool = True
    """Whether nothing of it was read yet."""
    done: Completion = field(default_factory=lambda: Completion([], [], "length"))


class SlotStream:
    """A stream over a transformers causal language model with full attention.

    Args:
        model: The model, in evaluation mode until the stream is closed.
        stop_ids: Ids that end a turn.
        params: Shared by all turns.
        most: Sequences that are held at once.
        budget: Bytes that the cache may take; fewer sequences are taken where it would be passed.
    """

    def __init__(self, model: Any, stop_ids: frozenset[int], params: SamplingParams, most: int, budget: int) -> None:
        self._model, self._stop, self._params = model, stop_ids, params
        self._decoder = Decoder.of(model)
        self._was_training = model.training
        model.eval()
        config = model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        size = next(model.parameters()).element_size()
        self._column_bytes: int = 2 * config.num_hidden_layers * heads * width * size
        self._most, self._budget = most, budget
        self._cache = SlotCache(config.num_hidden_layers, most, 0, model.device)
        self._rows: list[_Row] = []  # at work, then waiting
        self._at_work = 0
        self._place: dict[int, int] = {}
        self._arriving: list[int] = []

    def room(self) -> int:
        """Return how many more sequences may be submitted."""
        free = self._most - len(self._rows)
        longest = max((len(row.new) for row in self._rows), default=0) + self._params.max_tokens
        columns = max(self._cache.mask.shape[1], self._cache.column + longest)
        affordable = self._budget // (columns * self._column_bytes) - len(self._rows)
        return max(int(not self._rows), min(free, affordable))

    def submit(self, key: int, ids: Sequence[int], seed: int) -> None:
        """Begin a sequence."""
        self._place[key] = len(self._rows)
        self._cache.clear(len(self._rows))
        self._rows.append(_Row(key, list(ids), random.Random(seed)))
        self._arriving.append(key)

    def extend(self, key: int, ids: Sequence[int], seed: int) -> None:
        """Add tokens to a sequence; the last one that was sampled is still to be read as well."""
        row = self._rows[self._place[key]]
        row.new = [row.done.ids[-1], *ids]
        row.random, row.fresh, row.done = random.Random(seed), False, Completion([], [], "length")
        self._arriving.append(key)

    def drop(self, key: int) -> None:
        """Forget a sequence."""
        place = self._place.pop(key)
        if place < self._at_work:
            self._at_work -= 1
            self._fill(place, self._at_work)
            place = self._at_work
        self._fill(place, len(self._rows) - 1)
        self._rows.pop()
        if key in self._arriving:
            self._arriving.remove(key)

    def step(self) -> list[tuple[int, Completion]]:
        """Read the new tokens, or sample one more token of every turn; returns the turns that ended."""
        with torch.inference_mode():
            if self._arriving and len(self._arriving) * _JOIN_AT >= self._at_work:
                return self._join()
            return self._decode() if self._at_work else []

    def close(self) -> None:
        """Forget all sequences and the cache, and put the model back into its mode."""
        self._model.train(self._was_training)
        self._rows, self._place, self._arriving, self._at_work = [], {}, [], 0
        self._cache.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _join(self) -> list[tuple[int, Completion]]:
        """Read the new tokens of all that arrived, and sample the first token of their turns.

        Of sequences that begin alike, as the members of a group do, one is read and the others take its cache.
        """
        first = self._at_work
        alike: dict[tuple[int, ...], list[int]] = {}
        for key in self._arriving:
            row = self._rows[self._place[key]]
            alike.setdefault(tuple(row.new) if row.fresh else (-1, key), []).append(key)
        read, taking = [keys[0] for keys in alike.values()], [keys[1:] for keys in alike.values()]
        for place, key in enumerate([*read, *(key for keys in taking for key in keys)], first):
            self._move(self._place[key], place)
        self._at_work += len(self._arriving)
        self._arriving = []
        rows = self._rows[first : first + len(read)]
        width = max(len(row.new) for row in rows)
        new = torch.zeros(len(read), width, dtype=torch.long)
        for place, row in enumerate(rows):
            new[place, width - len(row.new) :] = 1
        padded = [[0] * (width - len(row.new)) + row.new for row in rows]
        logits = self._forward(slice(first, first + len(read)), torch.tensor(padded), new)
        source = [place for place, keys in enumerate(taking) for _ in keys]
        if source:
            theirs = range(first + len(read), self._at_work)
            self._cache.copy([first + place for place in source], theirs, self._cache.column - width)
            logits = logits[[*range(len(read)), *source]]
        return self._sample(slice(first, self._at_work), logits)

    def _decode(self) -> list[tuple[int, Completion]]:
        """Sample one more token of every turn at work."""
        rows = slice(0, self._at_work)
        ids = torch.tensor([row.done.ids[-1] for row in self._rows[rows]])
        if self._decoder is None:
            return self._sample(rows, self._forward(rows, ids[:, None], torch.ones_like(ids)[:, None]))
        logits = self._decoder(ids.to(self._model.device), self._cache, rows)
        self._cache.advance(1)
        return self._sample(rows, logits)

    def _forward(self, rows: slice, ids: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """Read new columns; returns the logits `(rows, vocabulary)` after the last."""
        device = self._model.device
        attention, positions = self._cache.attend(rows, new.to(device))
        logits: torch.Tensor = self._model(
            input_ids=ids.to(device),
            attention_mask=attention,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        self._cache.advance(ids.shape[1])
        return logits

    def _sample(self, rows: slice, logits: torch.Tensor) -> list[tuple[int, Completion]]:
        """Add a token to the turns of some rows; returns the turns that ended."""
        device = logits.device
        working = self._rows[rows]
        draws = torch.tensor([row.random.random() for row in working], dtype=torch.float64)
        chosen, logprobs = sample_tokens(logits, self._params, draws.to(device))
        finished = []
        for row, token, logprob in zip(working, chosen.tolist(), logprobs.tolist(), strict=True):
            row.done.ids.append(token)
            row.done.logprobs.append(logprob)
            if token in self._stop:
                row.done.stop = "eos"
            if row.done.stop == "eos" or len(row.done.ids) >= self._params.max_tokens:
                finished.append((row.key, row.done))
        for key, _ in finished:
            self._at_work -= 1
            self._move(self._place[key], self._at_work)
        return finished

    def _move(self, place: int, other: int) -> None:
        """Exchange two rows."""
        if place != other:
            self._cache.swap(place, other)
            rows = self._rows
            rows[place], rows[other] = rows[other], rows[place]
            self._place[rows[place].key], self._place[rows[other].key] = place, other

    def _fill(self, place: int, other: int) -> None:
        """Put another row into the place of one that is not needed any more."""
        if place != other:
            self._cache.copy([other], [place])
            self._rows[place] = self._rows[other]
            self._place[self._rows[place].key] = place
