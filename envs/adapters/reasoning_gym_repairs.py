"""What Palestra repairs of reasoning-gym's tasks (arXiv 2505.24760), seen in version 0.1.25.

- Scorers that evaluate the answer as code: replaced by exact readers (`GRADERS`), or disarmed (`disarmed`), so that
  they read literals and formulas only.
- Scorers that take wrong answers for right ones: a check is put before or in their place (`GRADERS`).
- Tasks without a right answer in the entry: `ORACLES`.
- Tasks in several wordings or orders: `KEYS` names the content, so that no problem is in two splits in other words.

Everything here runs in the process of `reasoning_gym_worker.py`. Invariant: whatever the answer is, no grader executes
it; and no grader of `GRADERS` takes an answer for right that breaks what the question asks for.
"""

import ast
import json
import math
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from fractions import Fraction
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from palestra.envs.expressions import ExpressionError, parse_formula, parse_fraction

Entry = Mapping[str, Any]
Package = Callable[[str, Entry], float]
"""The package's own scorer."""

_LITERAL_READERS = (
    "algorithmic.binary_matrix",
    "algorithmic.spiral_matrix",
    "algorithmic.string_insertion",
    "games.n_queens",
)
_FORMULA_READERS = {
    "algebra.simple_integration": "sympy",
    "algebra.intermediate_integration": "sympy",
    "algebra.polynomial_multiplication": "sp",
}
_FUNCTIONS = tuple("sin cos tan sec csc cot asin acos atan sinh cosh tanh exp log ln sqrt Abs".split())
MAX_EXPONENT = 100


@contextmanager
def disarmed() -> Iterator[None]:
    """Within this context the package evaluates no code, and no sequence that it would then reject as large."""
    import sympy

    reader = SimpleNamespace(**vars(sympy))
    reader.parse_expr = _read_formula
    undo: list[tuple[Any, str, Any]] = []
    for name in _LITERAL_READERS:
        module = import_module(f"reasoning_gym.{name}")
        undo.append((module, "eval", None))
        module.eval = ast.literal_eval  # type: ignore[attr-defined]
    for name, alias in _FORMULA_READERS.items():
        module = import_module(f"reasoning_gym.{name}")
        undo.append((module, alias, getattr(module, alias)))
        setattr(module, alias, reader)
    rule = import_module("reasoning_gym.cognition.number_sequences").PatternRule
    undo.append((rule, "apply", rule.apply))
    rule.apply = _bounded(rule.apply)
    try:
        yield
    finally:
        for module, name, value in undo:
            delattr(module, name) if value is None else setattr(module, name, value)


def _bounded(apply: Callable[[Any, list[int], int], int]) -> Callable[[Any, list[int], int], int]:
    """The generator rejects sequences beyond 1,000, but only once it has all their terms, of 2^36 digits perhaps."""

    def bounded(rule: Any, sequence: list[int], position: int) -> int:
        if abs(sequence[position]) > 10**9:
            raise OverflowError  # the generator then goes on as if it had rejected the sequence
        return apply(rule, sequence, position)

    return bounded


def _read_formula(text: str, local_dict: Mapping[str, Any] | None = None) -> Any:
    """Build the sympy expression that `text` writes: numbers, names, `+ - * / **` and elementary functions.

    Raises:
        ValueError: Anything else stands in the text.
    """
    import sympy

    names = {"pi": sympy.pi, "E": sympy.E, "I": sympy.I, **(local_dict or {})}

    def build(node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=bool() | complex()):
                raise ValueError("only numbers may stand in a formula")
            case ast.Constant(value=int() | float() as value):
                return sympy.sympify(value)
            case ast.Name(id=name) if name not in _FUNCTIONS:
                return names[name] if name in names else sympy.Symbol(name)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -build(operand)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return build(operand)
            case ast.BinOp(left=left, op=ast.Pow(), right=right):
                return _power(build(left), build(right))
            case ast.BinOp(left=left, op=operator, right=right):
                return _combine(operator, build(left), build(right))
            case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in _FUNCTIONS:
                return getattr(sympy, name)(build(argument))
        raise ValueError("only numbers, names, + - * / ** and elementary functions may stand in a formula")

    return build(ast.parse(text.strip(), mode="eval").body)


def _combine(operator: ast.operator, left: Any, right: Any) -> Any:
    match operator:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Div():
            return left / right
    raise ValueError("only + - * / ** may stand in a formula")


def _power(base: Any, exponent: Any) -> Any:
    # Powers of numbers are computed at once: 9**9**9 would take all memory there is.
    if base.is_number and exponent.is_number and not abs(exponent) <= MAX_EXPONENT:
        raise ValueError(f"exponents of numbers are at most {MAX_EXPONENT}")
    return base**exponent


