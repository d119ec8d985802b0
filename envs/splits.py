"""Which tasks belong to which variant: disjoint shares of the hashed key space.

Invariant: variants that are not both for training share no task, whatever their generators draw.
"""

from collections.abc import Mapping
from hashlib import blake2b
from struct import Struct
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")
_BIG_ENDIAN = Struct(">Q").unpack


def split_cell(variants: Mapping[str, Any], variant: str) -> tuple[float, float]:
    """Return the share [low, high) of the hashed key space that belongs to a variant.

    Variants whose name starts with `train` share the lower half; every other variant owns an equal part of
    the upper half. Two variants that are not both for training are therefore disjoint by key, whatever their
    generators draw. Adding or reordering variants changes the parts: raise the environment's version then.
    """
    if variant.startswith("train"):
        return 0.0, 0.5
    held_out = [name for name in variants if not name.startswith("train")]
    width = 0.5 / len(held_out)
    position = held_out.index(variant)
    high = 1.0 if position == len(held_out) - 1 else 0.5 + width * (position + 1)
    return 0.5 + width * position, high


def hash64(text: str) -> int:
    """Hash to 64 bits, the same in every process."""
    number: int = _BIG_ENDIAN(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())[0]
    return number


class Recent(Generic[_T]):
    """A bounded memory of what was made last, by key."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._made: dict[Any, _T] = {}
        self.get = self._made.get

    def put(self, key: Any, made: _T) -> _T:
        """Remember what was made for a key, and forget everything else if there is too much; return it.

        Threads may do this at once: each operation on the dictionary is one.
        """
        if len(self._made) >= self._limit:
            self._made.clear()
        self._made[key] = made
        return made
