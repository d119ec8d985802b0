"""Navigation: walk a route that is told in words through a town that is seen in words, and stop at its end.

The task is the language-only V-IRL of "SFT Memorizes, RL Generalizes" (arXiv 2501.17161), repaired. The original
paid for every action that equals the expert's and did not execute the others, which is imitation under another
name: here every move is executed, one can get lost and find back, and the outcome is 1 exactly if the walker
stops at the destination. Its thousand routes are replaced by generated towns; its rule variant stays: training
tells all directions by the compass, `relative` tells them as left and right of the heading, in the route, in the
observations and in what `turn` takes.

A player who draws legal moves uniformly (forward, turning towards a street, stopping) solved 34 of 4,000 episodes of
training tasks, and 13 of 4,000 in `relative`.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from palestra.envs.core import Demonstration, ProcessTerm, Reward, Task, TextEnv, Turn
from palestra.envs.registry import register
from palestra.envs.tasks.city import COMPASS, LANDMARKS, SIDES, TURNS, Crossing, Town, Walk, Wording, draw_town
from palestra.envs.tasks.worlds import WorldTool
from palestra.envs.toolcalls import format_tool_call
from palestra.envs.tools.base import Tool, ToolError


@dataclass(frozen=True, slots=True)
class RouteWording:
    """How a route is told."""

    start: str
    turn: str
    landmark: str
    street: str
    block: str
    blocks: str
    stop: str


CUES = ("landmark", "street", "blocks")
PLAIN = (
    RouteWording(
        start="Route: ",
        turn="turn {direction}",
        landmark="go forward to the {landmark}",
        street="go forward to {street}",
        block="go forward 1 block",
        blocks="go forward {blocks} blocks",
        stop="stop",
    ),
    Wording(
        place="You are at {streets}.",
        landmark="You see the {landmark}.",
        heading="You face {direction}.",
        exits="Streets lead {exits}.",
    ),
)
OTHER = (
    RouteWording(
        start="Please follow these directions: ",
        turn="face {direction}",
        landmark="keep walking until you come to the {landmark}",
        street="carry on as far as {street}",
        block="walk to the next crossing",
        blocks="walk on for {blocks} crossings",
        stop="you have arrived",
    ),
    Wording(
        place="This is the corner of {streets}.",
        landmark="Here is the {landmark}.",
        heading="Your nose points {direction}.",
        exits="One can walk {exits} from here.",
    ),
)


@dataclass(frozen=True, slots=True)
class Leg:
    """A straight part of a route."""

    direction: int
    blocks: int
    cue: str
    """How its end is told: one of `CUES`."""


class Forward(WorldTool):
    """Walks to the next crossing."""

    name = "forward"
    description = "Walks one block ahead, to the next crossing."
    parameters: Mapping[str, Mapping[str, str]] = {}

    def act(self, world: Walk, **arguments: Any) -> str:
        """Return what is seen there.

        Raises:
            ToolError: No street leads ahead, or the walk is over.
        """
        _refuse_after_stop(world)
        world.forward()
        return world.view()


class Turning(WorldTool):
    """Turns on the spot."""

    name = "turn"
    description = "Turns on the spot."
    parameters = {"direction": {"type": "string", "description": "direction"}}

    def act(self, world: Walk, **arguments: Any) -> str:
        """Return what is seen then.

        Raises:
            ToolError: No direction of this variant, or the walk is over.
        """
        _refuse_after_stop(world)
        named = {_plain(name): number for name, number in _directions(world.relative).items()}
        number = named.get(_plain(arguments["direction"]))
        if number is None:
            known = ", ".join(_directions(world.relative))
            raise ToolError(f"there is no direction '{arguments['direction'][:20]}'; directions: {known}.")
        world.heading = (world.heading + number) % 8 if world.relative else number
        return world.view()


class Stop(WorldTool):
    """Ends the walk."""

    name = "stop"
    description = "Ends the walk: you are at the destination."
    parameters: Mapping[str, Mapping[str, str]] = {}

    def act(self, world: Walk, **arguments: Any) -> str:
        """Say so, and not whether it was right.

        Raises:
            ToolError: The walk is over already.
        """
        _refuse_after_stop(world)
        world.stopped = True
        return "You stop."


@register(
    "palestra/Navigation-v0",
    variants={
        "train": {},
        "test": {},
        "relative": {"relative": True},
        "bigger-maps": {"size": 12, "blocks": (2, 5), "max_turns": 30},
        "longer-routes": {"legs": (5, 6), "max_turns": 40},
        "wording": {"wording": OTHER},
        "tools-renamed": {"tools": (Forward("walk"), Turning("face"), Stop("arrive"))},
        "no-landmarks": {"landmarks": 0},
    },
)
class Navigation(TextEnv):
    """Follow a route told in words through a town, crossing by crossing, and stop at the destination."""

    tools: tuple[Tool, ...] = (Forward(), Turning(), Stop())
    max_turns = 20
    asks_for_answer = False
    process_terms = {
        "progress": ProcessTerm(
            -1.0,
            1.0,
            "walking the route without stopping at its end; at most 1 in all; going to and fro pays nothing",
        ),
    }

    size: int = 7
    """Crossings per side of the town."""
    legs: tuple[int, int] = (2, 3)
    """Fewest and most straight parts of the route."""
    blocks: tuple[int, int] = (1, 3)
    """Fewest and most blocks of a leg."""
    landmarks: int = 12
    """Landmarks in the town."""
    relative: bool = False
    """Whether directions are told relative to the heading."""
    wording: tuple[RouteWording, Wording] = PLAIN
    """How routes and crossings are told."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        forward, turn, stop = (tool.name for tool in self.tools)
        self.instructions = (
            "You walk through a town. Follow the route you are told, one call at a time, and end the walk at its "
            f"end. {forward} takes you to the next crossing, {turn} takes one of the directions "
            f"{', '.join(_directions(self.relative))}, and {stop} ends the walk. "
            "Every move is carried out, also a wrong one."
        )

    def sample(self, rng: random.Random) -> Task:
        """Draw a town by its number, and a route in it that does not cross itself."""
        number = rng.getrandbits(48)
        surroundings = random.Random(number)
        town = draw_town(surroundings, self.size)
        legs, route = self._route(rng, town)
        town = replace(town, landmarks=self._landmarks(surroundings, town, legs, route))
        heading = rng.randrange(8)
        walk = Walk(town, route, heading, relative=self.relative, wording=self.wording[1])
        short = ", ".join([f"{leg.blocks} {COMPASS[leg.direction]} ({leg.cue})" for leg in legs])
        return Task(
            prompt=f"{walk.view()}\n{self._tell(town, legs, route, heading)}",
            answer=" and ".join(town.names(route[-1])),
            # The number stands for all names, landmarks and closed blocks.
            key=f"{self.size}x{self.size} town {number} with {self.landmarks} landmarks, "
            f"{COMPASS[heading]} at {route[0]}: {short}",
            data={"town": town, "legs": legs, "route": route, "heading": heading},
        )

    def begin(self, task: Task) -> Walk:
        """Return a walk that has not left the start."""
        data = task.data
        return Walk(data["town"], data["route"], data["heading"], relative=self.relative, wording=self.wording[1])

    def judge(self, task: Task, turn: Turn) -> Reward | None:
        """End the episode when the walk is ended, by a tool or by an answer."""
        return self.grade(task, turn.answer or "") if self.world.stopped or turn.answer is not None else None

    def grade(self, task: Task, answer: str) -> Reward:
        """Judge where the walk ended; what an answer says does not count."""
        return Reward(float(self.world is not None and self.world.arrived))

    def process(self, task: Task, turns: Sequence[Turn]) -> dict[str, float]:
        """Pay the change of the potential."""
        gained = self.world.gained()
        return {"progress": gained} if gained else {}

    def solve(self, task: Task) -> Demonstration:
        """Turn and walk as the route says, and stop."""
        forward, turn, stop = (tool.name for tool in self.tools)
        turns, heading = [], task.data["heading"]
        for leg in task.data["legs"]:
            directions = _turns(heading, leg.direction) if self.relative else [COMPASS[leg.direction]]
            if heading != leg.direction:
                turns += [format_tool_call(turn, {"direction": direction}) for direction in directions]
            turns += [format_tool_call(forward, {})] * leg.blocks
            heading = leg.direction
        return Demonstration((*turns, format_tool_call(stop, {})))

    def random_action(self, rng: random.Random) -> str:
        """Draw uniformly from walking ahead (if a street leads there), the turns, and stopping."""
        forward, turn, stop = (tool.name for tool in self.tools)
        exits = self.world.town.exits(self.world.at)
        actions = [format_tool_call(stop, {})]
        if self.world.heading in exits:
            actions.append(format_tool_call(forward, {}))
        directions = TURNS if self.relative else [COMPASS[number] for number in exits if number != self.world.heading]
        actions += [format_tool_call(turn, {"direction": direction}) for direction in directions]
        return rng.choice(actions)

    def _route(self, rng: random.Random, town: Town) -> tuple[tuple[Leg, ...], tuple[Crossing, ...]]:
        """Draw legs that turn by 45 or 90 degrees at each joint and never meet a crossing twice."""
        while True:
            route = [(rng.randrange(town.size), rng.randrange(town.size))]
            legs: list[Leg] = []
            for _ in range(rng.randint(*self.legs)):
                leg = self._leg(rng, town, route, legs[-1].direction if legs else None)
                if leg is None:
                    break
                legs.append(leg)
            else:
                return tuple(legs), tuple(route)

    def _leg(self, rng: random.Random, town: Town, route: list[Crossing], before: int | None) -> Leg | None:
        """Draw a leg and walk it, extending the route; None if every way leads off the streets or meets the route."""
        ways = range(8) if before is None else [(before + turn) % 8 for turn in TURNS.values()]
        for direction in rng.sample(ways, len(ways)):
            walked: list[Crossing] = [route[-1]]
            for _ in range(rng.randint(*self.blocks)):
                there = town.next(walked[-1], direction)
                if there is None or there in route:
                    break
                walked.append(there)
            else:
                route += walked[1:]
                return Leg(direction, len(walked) - 1, rng.choice(CUES if self.landmarks else CUES[1:]))
        return None

    def _landmarks(
        self, rng: random.Random, town: Town, legs: Sequence[Leg], route: Sequence[Crossing]
    ) -> dict[Crossing, str]:
        """Draw landmarks, some where the route needs them."""
        places = [end for leg, end in zip(legs, _ends(legs, route), strict=True) if leg.cue == "landmark"]
        if self.landmarks:
            others = [divmod(place, town.size) for place in rng.sample(range(town.size**2), self.landmarks)]
            places += [place for place in others if place not in places][: self.landmarks - len(places)]
        return dict(zip(places, rng.sample(LANDMARKS, len(places)), strict=True))

    def _tell(self, town: Town, legs: Sequence[Leg], route: Sequence[Crossing], heading: int) -> str:
        """Tell the route in words."""
        words = self.wording[0]
        parts = []
        for leg, end in zip(legs, _ends(legs, route), strict=True):
            if leg.direction != heading:
                parts += [
                    words.turn.format(direction=direction)
                    for direction in (_turns(heading, leg.direction) if self.relative else [COMPASS[leg.direction]])
                ]
            heading = leg.direction
            parts.append(_cue(town, leg, end, words))
        return f"{words.start}{'; '.join([*parts, words.stop])}."