# Graders.


def _countdown(package: Package, answer: str, entry: Entry) -> float:
    """The package evaluates the answer, and takes near misses (relative error 1e-5) for hits."""
    try:
        value, numbers = parse_formula(answer)
    except ExpressionError:
        return 0.01
    uses_all = sorted(numbers) == sorted(entry["metadata"]["numbers"])
    return 1.0 if uses_all and value == entry["metadata"]["target"] else 0.05


def _puzzle24(package: Package, answer: str, entry: Entry) -> float:
    """The package evaluates the answer, drops decimals (24.7 is 24), and takes any four numbers for the given ones."""
    try:
        value, numbers = parse_formula(answer)
    except ExpressionError:
        return 0.01
    return 1.0 if sorted(numbers) == sorted(entry["metadata"]["numbers"]) and value == Fraction(24) else 0.01


def _halting(package: Package, answer: str, entry: Entry) -> float:
    """The package compares `bool("False")` with `bool("True")`."""
    return float(answer.strip().lower() == str(entry["answer"]).lower())


def _complex(package: Package, answer: str, entry: Entry) -> float:
    """The package pays 1.0 for `nan`."""
    return 0.0 if "n" in answer.lower() else package(answer, entry)


def _coin_flip(package: Package, answer: str, entry: Entry) -> float:
    """The package pays 1.0 for any prefix of the right decimal, such as `0`, and writes out 1e999999999."""
    rational = entry["metadata"]["rational"]
    right = Fraction(rational["numerator"], rational["denominator"])
    fraction = parse_fraction(answer)
    value = float(answer) if fraction is None else float(fraction)
    return float(math.isclose(value, right, rel_tol=1e-4))


def _proposition(package: Package, answer: str, entry: Entry) -> float:
    """The package takes whatever text for a variable, half a formula too, and tries 2^n assignments of n of them."""
    from reasoning_gym.logic.propositional_logic import Expression

    if len(set(re.findall(r"\w+", answer))) > len(entry["metadata"]["variables"]):
        return 0.0
    named = package.__self__._collect_variables([Expression.from_string(answer)])  # type: ignore[attr-defined]
    return package(answer, entry) if named <= set(entry["metadata"]["variables"]) else 0.0


def _rush_hour(package: Package, answer: str, entry: Entry) -> float:
    """The package moves a car step by step, however many steps the answer says."""
    return 0.0 if re.search(r"\d{3}", answer) else package(answer, entry)


def _rubiks_cube(package: Package, answer: str, entry: Entry) -> float:
    """The package writes out a move as often as the number behind it says: gigabytes for ten digits."""
    return 0.0 if re.search(r"\d{3}", answer) else package(answer, entry)


def _number_sorting(package: Package, answer: str, entry: Entry) -> float:
    """The package takes every number within 1 of the right one for right."""
    score = package(answer, entry)
    if score == 1.0:
        given, right = (json.loads(text.replace("'", '"')) for text in (answer, entry["answer"]))
        return float([float(x) for x in given] == [float(x) for x in right])
    return score


def _decimal(package: Package, answer: str, entry: Entry) -> float:
    """The package asks for 12 digits and takes every number within 0.001 of the right one."""
    value, right = Decimal(answer), Decimal(entry["answer"])
    return float(value.is_finite() and abs(value - right) <= abs(right) * Decimal("1e-10"))


def _gsm(package: Package, answer: str, entry: Entry) -> float:
    """The package looks for the first number anywhere and does not see its sign."""
    value = parse_fraction(answer)
    return float(value is not None and value == parse_fraction(entry["answer"]))


def _boxnet(package: Package, answer: str, entry: Entry) -> float:
    """The package also moves targets, to where the boxes are."""
    return 0.0 if re.search(r"move\(\s*target", answer) else package(answer, entry)


def _game_of_life(package: Package, answer: str, entry: Entry) -> float:
    """The package compares the cells of the right grid, and none that the answer has besides."""
    score = package(answer, entry)
    return min(0.9, score) if score == 1.0 and json.loads(answer) != json.loads(entry["answer"]) else score


def _whole(normal: Callable[[str], Any]) -> Callable[[Package, str, Entry], float]:
    """For graders that pay by the word or letter found, so that a wrong answer can collect all of 1.0."""

    def grade(package: Package, answer: str, entry: Entry) -> float:
        score = package(answer, entry)
        return score if normal(answer) == normal(entry["answer"]) else min(0.9, score)

    return grade


