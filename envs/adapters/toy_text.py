"""FrozenLake, Taxi and Blackjack of Gymnasium's toy text, in words; see `gymnasium_text.py` for what they share."""

import random
from collections.abc import Mapping, Sequence
from copy import copy
from functools import cache, lru_cache
from typing import Any

from gymnasium.envs.toy_text import blackjack
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv, generate_random_map
from gymnasium.envs.toy_text.taxi import MAP, TaxiEnv

from palestra.envs.adapters.gymnasium_text import Act, Tabular, TextGym, best_policy
from palestra.envs.core import Task
from palestra.envs.registry import register
from palestra.envs.tools.base import ToolError

_RULES: Any = blackjack  # without annotations


@register(
    "palestra/FrozenLake-v0",
    variants={
        "train": {},
        "test": {},
        "bigger": {"size": 10, "max_turns": 60},
        "slippery": {"chancy": True, "frozen": 0.85, "max_turns": 100},
    },
)
class FrozenLake(Tabular):
    """Cross a frozen lake to its goal without falling into a hole; Gymnasium's FrozenLake on drawn maps."""

    tools = (Act("move", "Takes a step.", "direction", ("left", "down", "right", "up")),)
    max_turns = 40

    size: int = 6
    """Cells per side."""
    frozen: float = 0.75
    """Share of the cells that carry."""

    def __init__(self, variant: str = "train", *args: Any, **options: Any) -> None:
        super().__init__(variant, *args, **options)
        slips = " The ice is slippery: a step often goes to the left or right of where you meant." * self.chancy
        self.instructions = (
            "You are P on a frozen lake: F carries, H is a hole, G is the goal. Reach G; a hole ends the game."
            f"{slips} Every move is a tool call."
        )

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """Draw a map with a way to the goal."""
        return {"map": generate_random_map(self.size, self.frozen, rng.randrange(2**32))}

    def first(self, data: Mapping[str, Any]) -> str:
        """Show the map, without making the environment."""
        return "P" + "\n".join(data["map"])[1:]

    def make_env(self, data: Mapping[str, Any]) -> Any:
        """Return the lake."""
        return copy(_lake(tuple(data["map"]), self.chancy))

    def see(self, env: Any, reward: float, over: bool) -> str:
        """Show the map, or say how the game ended."""
        if over:
            return "You reach the goal." if reward > 0 else "You fall into a hole. The game is over."
        row, column = divmod(int(env.s), env.ncol)
        lines = [[cell.decode() for cell in line] for line in env.desc]
        lines[row][column] = "P"
        return "\n".join("".join(line) for line in lines).replace("S", "F")


@lru_cache(maxsize=1_000)
def _lake(rows: tuple[str, ...], slippery: bool) -> Any:
    return FrozenLakeEnv(desc=list(rows), is_slippery=slippery)


_PLACES = ("R", "G", "Y", "B")


@register(
    "palestra/Taxi-v0",
    variants={"train": {}, "test": {}, "rainy": {"chancy": True, "max_turns": 80}},
    flags=("few-tasks",),
)
class Taxi(Tabular):
    """Fetch a passenger and take them where they want to go; Gymnasium's Taxi, whose map and 300 starts are fixed."""

    tools = (
        Act(
            "drive",
            "Drives one cell, or lets the passenger in or out.",
            "action",
            ("south", "north", "east", "west", "pick up", "drop off"),
        ),
    )
    max_turns = 40

    def __init__(self, variant: str = "train", *args: Any, **options: Any) -> None:
        super().__init__(variant, *args, **options)
        rain = " It rains: the taxi sometimes goes to the left or right of where you meant." * self.chancy
        self.instructions = (
            "Drive the taxi to the passenger, let them in, drive to their destination, let them out. Rows count from "
            "the top and columns from the left, from 0; a | between two cells is a wall, a : is none.\n"
            + "\n".join(MAP)
            + f"\nEvery move is a tool call.{rain}"
        )

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """Draw nothing more: the seed decides about the start, too."""
        return {}

    def make_env(self, data: Mapping[str, Any]) -> Any:
        """Return a copy of the town, whose table takes 20 ms to make."""
        return copy(_town(self.chancy))

    def policy(self, env: Any) -> Sequence[int]:
        """Return the best action of each state; the table is the same for every task."""
        return _rain_policy()

    def see(self, env: Any, reward: float, over: bool) -> str:
        """Tell where everybody is."""
        if over:
            return "The passenger gets out at the destination."
        row, column, passenger, destination = env.decode(env.s)
        where = "in the taxi" if passenger == len(_PLACES) else f"at {_PLACES[passenger]}"
        refused = " That was not possible here." if reward == -10 else ""
        return f"Taxi: row {row}, column {column}. Passenger: {where}. Destination: {_PLACES[destination]}.{refused}"


