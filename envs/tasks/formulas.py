"""Formulas as trees: build, write, search and explain them. What the number games share on the side of the oracle.

A tree is a number, or a left tree, an operator and a right tree. Values are exact. The search is a meet in the
middle: it splits the numbers in two, lists what the smaller part can make, and asks the other part for the rest.
"""

import random
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import combinations

Tree = int | tuple["Tree", str, "Tree"]


def combine(left: Fraction, operator: str, right: Fraction) -> Fraction | None:
    """Apply one operator exactly; None for a division by zero."""
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    if operator == "*":
        return left * right
    return left / right if right else None


def write(tree: Tree) -> str:
    """Write a tree with as few parentheses as keep its shape."""
    if isinstance(tree, int):
        return str(tree)
    left, operator, right = tree
    before, after = write(left), write(right)
    if _rank(left) < _rank(tree):
        before = f"({before})"
    if _rank(right) < _rank(tree) or (_rank(right) == _rank(tree) and operator in "-/"):
        after = f"({after})"
    return f"{before}{operator}{after}"


def explain(tree: Tree, numbers: Sequence[int]) -> list[str]:
    """Work a tree out, one line per operation: what it gives, and which numbers are left then."""
    left = [Fraction(number) for number in numbers]
    lines: list[str] = []
    _work_out(tree, left, lines)
    return lines


def random_tree(numbers: Sequence[int], rng: random.Random) -> Tree:
    """Draw a formula that uses all numbers and divides by nothing that is zero."""
    parts: list[tuple[Fraction, Tree]] = [(Fraction(number), number) for number in numbers]
    while len(parts) > 1:
        (left, before), (right, after) = (parts.pop(rng.randrange(len(parts))) for _ in range(2))
        operator = rng.choice("+-*/" if right else "+-*")
        value = combine(left, operator, right)
        assert value is not None
        parts.append((value, (before, operator, after)))
    return parts[0][1]


@lru_cache(maxsize=100_000)
def find(numbers: tuple[int, ...], target: int) -> Tree | None:
    """Return a formula that uses each of the sorted `numbers` once and makes `target`, or None if there is none.

    One without fractions and negative numbers on the way is preferred.
    """
    return _find(numbers, Fraction(target), True) or _find(numbers, Fraction(target), False)


def _rank(tree: Tree) -> int:
    return 3 if isinstance(tree, int) else 2 if tree[1] in "*/" else 1


def _work_out(tree: Tree, left: list[Fraction], lines: list[str]) -> Fraction:
    if isinstance(tree, int):
        return Fraction(tree)
    first, second = _work_out(tree[0], left, lines), _work_out(tree[2], left, lines)
    value = combine(first, tree[1], second)
    assert value is not None
    left.remove(first)
    left.remove(second)
    left.append(value)
    rest = f"; left: {', '.join(map(str, left))}" if len(left) > 1 else ""
    lines.append(f"{_operand(first)} {tree[1]} {_operand(second)} = {value}{rest}")
    return value


def _operand(value: Fraction) -> str:
    return str(value) if value >= 0 and value.denominator == 1 else f"({value})"


def _splits(numbers: tuple[int, ...], size: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    for chosen in combinations(range(len(numbers)), size):
        yield (
            tuple(numbers[i] for i in chosen),
            tuple(number for i, number in enumerate(numbers) if i not in chosen),
        )


@lru_cache(maxsize=10_000)
def _reach(numbers: tuple[int, ...], natural: bool) -> dict[Fraction, Tree]:
    """All that one, two or three numbers can make, each value with the first formula found."""
    if len(numbers) == 1:
        return {Fraction(numbers[0]): numbers[0]}
    found: dict[Fraction, Tree] = {}
    for one, others in _splits(numbers, 1):
        for left, before in _reach(one, natural).items():
            for right, after in _reach(others, natural).items():
                for operator in "+-*/":
                    for tree, value in (
                        ((before, operator, after), combine(left, operator, right)),
                        ((after, operator, before), combine(right, operator, left)),
                    ):
                        if value is not None and not (natural and (value < 0 or value.denominator > 1)):
                            found.setdefault(value, tree)
    return found


def _find(numbers: tuple[int, ...], target: Fraction, natural: bool) -> Tree | None:
    if natural and (target < 0 or target.denominator > 1):
        return None
    if len(numbers) <= 3:
        return _reach(numbers, natural).get(target)
    for size in (2, 1):
        for some, others in _splits(numbers, size):
            for value, tree in _reach(some, natural).items():
                if (found := _complete(value, tree, others, target, natural)) is not None:
                    return found
    return None


def _complete(value: Fraction, tree: Tree, others: tuple[int, ...], target: Fraction, natural: bool) -> Tree | None:
    """Join `tree`, worth `value`, to a formula of the other numbers so that the target comes out."""
    wanted: list[tuple[Fraction, str, bool]] = [
        (target - value, "+", True),
        (value - target, "-", True),
        (value + target, "-", False),
    ]
    if value:
        wanted += [(target / value, "*", True), (target * value, "/", False)]
        if target:
            wanted.append((value / target, "/", True))
    for rest, operator, first in wanted:
        other = _find(others, rest, natural)
        if other is not None:
            return (tree, operator, other) if first else (other, operator, tree)
    return None
