"""Which tasks belong to which variant: disjoint shares of the hashed key space.

Invariant: variants that are not both for training share no task, whatever their generators draw.
"""

from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from math import ceil
from struct import Struct
from typing import Any, Generic, NamedTuple, TypeVar

_T = TypeVar("_T")
_HASHES = 2**64
_BIG_ENDIAN = Struct(">Q").unpack


def split_cell(variants: Iterable[str], variant: str) -> tuple[float, float]:
    """Return the share [low, high) of the hashed key space that belongs to a variant.

    Variants whose name starts with `train` share the lower half; every other variant owns an equal part of
    the upper half. Two variants that are not both for training are therefore disjoint by key, whatever their
    generators draw. Where all are for training, or none is, the whole is shared instead of a half. Adding or
    reordering variants changes the parts: raise the environment's version then.
    """
    names = list(variants)
    held_out = [name for name in names if not name.startswith("train")]
    middle = 1.0 if not held_out else 0.5 if len(held_out) < len(names) else 0.0
    if variant.startswith("train"):
        return 0.0, middle
    width = (1.0 - middle) / len(held_out)
    position = held_out.index(variant)
    high = 1.0 if position == len(held_out) - 1 else middle + width * (position + 1)
    return middle + width * position, high


class Cell(NamedTuple):
    """A share of an environment's keys: those whose `hash64` is in [low, high)."""

    low: int
    high: int

    @classmethod
    def of(cls, variants: Iterable[str], variant: str) -> "Cell":
        """Return a variant's, as `split_cell` says."""
        low, high = split_cell(variants, variant)
        return cls(ceil(low * _HASHES), ceil(high * _HASHES))

    def holds(self, env_id: str, key: str) -> bool:
        """Return whether a key of the environment falls into it."""
        low, high = self
        if high - low == _HASHES:
            return True
        return low <= hash64_after(env_id, key) < high


def hash64(text: str) -> int:
    """Hash to 64 bits, the same in every process."""
    number: int = _BIG_ENDIAN(_begun(text).digest())[0]
    return number


def hash64_after(name: str, text: str) -> int:
    """Return `hash64(f"{name}|{text}")`, sooner where many texts follow one name."""
    hashed = _begun_once(f"{name}|").copy()
    hashed.update(text.encode("utf-8", "surrogatepass"))
    number: int = _BIG_ENDIAN(hashed.digest())[0]
    return number


def _begun(text: str) -> blake2b:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8)


_begun_once = lru_cache(maxsize=512)(_begun)


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
