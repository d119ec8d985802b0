"""Sampling turns of many sequences with one model: each keeps its cache, and those that read the same share it."""

import random
from collections.abc import Sequence as Several
from types import TracebackType
from typing import Any, Self

import torch

from palestra.agents.decoder import Decoder
from palestra.agents.engine import Completion, SamplingParams
from palestra.agents.places import Places, Sequence
from palestra.agents.sampling import sample_tokens
from palestra.agents.slots import SlotCache

_JOIN_AT = 8
"""New tokens are read once their rows are at least one in so many of those at work: a forward pass has a price."""
_PASS_TOKENS = 128
"""What a forward pass costs beside its tokens, in tokens: where padding is more, two passes take less time."""
_FIRST_COLUMNS, _FIRST_PART = 1024, 32
"""What the cache begins with, if that is but one part in so many of the budget: every time it grows, it is copied."""


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
        columns = min(_FIRST_COLUMNS, budget // _FIRST_PART // (most * self._column_bytes))
        self._cache = SlotCache(config.num_hidden_layers, most + 1, columns, model.device)
        self._places = Places(self._cache)
        self._sequences: dict[int, Sequence] = {}
        self._arriving: list[Sequence] = []
        self._over: list[list[Sequence]] = []

    def room(self) -> int:
        """Return how many more sequences may be submitted."""
        held = self._sequences
        longest = max((len(one.new) for one in held.values()), default=0) + self._params.max_tokens
        columns = max(self._cache.columns, max(self._cache.length) + longest)
        affordable = self._budget // (columns * self._column_bytes) - len(held)
        return max(int(not held), min(self._most - len(held), affordable))

    def submit(self, key: int, ids: Several[int], seed: int) -> None:
        """Begin a sequence."""
        self._sequences[key] = Sequence(key, list(ids), random.Random(seed))
        self._arriving.append(self._sequences[key])

    def extend(self, key: int, ids: Several[int], seed: int) -> None:
        """Add tokens to a sequence; the last one that was sampled is still to be read as well."""
        one = self._sequences[key]
        one.new = [one.done.ids[-1], *ids]
        one.random, one.done = random.Random(seed), Completion([], [], "length")
        self._arriving.append(one)

    def drop(self, key: int) -> None:
        """Forget a sequence."""
        one = self._sequences.pop(key)
        self._places.leave(one)
        if one in self._arriving:
            self._arriving.remove(one)

    def step(self) -> list[tuple[int, Completion]]:
        """Read the new tokens, or sample one more token of every turn; returns the turns that ended."""
        with torch.inference_mode():
            self._let_go()
            if self._arriving and len(self._arriving) * _JOIN_AT >= self._places.working:
                return self._join()
            return self._decode() if self._places.working else []

    def close(self) -> None:
        """Forget all sequences and the cache, and put the model back into its mode."""
        self._model.train(self._was_training)
        self._sequences, self._arriving, self._over, self._places = {}, [], [], Places(self._cache)
        self._cache.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _join(self) -> list[tuple[int, Completion]]:
        """Read the new tokens of all that arrived, once for those that stay alike, and sample the next ones."""
        alike: dict[tuple[int | None, ...], list[Sequence]] = {}
        for one in self._arriving:
            alike.setdefault((one.place, *one.new), []).append(one)
        self._arriving = []
        return [ended for groups in _passes(list(alike.values())) for ended in self._read(groups)]

    def _read(self, groups: list[list[Sequence]]) -> list[tuple[int, Completion]]:
        """Read the new tokens of groups of sequences that stay alike, and sample the next ones."""
        first = self._places.working
        self._places.enlist(groups)
        rows = slice(first, self._places.working)
        tokens = [some[0].new for some in self._places.members[rows]]
        width = max(map(len, tokens))
        new = torch.zeros(len(tokens), width, dtype=torch.long)
        ids = torch.zeros_like(new)
        for row, some in enumerate(tokens):
            new[row, width - len(some) :], ids[row, width - len(some) :] = 1, torch.tensor(some)
        return self._sample(rows, self._forward(rows, ids, new))

    def _let_go(self) -> None:
        """Take the turns that ended out of the rows at work, now that those of episodes that ended were dropped."""
        for way in sorted(self._over, key=lambda way: way[0].place or 0, reverse=True):
            if still_there := [one for one in way if self._sequences.get(one.key) is one]:
                self._places.release(still_there)
        self._over = []

    def _decode(self) -> list[tuple[int, Completion]]:
        """Sample one more token of every turn at work."""
        rows = slice(0, self._places.working)
        ids = torch.tensor([some[0].done.ids[-1] for some in self._places.members[rows]])
        if self._decoder is None:
            return self._sample(rows, self._forward(rows, ids[:, None], torch.ones_like(ids)[:, None]))
        return self._sample(rows, self._decoder(ids.to(self._model.device), self._cache, rows))

    def _forward(self, rows: slice, ids: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """Read new tokens; returns the logits `(rows, vocabulary)` after the last."""
        device = self._model.device
        attention, positions = self._cache.attend(rows, new.to(device))
        if self._model.config._attn_implementation == "eager":  # adds the mask
            attention = (~attention).to(self._model.dtype) * torch.finfo(self._model.dtype).min
        logits: torch.Tensor = self._model(
            input_ids=ids.to(device),
            attention_mask=attention,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        return logits

    def _sample(self, rows: slice, logits: torch.Tensor) -> list[tuple[int, Completion]]:
        """Add a token to the turns of the sequences in some rows, the last of those at work; returns which ended."""
        device = logits.device
        groups = [list(some) for some in self._places.members[rows]]
        working = [one for some in groups for one in some]
        if len(working) > len(groups):
            logits = logits[[row for row, some in enumerate(groups) for _ in some]]
        draws = torch.tensor([one.random.random() for one in working], dtype=torch.float64)
        chosen, logprobs = sample_tokens(logits, self._params, draws.to(device))
        for one, token, logprob in zip(working, chosen.tolist(), logprobs.tolist(), strict=True):
            one.done.ids.append(token)
            one.done.logprobs.append(logprob)
            if token in self._stop:
                one.done.stop = "eos"
        for some in reversed(groups):
            if len(some) > 1 or self._ended(some[0]):
                self._part(some)
        return [(one.key, one.done) for one in working if self._ended(one)]

    def _part(self, some: list[Sequence]) -> None:
        """Have those go on together that drew the same token; a turn that ended leaves the rows at work."""
        alike: dict[int, list[Sequence]] = {}
        for one in some:
            alike.setdefault(one.done.ids[-1], []).append(one)
        ways = sorted(alike.values(), key=lambda way: self._ended(way[0]))
        self._over += [way for way in ways if self._ended(way[0])]
        self._places.enlist([way for way in ways[1:] if not self._ended(way[0])])

    def _ended(self, one: Sequence) -> bool:
        return one.done.stop == "eos" or len(one.done.ids) >= self._params.max_tokens


def _passes(groups: list[list[Sequence]]) -> list[list[list[Sequence]]]:
    """Cut groups with few new tokens off from those with many, as long as that spares more than a pass costs."""
    groups = sorted(groups, key=lambda some: -len(some[0].new))
    widths = [len(some[0].new) for some in groups]
    spared, cut = max(((widths[0] - widths[k]) * (len(widths) - k), k) for k in range(len(widths)))
    return [groups[:cut], *_passes(groups[cut:])] if spared > _PASS_TOKENS else [groups]
