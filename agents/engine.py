"""The seam to whatever samples tokens. An engine knows tokens; it never knows what an environment is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample. The defaults sample from the model itself: T = 1, nothing truncated."""

    max_tokens: int = 256
    """Most tokens per turn."""
    temperature: float = 1.0
    """0 takes the most probable token."""
    top_p: float = 1.0
    """Nucleus mass that is kept; 1 keeps everything."""


@dataclass(slots=True)
class Completion:
    """One sampled turn."""

    ids: list[int]
    """Token ids; the stop token, if sampled, is the last."""
    logprobs: list[float]
    """Log-probability of each id under the temperature, before top-p, in nats."""
    stop: Literal["eos", "length"]


class Engine(Protocol):
    """Samples completions for token prompts."""

    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, seeds: Sequence[int]
    ) -> list[Completion]:
        """Sample one completion per prompt.

        Args:
            prompts: Token ids, any lengths.
            params: Shared by all prompts.
            seeds: One per prompt. A completion depends on its own seed and not on its neighbours, up to
                the floating-point differences that another batch shape brings.
        """
        ...
