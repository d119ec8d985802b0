"""Single-player games of TextArena (arXiv 2504.11442) as environments: `palestra/ta/<Game>-v0`.

Repaired: the games run without TextArena's wrapper for language models, whose observations go on to hold the games
played before; they draw from a generator of their own instead of the process-global one; there are enough different
instances of each; the outcome is the win only, never the share of a lost game that TextArena pays.

Registered are the games that have instances to draw, an honest oracle (it knows what the player may know), and need
no download. Left out: TowerOfHanoi, PegJump, Countdown, Cryptarithm, RushHour (one instance each); FifteenPuzzle
(half of its boards have no solution, and solving one raises); Minesweeper (stepping on a mine is forgiven every other
move); 2048, Bandit, Secretary, Blackjack (luck); word games (a download); Sokoban, Slitherlink, LogicPuzzle (no
oracle yet).
"""

import random
from abc import abstractmethod
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from itertools import product
from threading import Lock
from typing import Any, ClassVar

from palestra.envs.adapters.gymnasium_text import Act, TextGym
from palestra.envs.core import Task
from palestra.envs.errors import MissingPrerequisiteError
from palestra.envs.registry import register
from palestra.envs.tools.base import ToolError

MAX_MOVE = 100
"""Longest move, in characters: games turn digits into numbers."""
_GENERATORS = Lock()


class Match:
    """An episode of a game."""

    def __init__(self, game: Any) -> None:
        self._game = game
        self.won = self.over = False

    def step(self, move: str) -> str:
        """Make a move, its brackets may be left out, and say what the game answers.

        Raises:
            ToolError: The match is over, or the move is too long to be one.
        """
        if self.over:
            raise ToolError("the game is over.")
        if len(move) > MAX_MOVE:
            raise ToolError(f"a move has at most {MAX_MOVE} characters.")
        self.over, _ = self._game.step(move if "[" in move else f"[{move}]")
        said = heard(self._game)
        if not self.over:
            return said
        rewards, info = self._game.close()
        # A lost game pays the share that was done; an illegal move ends it with that share, too.
        self.won = rewards[0] == 1 and not info[0]["invalid_move"]
        return "\n".join(part for part in (said, info[0]["reason"]) if part)


def heard(game: Any) -> str:
    """Return what the game has said since the last call; not the player's own moves."""
    _, messages = game.get_observation()
    return "\n".join(text.strip() for speaker, text, _ in messages if speaker < 0)


class TextArenaGame(TextGym):
    """Base of the games; a subclass says how the player wins, knowing only what the game tells."""

    tools = (Act("play", "Makes your next move; its square brackets may be left out.", "move"),)
    instructions = "Play the game. Every move is a tool call."

    module: ClassVar[str] = ""
    """Where the game is, in `textarena.envs`."""
    class_name: ClassVar[str] = ""
    options: Mapping[str, Any] = {}
    """Parameters of the game."""

    def __init__(self, variant: str = "train", render_mode: str | None = None) -> None:
        if find_spec("textarena") is None:
            raise MissingPrerequisiteError('the environments palestra/ta need: pip install "palestra[textarena]"')
        super().__init__(variant, render_mode)

    @abstractmethod
    def content(self, game: Any) -> str:
        """Return what makes two instances the same."""

    @abstractmethod
    def win(self, game: Any) -> Sequence[str]:
        """Return moves that win the game."""

    def new(self, seed: int) -> Any:
        """Return the instance of a seed, ready to play."""
        module = import_module(f"textarena.envs.{self.module}.env")
        game = getattr(module, self.class_name)(**self.options)
        # The games draw from the module `random`, hence from the generator of the whole process.
        with _GENERATORS:
            module.random = random.Random(seed)  # type: ignore[attr-defined]
            try:
                game.reset(num_players=1)
            finally:
                module.random = random  # type: ignore[attr-defined]
        return game

    def sample(self, rng: random.Random) -> Task:
        """Draw an instance."""
        seed = rng.getrandbits(32)
        game = self.new(seed)
        return Task(heard(game), "", self.content(game), {"seed": seed})

    def make_world(self, task: Task) -> Match:
        """Return the instance of the task; its first words are the prompt."""
        game = self.new(task.data["seed"])
        heard(game)
        return Match(game)

    def plan(self, task: Task) -> Sequence[str]:
        """Win."""
        return self.win(self.new(task.data["seed"]))