def _cue(town: Town, leg: Leg, end: Crossing, words: RouteWording) -> str:
    if leg.cue == "landmark":
        return words.landmark.format(landmark=town.landmarks[end])
    if leg.cue == "street":
        # Along a street it is avenues that one meets; everywhere else each crossing is on another street.
        return words.street.format(street=town.columns[end[0]] if leg.direction % 4 == 2 else town.rows[end[1]])
    return (words.block if leg.blocks == 1 else words.blocks).format(blocks=leg.blocks)


def _turns(heading: int, direction: int) -> list[str]:
    """Return the relative turns that lead from one direction to another, the fewest."""
    offset = (direction - heading) % 8
    if SIDES[offset] in TURNS:
        return [SIDES[offset]]
    if offset == 4:
        return ["right", "right"]
    return ["right", "slightly right"] if offset == 3 else ["left", "slightly left"]


def _ends(legs: Sequence[Leg], route: Sequence[Crossing]) -> list[Crossing]:
    """Return the crossing at the end of each leg."""
    ends, walked = [], 0
    for leg in legs:
        walked += leg.blocks
        ends.append(route[walked])
    return ends


def _directions(relative: bool) -> Mapping[str, int]:
    return TURNS if relative else _BY_COMPASS


_BY_COMPASS = {name: number for number, name in enumerate(COMPASS)}


def _plain(direction: str) -> str:
    return direction.lower().replace("-", "").replace("_", "").replace(" ", "")


def _refuse_after_stop(world: Walk) -> None:
    if world.stopped:
        raise ToolError("you have ended the walk.")
