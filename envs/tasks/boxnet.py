"""Boxnet: one planner moves the arms of all cells at once, and every box must reach its target in time.

The task is `boxnet` of reasoning-gym (arXiv 2505.24760), repaired. There, anything that parses as JSON scores
0.05, a task may start with boxes on their targets, invalid moves are ignored, a move over the edge crashes the
scorer, and any number of steps will do. Here no box starts in its target's cell, moves are checked against the
grid, a step with an invalid move is refused as a whole and told why, and the outcome is 1 exactly if all boxes
are delivered within the steps allowed: those of a good plan and `SLACK` more, which is always fewer than it takes
to move one box at a time. That is what coordination means here; boxes that meet in a cell share its one arm.

Doing nothing earns nothing. A player who draws a random legal move for every arm solved 2 of 4,000 episodes of
training tasks.
"""

import random
from collections.abc import Sequence
from typing import Any

from palestra.envs.core import Demonstration, ProcessTerm, Reward, Task, TextEnv, Turn
from palestra.envs.registry import register
from palestra.envs.tasks.box_grid import COLOURS, Boxes, Wording, cell_name
from palestra.envs.tasks.worlds import WorldTool
from palestra.envs.toolcalls import format_tool_call
from palestra.envs.tools.base import Tool, ToolError

SLACK = 1
"""Steps allowed beyond those of the oracle's plan."""

PLAIN = (
    "Cells {first} to {last}, one arm in each. Boxes: {boxes}. Targets: {targets}. Deliver all boxes within {limit} "
    "steps.",
    Wording(box="{box} {cell}", delivered="{box} delivered", state="Step {step} of {limit}. Boxes: {boxes}."),
)
OTHER = (
    "A warehouse floor is divided into squares from {first} to {last}, and each square has a crane. These crates "
    "wait: {boxes}. They belong here: {targets}. You have {limit} rounds.",
    Wording(box="{box} in {cell}", delivered="{box} put away", state="{step} of {limit} rounds are over: {boxes}."),
)
SYNTAX = (
    "Write a step as moves separated by ';', at most one for each cell that holds a box: 'b2: red -> b3' makes the "
    "arm of b2 pass the red box to the neighbouring cell b3 (cells touch along an edge; letters are columns), and "
    "'b3: red -> target' puts it on its target if that is in b3. All moves of a step happen at once."
)


class Move(WorldTool):
    """Carries out one step of all arms."""

    name = "move"
    description = "Carries out one step: the moves of all arms."
    parameters = {"moves": {"type": "string", "description": "b2: red -> b3; a1: blue -> target"}}

    def act(self, world: Boxes, **arguments: Any) -> str:
        """Return where the boxes are then.

        Raises:
            ToolError: A move is invalid, and nothing has moved; or no step is left.
        """
        if world.over:
            raise ToolError("no step is left.")
        world.carry_out(arguments["moves"])
        return world.view()


@register(
    "palestra/Boxnet-v0",
    variants={
        "train": {},
        "test": {},
        "bigger-grid": {"columns": (4, 5), "rows": (4, 5), "max_turns": 20},
        "more-boxes": {"boxes": (5, 6), "max_turns": 20},
        "wording": {"wording": OTHER, "tools": (Move("round"),)},
        "one-shot": {"tools": (), "max_turns": 1},
    },
)
class Boxnet(TextEnv):
    """Plan the moves of all arms of a grid so that every box reaches its target within the steps allowed."""

    tools: tuple[Tool, ...] = (Move(),)
    max_turns = 14
    process_terms = {
        "delivered": ProcessTerm(
            0.0, 1.0, "delivering the near boxes and leaving the last one: all but one of n boxes pay (n - 1)/n"
        ),
    }

    columns: tuple[int, int] = (3, 3)
    """Fewest and most columns of the grid."""
    rows: tuple[int, int] = (3, 3)
    """Fewest and most rows."""
    boxes: tuple[int, int] = (3, 4)
    """Fewest and most boxes."""
    wording: tuple[str, Wording] = PLAIN
    """How a task and its state are told."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        ways = "A final answer is a plan for all steps that are left, one step per line."
        if self.tools:
            ways = f"Call {self.tools[0].name} once per step; the episode ends when all boxes are delivered. {ways}"
        self.instructions = f"Deliver every box to the target of its colour in time. {ways} {SYNTAX}"

    def sample(self, rng: random.Random) -> Task:
        """Draw boxes away from their targets, such that moving one box at a time takes too long."""
        while True:
            size = (rng.randint(*self.columns), rng.randint(*self.rows))
            cells = [(x, y) for x in range(size[0]) for y in range(size[1])]
            names = sorted(rng.sample(COLOURS, rng.randint(*self.boxes)))
            starts = {name: rng.choice(cells) for name in names}
            targets = {name: rng.choice(cells) for name in names}
            if any(starts[name] == targets[name] for name in names):
                continue
            plan = Boxes(size, starts, targets, limit=0).plan()
            limit = len(plan) + SLACK
            if sum(map(len, plan)) > limit:
                break
        world = Boxes(size, starts, targets, limit)
        told = {name: f"{name} {cell_name(targets[name])}" for name in names}
        return Task(
            prompt=self.wording[0].format(
                first=cell_name((0, 0)),
                last=cell_name((size[0] - 1, size[1] - 1)),
                boxes=world.told(self.wording[1]),
                targets=", ".join(told.values()),
                limit=limit,
            ),
            answer="\n".join("; ".join(step) for step in plan),
            # Colours are no content: boxes are told apart by where they are and go.
            key=f"{size[0]}x{size[1]}: "
            + ", ".join(sorted(f"{cell_name(starts[name])} {cell_name(targets[name])}" for name in names)),
            data={"size": size, "starts": starts, "targets": targets, "limit": limit, "plan": plan},
        )

    def begin(self, task: Task) -> Boxes:
        """Return the grid before the first step."""
        data = task.data
        return Boxes(data["size"], data["starts"], data["targets"], data["limit"], self.wording[1])

    def judge(self, task: Task, turn: Turn) -> Reward | None:
        """End the episode when all boxes are delivered, no step is left, or the rest was planned in an answer."""
        world: Boxes = self.world
        if turn.answer is not None:
            world.follow(turn.answer)
        elif not world.over:
            return None
        return Reward(float(world.solved), {"delivered": world.gained()})

    def grade(self, task: Task, answer: str) -> Reward:
        """Carry a plan out from the start."""
        world = self.begin(task)
        world.follow(answer)
        return Reward(float(world.solved), {"delivered": world.gained()})

    def process(self, task: Task, turns: Sequence[Turn]) -> dict[str, float]:
        """Pay the share of the boxes that this turn delivered."""
        gained = self.world.gained()
        return {"delivered": gained} if gained else {}

    def solve(self, task: Task) -> Demonstration:
        """Carry out the plan in which, at every arm, the box with the longest way goes first."""
        if not self.tools:
            return Demonstration((f"<answer>\n{task.answer}\n</answer>",))
        return Demonstration(
            tuple(format_tool_call(self.tools[0].name, {"moves": "; ".join(step)}) for step in task.data["plan"])
        )

    def random_action(self, rng: random.Random) -> str:
        """Draw a random legal move for each arm that has a box; a whole plan of them where one is asked for."""
        if self.tools:
            return format_tool_call(self.tools[0].name, {"moves": "; ".join(self.world.random_step(rng))})
        assert self.task is not None
        world = self.begin(self.task)
        steps = []
        while not world.over:
            steps.append("; ".join(world.random_step(rng)))
            world.carry_out(steps[-1])
        return "<answer>\n{}\n</answer>".format("\n".join(steps))
