"""ToolChain: a long chain of tool calls whose states recur; the miniature for turn-level credit.

Rooms behind locked doors. The note in a room says which drawer holds a word and what to make of it; the result
opens the door; behind the last door stands the code to answer. In the survey of agentic reinforcement learning
(arXiv 2509.02547) this is the case of delayed reward over many turns; methods that compare turns taken from the
same state (GiGPO, arXiv 2505.10978) find such turns here, since what the agent sees is a function of the state
alone: the room it is in and the word it holds. Text, action set and horizon are small enough for a model of a
million parameters.

Every task needs exactly `horizon` tool calls: no shorter way to any of its doors exists. The outcome is paid for
the code alone, and the code cannot be known before the last door is open: it is a letter longer than the words.

A player who draws uniformly from the ten legal actions (four drawers, three transformations, the table, the
door, answering the word in view) solves 0.0011% of the training tasks and 0.075% of `short` ones, computed exactly
on 200 tasks each (tests/envs/test_tool_chain.py).
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from palestra.envs.core import Demonstration, ProcessTerm, Reward, Task, TextEnv, Turn
from palestra.envs.registry import register
from palestra.envs.tasks.worlds import World, WorldTool
from palestra.envs.toolcalls import format_tool_call
from palestra.envs.tools.base import Tool, ToolError

LETTERS = "abcdefgh"
DRAWERS = "wxyz"
TABLE = "table"
"""The operation of a note that stands for a look-up instead of a transformation."""
MAX_OPERATIONS = 2
"""Operations in one note at most."""
_WORDS = ["".join(letters) for letters in product(LETTERS, repeat=3)]
_UP = str.maketrans(LETTERS, LETTERS[1:] + LETTERS[:1])
_DOWN = str.maketrans(LETTERS[1:] + LETTERS[:1], LETTERS)
_FLIP = str.maketrans(LETTERS, LETTERS[::-1])

TRANSFORMATIONS: Mapping[str, tuple[str, Callable[[str], str]]] = {
    "rev": ("reverses it", lambda word: word[::-1]),
    "up": ("replaces each letter by the next one", lambda word: word.translate(_UP)),
    "roll": ("moves its first letter to the end", lambda word: word[1:] + word[:1]),
    "down": ("replaces each letter by the one before", lambda word: word.translate(_DOWN)),
    "swap": ("exchanges its first two letters", lambda word: word[1::-1] + word[2:]),
    "flip": ("replaces a by h, b by g, and so on", lambda word: word.translate(_FLIP)),
}
TRAINED, OTHERS = ("rev", "up", "roll"), ("down", "swap", "flip")

PLAIN = ("room {room} | note {note} | hand {hand}", "end | code {code}")
WORDY = ("In room no. {room} you read: {note}. You carry {hand}.", "All doors are open. On the wall: {code}.")


@dataclass(frozen=True, slots=True)
class Room:
    """A room: what lies in its drawers and what its note says."""

    words: Mapping[str, str]
    """Drawer -> word."""
    drawer: str
    operations: tuple[str, ...]
    code: str
    """The word that opens its door."""

    @property
    def calls(self) -> int:
        """Tool calls needed: the drawer, the operations, the door."""
        return len(self.operations) + 2


class Chain(World):
    """The rooms, where the agent is, and the word it holds."""

    def __init__(
        self,
        rooms: Sequence[Room],
        table: Mapping[str, str],
        code: str,
        *,
        transformations: Sequence[str] = TRAINED,
        texts: tuple[str, str] = PLAIN,
        hints: bool = True,
    ) -> None:
        super().__init__()
        self.rooms = rooms
        self.table = table
        self.code = code
        self.transformations = transformations
        self.texts = texts
        self.hints = hints
        self.room = 0
        self.hand = ""
        self._horizon = sum(room.calls for room in rooms)
        self._before = [sum(room.calls for room in rooms[:i]) for i in range(len(rooms) + 1)]

    def state(self) -> str:
        """Return the room and the word in hand: nothing else matters."""
        return "end" if self.room == len(self.rooms) else f"{self.room + 1} {self.hand}".rstrip()

    def view(self) -> str:
        """Return what the agent sees: the state, in words."""
        if self.room == len(self.rooms):
            return self.texts[1].format(code=self.code)
        room = self.rooms[self.room]
        operations = room.operations if self.hints else "?" * len(room.operations)
        note = " ".join((room.drawer, *operations))
        return self.texts[0].format(room=self.room + 1, note=note, hand=self.hand or "-")

    def potential(self) -> float:
        """Return the share of the needed calls that need not be made any more, by the shortest way from here."""
        if self.room == len(self.rooms):
            return 1.0
        room = self.rooms[self.room]
        left = room.calls
        words = [self.hand] if self.hand else []
        for operations in range(len(room.operations) + 1):
            if room.code in words:
                left = operations + 1
                break
            words = [made for word in words for made in results(word, self.transformations, self.table)]
        return (self._before[self.room] + room.calls - left) / self._horizon

    def look(self, drawer: str) -> None:
        """Take the word of a drawer."""
        if self.room < len(self.rooms):
            self.hand = self.rooms[self.room].words[drawer]

    def apply(self, operation: str) -> None:
        """Replace the word in hand by what an operation makes of it, if it makes anything."""
        if self.hand:
            self.hand = perform(operation, self.hand, self.table)

    def open(self) -> None:
        """Go through the door, if the word in hand is its code."""
        if self.room < len(self.rooms) and self.hand == self.rooms[self.room].code:
            self.room += 1
            self.hand = ""


def perform(operation: str, word: str, table: Mapping[str, str]) -> str:
    """Return what a transformation or the table makes of a word; a word that is not in the table stays."""
    return table.get(word, word) if operation == TABLE else TRANSFORMATIONS[operation][1](word)


def results(word: str, transformations: Sequence[str], table: Mapping[str, str]) -> list[str]:
    """Return what each operation makes of a word."""
    return [perform(operation, word, table) for operation in (*transformations, TABLE)]


class Look(WorldTool):
    """Takes the word of a drawer."""

    name = "look"
    description = "Takes the word that lies in a drawer of the room."
    parameters = {"at": {"type": "string", "description": "drawer"}}

    def act(self, world: Chain, **arguments: Any) -> str:
        """Return the view.

        Raises:
            ToolError: No such drawer.
        """
        if arguments["at"] not in tuple(DRAWERS):
            raise ToolError(f"there is no drawer '{arguments['at'][:20]}'; drawers: {', '.join(DRAWERS)}.")
        world.look(arguments["at"])
        return world.view()


class Apply(WorldTool):
    """Transforms the word in hand."""

    name = "apply"
    description = "Transforms the word in your hand."
    parameters = {"how": {"type": "string", "description": "transformation"}}

    def act(self, world: Chain, **arguments: Any) -> str:
        """Return the view.

        Raises:
            ToolError: No such transformation in this variant.
        """
        if arguments["how"] not in world.transformations:
            known = ", ".join(world.transformations)
            raise ToolError(f"there is no transformation '{arguments['how'][:20]}'; transformations: {known}.")
        world.apply(arguments["how"])
        return world.view()


class Find(WorldTool):
    """Looks the word in hand up."""

    name = "find"
    description = "Looks the word in your hand up in the table and takes what stands there."
    parameters: Mapping[str, Mapping[str, str]] = {}

    def act(self, world: Chain, **arguments: Any) -> str:
        """Return the view."""
        world.apply(TABLE)
        return world.view()


class Open(WorldTool):
    """Tries the word in hand on the door."""

    name = "open"
    description = "Tries the word in your hand on the door, and goes through if it opens."
    parameters: Mapping[str, Mapping[str, str]] = {}

    def act(self, world: Chain, **arguments: Any) -> str:
        """Return the view."""
        world.open()
        return world.view()


@register(
    "palestra/ToolChain-v0",
    variants={
        "train": {},
        "test": {},
        "short": {"horizon": 3, "max_turns": 6},
        "longer": {"horizon": 10, "max_turns": 20},
        "other-transforms": {"transformations": OTHERS},
        "hint-free": {"hints": False, "max_turns": 40},
        "wording": {"texts": WORDY},
        "tools-renamed": {"tools": (Look("peek"), Apply("turn"), Find("seek"), Open("unlock"))},
        "train-short": {"horizon": 3, "max_turns": 6},
    },
)
class ToolChain(TextEnv):
    """Rooms whose doors open to words from drawers, transformed and looked up; the code behind the last is asked."""

    tools: tuple[Tool, ...] = (Look(), Apply(), Find(), Open())
    max_turns = 12
    process_terms = {
        "progress": ProcessTerm(
            -1.0, 1.0, "going through the doors without answering; sums to at most 1, walking in circles pays nothing"
        ),
    }

    horizon: int = 6
    """Tool calls that a task needs."""
    transformations: tuple[str, ...] = TRAINED
    """What can be done to a word."""
    hints: bool = True
    """Whether notes name the operations; otherwise they only say how many there are."""
    texts: tuple[str, str] = PLAIN
    """What the agent sees: in a room, and behind the last door."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        named = "; ".join(f"{name} {TRANSFORMATIONS[name][0]}" for name in self.transformations)
        open_, find = self.tools[3].name, self.tools[2].name
        self.instructions = (
            "You are in a row of rooms with locked doors. The note in a room names a drawer "
            f"({', '.join(DRAWERS)}) and what to do with its word, in order; the word that results opens the door "
            f"with {open_}. Transformations: {named}. '{TABLE}' means {find}; '?' means that you must find out. "
            "Behind the last door you see a code: answer it."
        )

    def sample(self, rng: random.Random) -> Task:
        """Draw rooms until none of their doors can be opened with fewer calls than their notes take."""
        lengths = rng.choice(_LENGTHS[self.horizon])
        code, table, rooms = _word(rng) + rng.choice(LETTERS), dict[str, str](), list[Room]()
        while len(rooms) < len(lengths):
            room = self._room(rng, lengths[len(rooms)] - 2, table)
            if room is not None:
                rooms.append(room)
        if any(self._has_short_cut(room, table) for room in rooms):
            return self.sample(rng)  # a later room's table entry opened a way
        data = {"rooms": tuple(rooms), "table": table, "code": code}
        texts = [f"{' '.join(r.words.values())} {r.drawer} {' '.join(r.operations)}" for r in rooms]
        entries = " ".join(f"{word}:{found}" for word, found in sorted(table.items()))
        return Task(
            prompt=self._world(data).view(), answer=code, key=f"{' / '.join(texts)} | {entries} | {code}", data=data
        )

    def begin(self, task: Task) -> Chain:
        """Return the rooms, with the agent in the first one and nothing in its hand."""
        return self._world(task.data)

    def grade(self, task: Task, answer: str) -> Reward:
        """The code, quotes and blanks around it ignored."""
        return Reward(float(answer.strip().strip("'\"") == task.answer))

    def process(self, task: Task, turns: Sequence[Turn]) -> dict[str, float]:
        """Pay the change of the potential."""
        gained = self.world.gained()
        return {"progress": gained} if gained else {}

    def solve(self, task: Task) -> Demonstration:
        """Do what the notes say (or would say, where they are silent)."""
        look, apply, find, open_ = (tool.name for tool in self.tools)
        turns = []
        for room in task.data["rooms"]:
            turns.append(format_tool_call(look, {"at": room.drawer}))
            for operation in room.operations:
                turns.append(
                    format_tool_call(find, {}) if operation == TABLE else format_tool_call(apply, {"how": operation})
                )
            turns.append(format_tool_call(open_, {}))
        return Demonstration((*turns, f"<answer>{task.answer}</answer>"))

    def random_action(self, rng: random.Random) -> str:
        """Draw one of the legal actions uniformly."""
        return rng.choice(self.legal_actions())

    def legal_actions(self) -> tuple[str, ...]:
        """Return every action that makes sense here as far as a glance tells; the only answer is the word in view."""
        look, apply, find, open_ = (tool.name for tool in self.tools)
        in_view = self.world.code if self.world.room == len(self.world.rooms) else self.world.hand
        return (
            *(format_tool_call(look, {"at": drawer}) for drawer in DRAWERS),
            *(format_tool_call(apply, {"how": how}) for how in self.transformations),
            format_tool_call(find, {}),
            format_tool_call(open_, {}),
            *((f"<answer>{in_view}</answer>",) if in_view else ()),
        )

    def _world(self, data: Mapping[str, Any]) -> Chain:
        return Chain(**data, transformations=self.transformations, texts=self.texts, hints=self.hints)

    def _room(self, rng: random.Random, operations: int, table: dict[str, str]) -> Room | None:
        """Draw a room, entering its words and what is to be looked up into the table; None if it has a short cut."""
        words = {drawer: _word(rng) for drawer in DRAWERS}
        for word in words.values():
            table.setdefault(word, _word(rng))
        drawer = rng.choice(DRAWERS)
        todo = tuple(rng.choice((*self.transformations, TABLE)) for _ in range(operations))
        code = words[drawer]
        for operation in todo:
            if operation == TABLE:
                table.setdefault(code, _word(rng))
            code = perform(operation, code, table)
        room = Room(words, drawer, todo, code)
        return None if self._has_short_cut(room, table) else room

    def _has_short_cut(self, room: Room, table: Mapping[str, str]) -> bool:
        """Whether some drawer's word becomes the room's code by fewer operations than the note names."""
        words = list(room.words.values())
        for done in range(len(room.operations)):
            if done:
                words = [made for word in words for made in results(word, self.transformations, table)]
            if room.code in words:
                return True
        return False


def _word(rng: random.Random) -> str:
    return rng.choice(_WORDS)


def _lengths(calls: int) -> list[tuple[int, ...]]:
    """Return the ways to spread calls over the fewest rooms of two to four calls each."""
    shortest, longest = 2, MAX_OPERATIONS + 2
    spread: list[tuple[int, ...]] = [()]
    for left in range(-(-calls // longest) - 1, -1, -1):
        spread = [
            (*done, n)
            for done in spread
            for n in range(shortest, longest + 1)
            if left * shortest <= calls - sum(done) - n <= left * longest
        ]
    return spread


_LENGTHS = {horizon: _lengths(horizon) for horizon in range(3, 13)}