@register(
    "palestra/ta/GuessTheNumber-v0",
    variants={
        "train": {},
        "test": {},
        "wider": {"options": {"max_number": 10**9, "max_turns": 30}, "max_turns": 32},
    },
)
class GuessTheNumber(TextArenaGame):
    """Find a number by guesses that are answered with higher or lower."""

    module, class_name = "GuessTheNumber", "GuessTheNumberEnv"
    options: Mapping[str, Any] = {"max_number": 10**6, "max_turns": 20}
    max_turns = 22

    def content(self, game: Any) -> str:
        """The number."""
        return f"{game.game_number} of {game.max_number}"

    def win(self, game: Any) -> Sequence[str]:
        """Halve what is left."""
        low, high = game.min_number, game.max_number
        guesses: list[int] = []
        while not guesses or guesses[-1] != game.game_number:
            guesses.append((low + high) // 2)
            if guesses[-1] < game.game_number:
                low = guesses[-1] + 1
            else:
                high = guesses[-1] - 1
        return [str(guess) for guess in guesses]

    def random_move(self, rng: random.Random) -> str:
        """Any number."""
        return str(rng.randint(1, self.options["max_number"]))


@register(
    "palestra/ta/Mastermind-v0",
    variants={
        "train": {},
        "test": {},
        "longer": {"options": {"code_length": 6, "num_numbers": 6, "duplicate_numbers": True, "max_turns": 12}},
    },
)
class Mastermind(TextArenaGame):
    """Find a code by guesses that are answered with the number of right and of misplaced digits."""

    module, class_name = "Mastermind", "MastermindEnv"
    options: Mapping[str, Any] = {"code_length": 5, "num_numbers": 8, "duplicate_numbers": True, "max_turns": 12}
    max_turns = 14

    def content(self, game: Any) -> str:
        """The code."""
        return f"{game.state.game_state['secret_code']} of {game.num_numbers}"

    def win(self, game: Any) -> Sequence[str]:
        """Guess any code that all answers so far allow."""
        code = tuple(game.state.game_state["secret_code"])
        codes = list(product(range(1, game.num_numbers + 1), repeat=len(code)))
        guesses: list[tuple[int, ...]] = []
        rng = random.Random(0)
        while not guesses or guesses[-1] != code:
            guess = rng.choice(codes)
            guesses.append(guess)
            pegs = _pegs(guess, code)
            codes = [c for c in codes if _pegs(guess, c) == pegs]
        return [" ".join(map(str, guess)) for guess in guesses]

    def random_move(self, rng: random.Random) -> str:
        """Any code."""
        numbers = range(1, self.options["num_numbers"] + 1)
        return " ".join(str(rng.choice(numbers)) for _ in range(self.options["code_length"]))


def _pegs(guess: Sequence[int], code: Sequence[int]) -> tuple[int, int]:
    black = sum(map(int.__eq__, guess, code))
    return black, (Counter(guess) & Counter(code)).total() - black


@register(
    "palestra/ta/FrozenLake-v0",
    variants={"train": {}, "test": {}, "bigger": {"options": {"size": 8, "num_holes": 16}, "max_turns": 40}},
)
class FrozenLake(TextArenaGame):
    """Cross a frozen lake to its goal without falling into a hole or walking off it twice."""

    module, class_name = "FrozenLake", "FrozenLakeEnv"
    options: Mapping[str, Any] = {"size": 6, "num_holes": 8}
    max_turns = 30

    def content(self, game: Any) -> str:
        """The map."""
        return "/".join("".join(row) for row in game.state.game_state["grid"])

    def win(self, game: Any) -> Sequence[str]:
        """Take the shortest way."""
        state = game.state.game_state
        before: dict[tuple[int, int], tuple[tuple[int, int], str] | None] = {state["player_pos"]: None}
        queue = deque(before)
        while state["goal_pos"] not in before:
            row, column = queue.popleft()
            for name, (down, right) in game.actions.items():
                cell = row + down, column + right
                inside = all(0 <= part < game.size for part in cell)
                if inside and cell not in before and state["grid"][cell[0]][cell[1]] != "H":
                    before[cell] = ((row, column), name)
                    queue.append(cell)
        moves, cell = [], state["goal_pos"]
        while (step := before[cell]) is not None:
            cell, name = step
            moves.append(name)
        return moves[::-1]

    def random_move(self, rng: random.Random) -> str:
        """Any direction."""
        return rng.choice(("up", "down", "left", "right"))


@register(
    "palestra/ta/LightsOut-v0",
    variants={"train": {}, "test": {}, "bigger": {"options": {"size": 6, "max_turns": 30}, "max_turns": 32}},
)
class LightsOut(TextArenaGame):
    """Turn off all lights of a grid, where pressing one toggles it and its neighbours."""

    module, class_name = "LightsOut", "LightsOutEnv"
    options: Mapping[str, Any] = {"size": 5, "max_turns": 20}
    max_turns = 22

    def sample(self, rng: random.Random) -> Task:
        """Draw until a light is on: the game itself does not survive its solution."""
        while True:
            try:
                return super().sample(rng)
            except ZeroDivisionError:
                continue

    def content(self, game: Any) -> str:
        """The lights."""
        return "/".join("".join(".O"[light] for light in row) for row in game.state.game_state["grid"])

    def win(self, game: Any) -> Sequence[str]:
        """Press the fewest lights: one of the solutions of a linear system over two elements."""
        size = game.size
        lights = sum(1 << i for i, light in enumerate(sum(game.state.game_state["grid"], [])) if light)
        press = min(_solutions([_toggled(i, size) for i in range(size * size)], lights), key=int.bit_count)
        return [f"{i // size} {i % size}" for i in range(size * size) if press >> i & 1]

    def random_move(self, rng: random.Random) -> str:
        """Any light."""
        return f"{rng.randrange(self.options['size'])} {rng.randrange(self.options['size'])}"


def _toggled(light: int, size: int) -> int:
    row, column = divmod(light, size)
    cells = ((row, column), (row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1))
    return sum(1 << r * size + c for r, c in cells if 0 <= r < size and 0 <= c < size)


def _solutions(columns: Sequence[int], target: int) -> list[int]:
    """All sets of columns (as bits) whose sum over two elements is the target."""
    basis: dict[int, tuple[int, int]] = {}
    kernel = [0]

    def reduce(value: int, used: int) -> tuple[int, int]:
        for pivot, (column, combination) in basis.items():
            if value >> pivot & 1:
                value, used = value ^ column, used ^ combination
        return value, used

    for i, column in enumerate(columns):
        value, used = reduce(column, 1 << i)
        if value:
            basis[value.bit_length() - 1] = (value, used)
        else:
            kernel += [used ^ known for known in kernel]
    rest, used = reduce(target, 0)
    return [used ^ known for known in kernel] if rest == 0 else []


@register(
    "palestra/ta/Sudoku-v0",
    variants={"train": {}, "test": {}, "fewer-clues": {"options": {"clues": 50}, "max_turns": 50}},
)
class Sudoku(TextArenaGame):
    """Fill in a sudoku, number by number; a wrong one is refused, two in a row end the game."""

    module, class_name = "Sudoku", "SudokuEnv"
    options: Mapping[str, Any] = {"clues": 60}
    max_turns = 30

    def content(self, game: Any) -> str:
        """The clues."""
        return "/".join("".join(map(str, row)) for row in game.game_board)

    def win(self, game: Any) -> Sequence[str]:
        """Fill the cells of the only solution in order."""
        board = game.game_board
        cells = [(r, c) for r in range(9) for c in range(9) if not board[r][c]]
        return [f"{r + 1} {c + 1} {game.full_grid[r][c]}" for r, c in cells]

    def random_move(self, rng: random.Random) -> str:
        """Any number anywhere."""
        return " ".join(str(rng.randint(1, 9)) for _ in range(3))