@cache
def _town(rainy: bool) -> Any:
    return TaxiEnv(is_rainy=rainy)


@cache
def _rain_policy() -> list[int]:
    return best_policy(_town(True).P)


class Hands:
    """Several hands of Blackjack, one after the other."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._seeds = seeds
        self._hand = _RULES.BlackjackEnv()
        self.played = 0
        self.won = self.over = False
        self._hand.reset(seed=seeds[0])

    def step(self, name: str) -> str:
        """Hit or stick, and deal the next hand when this one is won.

        Raises:
            ToolError: The session is over.
        """
        if self.over:
            raise ToolError("the session is over.")
        _, reward, ended, _, _ = self._hand.step(("stick", "hit").index(name))
        if not ended:
            return self.table()
        result = f"You have {_RULES.sum_hand(self._hand.player)}, the dealer has {_RULES.sum_hand(self._hand.dealer)}."
        if reward <= 0:
            self.over = True
            return f"{result} You do not win this hand. The session is over."
        self.played += 1
        self.won = self.over = self.played == len(self._seeds)
        if self.over:
            return f"{result} You win the last hand."
        self._hand.reset(seed=self._seeds[self.played])
        return f"{result} You win this hand.\n{self.table()}"

    def table(self) -> str:
        """Say what lies on the table."""
        cards = ", ".join(str(int(card)) for card in self._hand.player)
        return (
            f"Hand {self.played + 1} of {len(self._seeds)}. Your cards: {cards}. "
            f"The dealer shows {int(self._hand.dealer[0])}."
        )


@register(
    "palestra/Blackjack-v0",
    variants={"train": {}, "test": {}, "longer": {"hands": 7}},
    flags=("luck",),
)
class Blackjack(TextGym):
    """Win several hands of Blackjack in a row; Gymnasium's Blackjack, dealt so that every hand can be won.

    A hand is luck, whoever plays: about 6 in 10 of Gymnasium's can be won by some number of hits, and only those are
    dealt. One such hand is won by 45% of random play, hence a session of five, won by 2% of random play. Good play
    wins 16%: compare agents with it, not with 1.
    """

    tools = (Act("play", "Takes a card (hit) or none any more (stick).", "action", ("stick", "hit")),)
    max_turns = 30
    instructions = (
        "Win every hand of Blackjack: come nearer to 21 than the dealer without exceeding it. Cards count 1 (an ace, "
        "or 11 where that does not exceed 21) to 10; the dealer draws up to 17. Hit to take a card, stick to take no "
        "more. Every move is a tool call."
    )

    hands: int = 5
    """Hands that must be won."""

    def sample(self, rng: random.Random) -> Task:
        """Draw hands that can be won."""
        seeds: list[int] = []
        plan: list[str] = []
        cards = []
        while len(seeds) < self.hands:
            seed = rng.randrange(2**32)
            deal = _deal(seed)
            hits = next((n for n in range(_MOST_HITS + 1) if _wins(*deal, n)), None)
            if hits is not None:
                seeds.append(seed)
                cards.append(deal)
                plan += ["hit"] * hits + ["stick"]
        return Task(Hands(seeds).table(), ", ".join(plan), str(cards), {"seeds": seeds})

    def make_world(self, task: Task) -> Hands:
        """Deal the first hand."""
        return Hands(task.data["seeds"])

    def plan(self, task: Task) -> Sequence[str]:
        """Return what `sample` found."""
        return task.answer.split(", ")


_MOST_HITS = 4
Cards = list[int]


def _deal(seed: int) -> tuple[Cards, Cards, Cards]:
    """The player's cards, the dealer's, and those that lie next on the pile."""
    env = copy(_dealer())
    env.reset(seed=seed)
    pile = env.np_random.choice(_RULES.deck, _MOST_HITS + 10)  # as `draw_card` would draw one after the other
    return [int(c) for c in env.player], [int(c) for c in env.dealer], pile.tolist()


@cache
def _dealer() -> Any:
    return _RULES.BlackjackEnv()


def _wins(player: Cards, dealer: Cards, pile: Cards, hits: int) -> bool:
    """Whether the player wins with so many hits; see `BlackjackEnv.step`."""
    mine = player + pile[:hits]
    theirs, rest = list(dealer), pile[hits:]
    while _RULES.sum_hand(theirs) < 17:
        theirs.append(rest.pop(0))
    return bool(_RULES.score(mine) > _RULES.score(theirs))
