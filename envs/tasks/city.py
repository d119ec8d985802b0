"""A town of named streets: crossings on a grid, two diagonal roads, closed blocks, landmarks; and walking in it.

Directions are numbered clockwise from north in steps of 45 degrees. A crossing is `(x, y)`, x to the east and
y to the north.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from palestra.envs.tasks.worlds import World
from palestra.envs.tools.base import ToolError

COMPASS = ("north", "north-east", "east", "south-east", "south", "south-west", "west", "north-west")
SIDES = ("ahead", "slightly right", "right", "sharp right", "behind", "sharp left", "left", "slightly left")
"""Directions relative to the heading, in the order of `COMPASS`."""
TURNS = {"left": 6, "slightly left": 7, "slightly right": 1, "right": 2}
"""The turns that can be asked for in relative terms."""
STEPS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))

STREETS = tuple(
    "Acorn Alder Amber Ash Beech Birch Bloom Briar Cedar Cherry Chapel Clover Copper Coral Elm Fern Flint Forge Grove "
    "Harbor Hazel Heron Holly Ivy Juniper Lark Laurel Linden Maple Meadow Mill Oak Olive Orchard Pearl Pine Poplar "
    "Quarry Raven River Rose Rowan Sage Spruce Stone Thorn Union Walnut Willow Yew".split()
)
LANDMARKS = tuple(
    "bakery bank barber bookshop bridge butcher cafe castle church cinema clinic college fountain garage garden "
    "gallery hospital hotel laundry library market monument mosque museum office park pharmacy pool post school "
    "stadium station statue synagogue temple theatre tower university windmill zoo".split()
)

CLOSED = 1 / 6
"""Share of the blocks that cannot be walked."""

Crossing = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Town:
    """A street map."""

    size: int
    """Crossings per side."""
    rows: tuple[str, ...]
    """Names of the streets that run east, from south to north."""
    columns: tuple[str, ...]
    """Names of the avenues that run north, from west to east."""
    rising: tuple[str, int]
    """The road that runs north-east: its name, and x - y on it."""
    falling: tuple[str, int]
    """The road that runs south-east: its name, and x + y on it."""
    number: int
    """Decides which blocks are closed."""
    landmarks: Mapping[Crossing, str] = field(default_factory=dict)

    def names(self, at: Crossing) -> list[str]:
        """Return the names of the streets that meet at a crossing."""
        x, y = at
        roads = [self.rising[0]] * (x - y == self.rising[1]) + [self.falling[0]] * (x + y == self.falling[1])
        return [self.rows[y], self.columns[x], *roads]

    def next(self, at: Crossing, direction: int) -> Crossing | None:
        """Return the next crossing in a direction; None where no street leads there."""
        x, y = at
        if direction % 2 and not self._diagonal(x, y, direction):
            return None
        dx, dy = STEPS[direction]
        there = (x + dx, y + dy)
        if not (0 <= there[0] < self.size and 0 <= there[1] < self.size) or self._closed(at, there):
            return None
        return there

    def exits(self, at: Crossing) -> list[int]:
        """Return the directions in which streets lead away."""
        return [direction for direction in range(8) if self.next(at, direction) is not None]

    def _closed(self, one: Crossing, other: Crossing) -> bool:
        """Whether a block cannot be walked: decided by a hash of where it lies, which is cheaper than a list."""
        place = (one[0] + other[0]) * 1_000_003 + (one[1] + other[1]) * 8_191 + self.number
        return ((place * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF) < CLOSED * 2**64

    def _diagonal(self, x: int, y: int, direction: int) -> bool:
        return x - y == self.rising[1] if direction % 4 == 1 else x + y == self.falling[1]


def draw_town(rng: random.Random, size: int) -> Town:
    """Draw names and the two diagonal roads; no landmark stands yet."""
    names = rng.sample(STREETS, 2 * size + 2)
    third = size // 3
    return Town(
        size=size,
        rows=tuple([f"{name} Street" for name in names[:size]]),
        columns=tuple([f"{name} Avenue" for name in names[size : 2 * size]]),
        rising=(f"{names[-2]} Road", rng.randint(-third, third)),
        falling=(f"{names[-1]} Road", size - 1 + rng.randint(-third, third)),
        number=rng.getrandbits(64),
    )


@dataclass(frozen=True, slots=True)
class Wording:
    """How the town is described."""

    place: str
    landmark: str
    heading: str
    exits: str


class Walk(World):
    """Someone on the way through a town.

    Args:
        town: The map.
        route: The crossings of the way, from the start to the destination.
        heading: Where the walker faces at first.
        relative: Whether directions are told relative to the heading.
        wording: How what is seen is told.
    """

    def __init__(
        self, town: Town, route: Sequence[Crossing], heading: int, *, relative: bool, wording: Wording
    ) -> None:
        super().__init__()
        self.town = town
        self.at = route[0]
        self.heading = heading
        self.relative = relative
        self.stopped = False
        self._destination = route[-1]
        self._share = {crossing: i / (len(route) - 1) for i, crossing in enumerate(route)}
        self._wording = wording

    @property
    def arrived(self) -> bool:
        """Whether this is the destination."""
        return self.at == self._destination

    def state(self) -> str:
        """Return where the walker is and faces."""
        return f"{self.at[0]},{self.at[1]} {COMPASS[self.heading]}{' stopped' * self.stopped}"

    def potential(self) -> float:
        """Return the share of the route that lies behind; nothing off the route."""
        return self._share.get(self.at, 0.0)

    def forward(self) -> None:
        """Walk to the next crossing.

        Raises:
            ToolError: No street leads there.
        """
        there = self.town.next(self.at, self.heading)
        if there is None:
            raise ToolError(f"no street leads {'ahead' if self.relative else self._facing} here.")
        self.at = there

    def view(self) -> str:
        """Return what the walker sees."""
        wording = self._wording
        landmark = self.town.landmarks.get(self.at)
        exits = self.town.exits(self.at)
        if self.relative:
            exits = sorted((direction - self.heading) % 8 for direction in exits)
        words = SIDES if self.relative else COMPASS
        parts = [
            wording.place.format(streets=_listed(self.town.names(self.at))),
            wording.landmark.format(landmark=landmark) if landmark else "",
            "" if self.relative else wording.heading.format(direction=self._facing),
            wording.exits.format(exits=_listed([words[direction] for direction in exits])),
        ]
        return " ".join(part for part in parts if part)

    @property
    def _facing(self) -> str:
        return COMPASS[self.heading]


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
