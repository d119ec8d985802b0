"""The seam to whatever samples tokens. An engine knows tokens; it never knows what an environment is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol, Self


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample. The defaults sample from the model itself: T = 1, nothing truncated."""

    max_tokens: int = 256
    """Most tokens per turn."""
    temperature: float = 1.0
    """0 takes the most probable token."""
    top_p: float = 1.0
    """Nucleus mass that is kept; 1 keeps everything."""
    banned: tuple[int, ...] = ()
    """Token ids that are never sampled: the distribution is that of the others, renormalised."""


@dataclass(slots=True)
class Completion:
    """One sampled turn."""

    ids: list[int]
    """Token ids; the stop token, if sampled, is the last."""
    logprobs: list[float]
    """Log-probability of each id under the temperature, before top-p, in nats."""
    stop: Literal["eos", "length"]


class Stream(Protocol):
    """Sequences in flight, each of which gets one turn sampled at a time.

    A turn depends on its sequence and its own seed and not on its neighbours, up to the floating-point
    differences that another batch shape brings.
    """

    def room(self) -> int:
        """Return how many more sequences may be submitted now; at least 1 where none is held."""
        ...

    def submit(self, key: int, ids: Sequence[int], seed: int) -> None:
        """Begin the sequence `key` with a prompt, and have a turn sampled after it."""
        ...

    def extend(self, key: int, ids: Sequence[int], seed: int) -> None:
        """Add tokens behind the turn that `key` was given last, and have another turn sampled."""
        ...

    def drop(self, key: int) -> None:
        """Forget a sequence."""
        ...

    def step(self) -> list[tuple[int, Completion]]:
        """Work for a moment on the turns that are asked for; returns those that came to their end."""
        ...

    def close(self) -> None:
        """Release what the sequences take."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Engine(Protocol):
    """Samples turns for token sequences."""

    def open(self, params: SamplingParams, most: int) -> Stream:
        """Return a stream with the weights that the model has now.

        Args:
            params: Shared by all its turns.
            most: Sequences that will be held at once, at most.
        """
        ...


Generate = Callable[[Sequence[Sequence[int]], SamplingParams, Sequence[int]], list[Completion]]
"""(token prompts, parameters, one seed per prompt) -> one completion per prompt."""


class TurnStream(ABC):
    """A stream that asks for every turn with its whole sequence: what keeps prefixes, if anything, lies behind it.

    Args:
        most: Sequences that will be held at once, at most.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: dict[int, list[int]] = {}

    @abstractmethod
    def _ask(self, key: int, seed: int) -> None:
        """Have a turn sampled after a held sequence."""

    @abstractmethod
    def _forget(self, key: int) -> None:
        """Give up the turn that is being sampled for a sequence, if there is one."""

    @abstractmethod
    def _collect(self) -> list[tuple[int, Completion]]:
        """Work for a moment; return the turns that came to their end."""

    def room(self) -> int:
        """Return how many more sequences may be submitted."""
        return self._most - len(self._held)

    def submit(self, key: int, ids: Sequence[int], seed: int) -> None:
        """Begin a sequence."""
        self._held[key] = list(ids)
        self._ask(key, seed)

    def extend(self, key: int, ids: Sequence[int], seed: int) -> None:
        """Add tokens to a sequence."""
        self._held[key] += ids
        self._ask(key, seed)

    def drop(self, key: int) -> None:
        """Forget a sequence."""
        del self._held[key]
        self._forget(key)

    def step(self) -> list[tuple[int, Completion]]:
        """Work for a moment; returns the turns that came to their end."""
        finished = self._collect()
        for key, completion in finished:
            self._held[key] += completion.ids
        return finished

    def close(self) -> None:
        """Forget all sequences."""
        for key in list(self._held):
            self.drop(key)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class BatchStream(TurnStream):
    """A stream over a function that samples a batch from nothing: every turn reads its whole sequence again.

    Args:
        generate: Samples one completion per prompt.
        params: Shared by all turns.
        most: Sequences that will be held at once, at most.
    """

    def __init__(self, generate: Generate, params: SamplingParams, most: int) -> None:
        super().__init__(most)
        self._generate, self._params = generate, params
        self._asked: dict[int, int] = {}

    def _ask(self, key: int, seed: int) -> None:
        self._asked[key] = seed

    def _forget(self, key: int) -> None:
        self._asked.pop(key, None)

    def _collect(self) -> list[tuple[int, Completion]]:
        """Sample all turns that are asked for, to their end."""
        asked, self._asked = self._asked, {}
        if not asked:
            return []
        done = self._generate([self._held[key] for key in asked], self._params, list(asked.values()))
        return list(zip(asked, done, strict=True))