GRADERS: dict[str, Callable[[Package, str, Entry], float]] = {
    "countdown": _countdown,
    "puzzle24": _puzzle24,
    "game_of_life_halting": _halting,
    "complex_arithmetic": _complex,
    "coin_flip": _coin_flip,
    "propositional_logic": _proposition,
    "rubiks_cube": _rubiks_cube,
    "rush_hour": _rush_hour,
    "number_sorting": _number_sorting,
    "decimal_arithmetic": _decimal,
    "gsm_symbolic": _gsm,
    "boxnet": _boxnet,
    "game_of_life": _game_of_life,
    "figlet_font": _whole(lambda text: text.replace(" ", "").strip().lower()),
    "letter_jumble": _whole(lambda text: text.strip().lower()),
    "word_sorting": _whole(lambda text: [word.strip() for word in text.split(",")]),
}
"""Task -> its grader; every other task is graded by the package."""


# Right answers where an entry has none; candidates, the best first.


def _colour(entry: Entry) -> list[str]:
    return [json.dumps({str(k): v for k, v in entry["metadata"]["possible_answer"].items()})]


def _conclude(entry: Entry) -> list[str]:
    premises = entry["metadata"]["premises"]
    return [entry["metadata"]["example_answer"], " ∧ ".join(f"({p})" for p in premises)]


def _unscramble(entry: Entry) -> list[str]:
    moves = entry["metadata"]["scramble_moves"].split()
    return [" ".join(move[:-1] if move.endswith("'") else f"{move}'" for move in reversed(moves))]


def _deliver(entry: Entry) -> list[str]:
    """One box after the other, one step per plan."""
    squares = {tuple(map(float, k.split("_"))): list(v) for k, v in entry["metadata"]["initial_state"].items()}
    plans = []
    targets = [(square, item) for square, items in squares.items() for item in items if item.startswith("target_")]
    boxes = [(square, item) for square, items in squares.items() for item in items if item.startswith("box_")]
    for (x, y), box in boxes:
        found = next(t for t in targets if t[1] == f"target_{box[4:]}")
        targets.remove(found)
        (right, up), target = found
        while (x, y) != (right, up):
            step = (x + math.copysign(1, right - x), y) if x != right else (x, y + math.copysign(1, up - y))
            plans.append({f"Agent[{x}, {y}]": f"move({box}, square[{step[0]}, {step[1]}])"})
            x, y = step
        plans.append({f"Agent[{x}, {y}]": f"move({box}, {target})"})
    return [json.dumps(plans)]


def _drive(entry: Entry) -> list[str]:
    """Breadth-first search over the positions of the cars; the red car A leaves row 2 at column 4."""
    board = entry["metadata"]["board_config"]
    cells: dict[str, list[int]] = {}
    for cell, label in enumerate(board):
        if label not in "ox":
            cells.setdefault(label, []).append(cell)
    cars = sorted(cells)
    vertical = [cells[c][1] - cells[c][0] == 6 for c in cars]
    start = tuple(cells[c][0] for c in cars)
    length = [len(cells[c]) for c in cars]
    walls = sum(1 << cell for cell, label in enumerate(board) if label == "x")
    masks = [
        {p: sum(1 << p + i * (6 if vertical[car] else 1) for i in range(length[car])) for p in range(36)}
        for car in range(len(cars))
    ]
    before: dict[tuple[int, ...], tuple[tuple[int, ...], str] | None] = {start: None}
    queue = deque([start])
    while queue:
        state = queue.popleft()
        if state[0] == 16:
            return [" ".join(_path(before, state))]
        full = walls
        for car, position in enumerate(state):
            full |= masks[car][position]
        for car, position in enumerate(state):
            free = full & ~masks[car][position]
            stride = 6 if vertical[car] else 1
            lane = position // 6 if vertical[car] else position % 6
            for sign in (-1, 1):
                room = lane if sign < 0 else 6 - length[car] - lane
                for steps in range(1, room + 1):
                    target = position + sign * steps * stride
                    if masks[car][target] & free:
                        break
                    after = (*state[:car], target, *state[car + 1 :])
                    if after not in before:
                        before[after] = (state, f"{cars[car]}{sign * steps:+d}")
                        queue.append(after)
    return []


def _path(before: Mapping[Any, tuple[Any, str] | None], state: Any) -> list[str]:
    moves = []
    while (step := before[state]) is not None:
        state, move = step
        moves.append(move)
    return moves[::-1]


ORACLES: dict[str, Callable[[Entry], list[str]]] = {
    "boxnet": _deliver,
    "graph_color": _colour,
    "propositional_logic": _conclude,
    "rubiks_cube": _unscramble,
    "rush_hour": _drive,
}


def sound(task: str, score: Callable[[str], float]) -> bool:
    """Whether the entry states a problem: some cubes are solved, and from a contradiction anything follows."""
    return score("") != 1.0 and (task != "propositional_logic" or score("P ∧ ¬P") != 1.0)


