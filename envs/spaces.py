"""A text space without a charset: `gymnasium.spaces.Text` refuses every character it was not told of."""

from collections.abc import Sequence
from typing import Any

from gymnasium import Space


class Unicode(Space[str]):
    """All strings of at most `max_length` code points.

    `sample()` draws from `examples`: random characters would tell nothing about a language agent.
    """

    def __init__(
        self, max_length: int, examples: Sequence[str] = ("", "Hello.", "ζ ≥ ½"), seed: int | None = None
    ) -> None:
        super().__init__(shape=None, dtype=str, seed=seed)
        self.max_length = max_length
        self.examples = tuple(examples)

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """Draw one of the examples; masks have no meaning here and are refused."""
        if mask is not None or probability is not None:
            raise ValueError("a Unicode space takes neither mask nor probability")
        return self.examples[int(self.np_random.integers(len(self.examples)))]

    def contains(self, x: Any) -> bool:
        """Whether `x` is a string of at most `max_length` code points."""
        return isinstance(x, str) and len(x) <= self.max_length

    @property
    def is_np_flattenable(self) -> bool:
        """Text has no flat array form."""
        return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unicode) and self.max_length == other.max_length

    def __repr__(self) -> str:
        return f"Unicode({self.max_length})"
