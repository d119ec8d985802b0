"""The grid of Boxnet: cells with one arm each, boxes that arms pass on, and the text that commands them.

A step is all or nothing: if one of its moves is invalid, nothing moves. Boxes on their targets stay there.
"""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from palestra.envs.tasks.worlds import World
from palestra.envs.tools.base import ToolError

COLOURS = ("black", "blue", "brown", "gray", "green", "orange", "pink", "purple", "red", "white", "yellow")
MAX_PLAN = 4_000
"""Longest plan that is read, in characters."""
_MOVE = re.compile(r"([a-z][0-9]{1,2}) ?:? ?([a-z]{1,10}) ?(?:->|→|to) ?([a-z][0-9]{1,2}|target)")
_LABEL = re.compile(r"^(?:step [0-9]{1,3} ?[:.)] ?|[0-9]{1,3} ?[.)] ?)")
_MARKUP = str.maketrans("", "", "{}[]\"'`*")

Cell = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Wording:
    """How the state is told."""

    box: str
    delivered: str
    state: str


PLAIN = Wording(box="{box} {cell}", delivered="{box} delivered", state="Step {step} of {limit}. Boxes: {boxes}.")


class Boxes(World):
    """Where the boxes are.

    Args:
        size: Columns and rows.
        starts: Colour of a box -> its cell.
        targets: Colour -> the cell of its target.
        limit: Steps allowed.
        wording: How the state is told.
    """

    def __init__(
        self,
        size: tuple[int, int],
        starts: Mapping[str, Cell],
        targets: Mapping[str, Cell],
        limit: int,
        wording: Wording = PLAIN,
    ) -> None:
        super().__init__()
        self.size = size
        self.targets = targets
        self.limit = limit
        self.steps = 0
        self.waiting = dict(starts)
        """Colour -> cell of the boxes not yet delivered."""
        self._wording = wording

    @property
    def solved(self) -> bool:
        """Whether every box is on its target."""
        return not self.waiting

    @property
    def over(self) -> bool:
        """Whether nothing is left to do, or no step to do it."""
        return self.solved or self.steps >= self.limit

    def state(self) -> str:
        """Return the steps taken and the place of every box."""
        return f"{self.steps}: {self.told(PLAIN)}"

    def potential(self) -> float:
        """Return the share of the boxes that are delivered."""
        return 1 - len(self.waiting) / len(self.targets)

    def told(self, wording: Wording) -> str:
        """Tell where the boxes are."""
        return ", ".join(
            wording.box.format(box=box, cell=cell_name(self.waiting[box]))
            if box in self.waiting
            else wording.delivered.format(box=box)
            for box in self.targets
        )

    def view(self) -> str:
        """Return what the planner sees after a step."""
        return self._wording.state.format(step=self.steps, limit=self.limit, boxes=self.told(self._wording))

    def carry_out(self, step: str) -> None:
        """Carry out one step.

        Raises:
            ToolError: One of its moves is invalid; nothing has moved and no step is counted.
        """
        moved: dict[str, Cell | None] = {}
        arms: list[Cell] = []
        for text in moves_of(step):
            arm, box, to = self._read(text)
            if arm in arms:
                raise ToolError(f"'{text}': the arm of {cell_name(arm)} has a move already. Nothing moved.")
            arms.append(arm)
            moved[box] = to
        if not moved:
            raise ToolError("there is no move in this step; write for example 'b2: red -> b3'.")
        for box, cell in moved.items():
            if cell is None:
                del self.waiting[box]
            else:
                self.waiting[box] = cell
        self.steps += 1

    def follow(self, plan: str) -> None:
        """Carry out the steps of a plan, up to the first invalid one or the end of the episode."""
        for step in steps_of(plan):
            if self.over:
                return
            try:
                self.carry_out(step)
            except ToolError:
                return

    def random_step(self, rng: random.Random) -> list[str]:
        """Draw, for every cell that holds boxes, one of them and one of the moves that are legal for it."""
        step = []
        for cell, boxes in self._by_cell().items():
            box = rng.choice(boxes)
            ends = [cell_name(there) for there in self._neighbours(cell)]
            if self.targets[box] == cell:
                ends.append("target")
            step.append(f"{cell_name(cell)}: {box} -> {rng.choice(ends)}")
        return step

    def plan(self) -> list[list[str]]:
        """Return the steps of a plan that delivers every box: each arm serves the box with the longest way first.

        Every arm that holds a box moves one nearer to its target, so the plan ends. Of two ways that are
        equally short a box takes the one on which fewer boxes stand. Of 60 training tasks with three boxes, 58 plans
        have the fewest steps possible, and two have one more.
        """
        boxes = Boxes(self.size, self.waiting, self.targets, self.limit)
        steps = []
        while boxes.waiting:
            moves: dict[str, Cell | None] = {}
            here = boxes._by_cell()
            for cell, those in here.items():
                box = max(those, key=lambda name: distance(cell, self.targets[name]))
                moves[box] = self._nearer(cell, self.targets[box], here)
            steps.append([f"{cell_name(boxes.waiting[box])}: {box} -> {cell_name(to)}" for box, to in moves.items()])
            for box, to in moves.items():
                if to is None:
                    del boxes.waiting[box]
                else:
                    boxes.waiting[box] = to
        return steps

    def _nearer(self, cell: Cell, target: Cell, here: Mapping[Cell, Sequence[str]]) -> Cell | None:
        """Return the neighbour to pass a box to; None for the target in this cell."""
        if cell == target:
            return None
        nearer = [there for there in self._neighbours(cell) if distance(there, target) < distance(cell, target)]
        return min(nearer, key=lambda there: len(here.get(there, ())))

    def _by_cell(self) -> dict[Cell, list[str]]:
        cells: dict[Cell, list[str]] = {}
        for box, cell in self.waiting.items():
            cells.setdefault(cell, []).append(box)
        return cells

    def _neighbours(self, cell: Cell) -> list[Cell]:
        x, y = cell
        around = ((x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1))
        return [(i, j) for i, j in around if 0 <= i < self.size[0] and 0 <= j < self.size[1]]

    def _read(self, text: str) -> tuple[Cell, str, Cell | None]:
        """Read one move and check it.

        Returns:
            The arm, the box, and where it goes (None: onto its target).

        Raises:
            ToolError: The move is not understood or not possible.
        """
        match = _MOVE.fullmatch(text)
        if match is None:
            raise ToolError(f"'{text[:40]}' is no move; write for example 'b2: red -> b3'. Nothing moved.")
        arm, box, to = cell_of(match[1]), match[2], match[3]
        where = self.waiting.get(box)
        if where is None:
            reason = f"the {box} box is delivered" if box in self.targets else f"there is no {box} box"
        elif where != arm:
            reason = f"the {box} box is in {cell_name(where)}"
        elif to == "target":
            if self.targets[box] == arm:
                return arm, box, None
            reason = f"the target of {box} is in {cell_name(self.targets[box])}"
        elif cell_of(to) in self._neighbours(arm):
            return arm, box, cell_of(to)
        else:
            reason = f"{to} is no neighbour of {match[1]} on this grid"
        raise ToolError(f"'{text}': {reason}. Nothing moved.")


def distance(one: Cell, other: Cell) -> int:
    """Return how many passes lie between two cells."""
    return abs(one[0] - other[0]) + abs(one[1] - other[1])


def cell_name(cell: Cell | None) -> str:
    """Return `b3` for the cell in column 1 and row 2, and `target` for None."""
    return "target" if cell is None else f"{chr(ord('a') + cell[0])}{cell[1] + 1}"


def cell_of(name: str) -> Cell:
    """Return the cell of a name such as `b3`; it may lie outside of every grid."""
    return ord(name[0]) - ord("a"), int(name[1:]) - 1


def steps_of(plan: str) -> list[str]:
    """Split a plan into its steps: one per line; blank lines and labels such as `Step 2:` do not count."""
    lines = (_LABEL.sub("", _bare(line)) for line in plan[:MAX_PLAN].splitlines())
    return [line for line in lines if line]


def moves_of(step: str) -> list[str]:
    """Split a step into its moves; JSON's brackets, quotes and commas do as well as semicolons."""
    moves = (_bare(move) for move in re.split(r"[;,\n]", step[:MAX_PLAN]))
    return [move for move in moves if move]


def _bare(text: str) -> str:
    return " ".join(text.lower().translate(_MARKUP).split())