# Keys.


def _fields(*names: str) -> Callable[[Entry], Any]:
    return lambda entry: [entry["metadata"][name] for name in names]


def _sorted(field: str, *others: str) -> Callable[[Entry], Any]:
    """For problems that stay the same whatever the order of a field's parts is."""
    return lambda entry: [sorted(entry["metadata"][field], key=str), *(entry["metadata"][name] for name in others)]


def _signed_terms(entry: Entry) -> Any:
    signs_and_terms = f"+ {entry['metadata']['expression']}".split()
    return sorted(map("".join, zip(signs_and_terms[::2], signs_and_terms[1::2], strict=True)))


def _complex_operands(entry: Entry) -> Any:
    first, second, operation = (entry["metadata"][name] for name in ("num1", "num2", "operation"))
    return [operation, sorted([first, second]) if operation in "+*" else [first, second]]


KEYS: dict[str, Callable[[Entry], Any]] = {
    "advanced_geometry": lambda e: [e["metadata"]["task_type"], sorted(e["metadata"][k] for k in "ABC")],
    "arc_agi": _fields("task_id"),  # an item is a turned and recoloured copy of one of 800 problems
    "basic_arithmetic": _fields("expression"),
    "bf": _fields("bf_program"),
    "boxnet": _fields("initial_state"),
    "caesar_cipher": _fields("clear_text"),
    "chain_sum": _signed_terms,
    "circuit_logic": _fields("expression", "assignments"),
    "coin_flip": _fields("num_trials", "k_heads", "problem_type"),
    "color_cube_rotation": _fields("initial_state", "rotations", "target_side"),
    "complex_arithmetic": _complex_operands,
    "countdown": lambda e: [sorted(e["metadata"]["numbers"]), e["metadata"]["target"]],
    "course_schedule": lambda e: [len(e["metadata"]["courses"]), sorted(e["metadata"]["prerequisites"])],
    "decimal_chain_sum": _signed_terms,
    "dice": lambda e: [sorted(e["metadata"]["puzzle"]["dice_str"].split(", ")), e["metadata"]["puzzle"]["target"]],
    "emoji_mystery": lambda e: e["answer"],
    "figlet_font": lambda e: [e["answer"], e["metadata"]["font"], e["metadata"]["space_letters"]],
    "fraction_simplification": _fields("numerator", "denominator"),
    "gcd": _sorted("numbers"),
    "graph_color": _fields("puzzle"),
    "group_anagrams": _sorted("words"),
    "intermediate_integration": _fields("integrand"),
    "jugs": lambda e: [sorted(e["metadata"]["puzzle"]["jug_capacities"]), e["metadata"]["puzzle"]["target"]],
    "knights_knaves": _fields("statements"),
    "lcm": _sorted("numbers"),
    "leg_counting": _fields("animals"),
    "letter_counting": _sorted("span", "target_letter"),
    "letter_jumble": _fields("original_words"),
    "number_filtering": _sorted("original_numbers", "filter_value", "operation"),
    "number_format": _sorted("candidates", "size"),
    "number_sorting": _sorted("original_numbers", "direction"),
    "palindrome_generation": _sorted("letters"),
    "polynomial_equations": _fields("polynomial_expr"),
    "polynomial_multiplication": _fields("polynomial_expr"),
    "products": lambda e: sorted(e["metadata"]["expression"].split(" * ")),
    "propositional_logic": _sorted("premises"),
    "puzzle24": lambda e: sorted(e["metadata"]["numbers"]),
    "quantum_lock": _fields("buttons", "initial_state", "initial_value", "target_value"),
    "ransom_note": lambda e: [sorted(e["metadata"]["ransom_note"]), sorted(e["metadata"]["magazine"])],
    "rearc": _fields("task_id"),
    "rotate_matrix": lambda e: [e["metadata"]["matrix"], e["metadata"]["num_rotations"] % 4],
    "rubiks_cube": lambda e: re.findall(r"\b[WYGBRO]\b", e["question"]),
    "sentence_reordering": lambda e: sorted(e["answer"].split()),
    "simple_equations": _fields("equation"),
    "simple_geometry": lambda e: sorted(e["metadata"]["known_angles"]),
    "simple_integration": _fields("integrand"),
    "syllogism": _fields("premise1", "premise2", "conclusion"),
    "time_intervals": _fields("task_type", "start_time", "end_time"),
    "tsumego": _fields("board"),
    "word_ladder": lambda e: sorted([e["metadata"]["start_word"], e["metadata"]["end_word"]]),
    "word_sorting": _sorted("original_words", "direction"),
}
"""Task -> the content of an entry apart from its wording and from what only orders it; for every other task the
question is the content."""
