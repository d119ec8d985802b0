"""The operations on lists of integers that PythonCoding trains on; see `code_steps`."""

from collections.abc import Sequence
from itertools import accumulate

from palestra.envs.tasks.code_steps import Operation, between, no_params, separator


def _machine(x: Sequence[int], start: int, divisor: int, loss: int) -> int:
    for v in x:
        start = start + v if v % divisor == 0 else start - loss
    return start


def _clip(x: Sequence[int], low: int, high: int) -> list[int]:
    return [min(max(v, low), high) for v in x]


NUMBER_OPERATIONS = (
    Operation(
        "multiples",
        "numbers",
        "numbers",
        between(2, 4),
        "x = [v for v in x if v % {0} == 0]",
        ("keep only the numbers that are divisible by {0}", "throw away every number that is not a multiple of {0}"),
        lambda x, d: [v for v in x if v % d == 0],
        near=((1,),),
    ),
    Operation(
        "above",
        "numbers",
        "numbers",
        between(-4, 6),
        "x = [v for v in x if v > {0}]",
        ("keep only the numbers greater than {0}", "throw away every number that is {0} or less"),
        lambda x, t: [v for v in x if v > t],
        near=((-1,), (1,)),
    ),
    Operation(
        "drop",
        "numbers",
        "numbers",
        between(2, 4),
        "x = x[{0}:]",
        (
            "drop the first {0} of the numbers (all, if there are not more)",
            "remove {0} numbers from the front, or all of them if there are fewer",
        ),
        lambda x, k: x[k:],
        near=((1,), (-1,)),
    ),
    Operation(
        "every",
        "numbers",
        "numbers",
        between(2, 3),
        "x = x[::{0}]",
        (
            "keep only the numbers at the positions 0, {0}, 2 * {0} and so on, counted from 0",
            "starting with the first number, take one and skip the {0} - 1 that follow, again and again",
        ),
        lambda x, k: x[::k],
        wrong=(lambda x, k: x[k - 1 :: k],),
    ),
    Operation(
        "affine",
        "numbers",
        "numbers",
        lambda rng: (rng.randint(2, 5), rng.randint(1, 7)),
        "x = [{0} * v + {1} for v in x]",
        ("multiply each number by {0} and then add {1} to it", "replace each number v by {0} * v + {1}"),
        lambda x, m, a: [m * v + a for v in x],
        near=((1, 0), (0, 1)),
        wrong=(lambda x, m, a: [m * (v + a) for v in x],),
    ),
    Operation(
        "square",
        "numbers",
        "numbers",
        no_params,
        "x = [v * v for v in x]",
        ("square each number", "multiply each number by itself"),
        lambda x: [v * v for v in x],
        wrong=(lambda x: [2 * v for v in x],),
    ),
    Operation(
        "remainder",
        "numbers",
        "numbers",
        between(4, 12),
        "x = [v % {0} for v in x]",
        (
            "replace each number by its remainder on division by {0}, which lies between 0 and {0} - 1 for negative "
            "numbers too",
            "reduce each number modulo {0}, so that none is negative",
        ),
        lambda x, m: [v % m for v in x],
        near=((1,),),
    ),
    Operation(
        "reverse",
        "numbers",
        "numbers",
        no_params,
        "x = x[::-1]",
        ("reverse the order of the numbers", "turn the list round, so that the last number comes first"),
        lambda x: x[::-1],
    ),
    Operation(
        "sort",
        "numbers",
        "numbers",
        no_params,
        "x = sorted(x)",
        ("sort the numbers from smallest to largest", "put the numbers in ascending order"),
        sorted,
        wrong=(lambda x: sorted(x, reverse=True),),
    ),
    Operation(
        "totals",
        "numbers",
        "numbers",
        no_params,
        "total, sums = 0, []\nfor v in x:\n    total += v\n    sums.append(total)\nx = sums",
        (
            "replace each number by the sum of all numbers up to and including it",
            "form the running totals, the first being the first number itself",
        ),
        lambda x: list(accumulate(x)),
        wrong=(lambda x: [0, *accumulate(x)][:-1],),
    ),
    Operation(
        "differences",
        "numbers",
        "numbers",
        no_params,
        "x = [b - a for a, b in zip(x, x[1:])]",
        (
            "take the differences between neighbours, each number minus the one before it (one fewer than the "
            "numbers, "
            "none if there are fewer than two)",
            "from each number but the first subtract its predecessor, and keep only these results",
        ),
        lambda x: [b - a for a, b in zip(x, x[1:], strict=False)],
        wrong=(lambda x: [a - b for a, b in zip(x, x[1:], strict=False)],),
    ),
    Operation(
        "distinct",
        "numbers",
        "numbers",
        no_params,
        "x = list(dict.fromkeys(x))",
        (
            "remove repeated numbers, keeping the first of each",
            "keep a number only where it occurs for the first time",
        ),
        lambda x: list(dict.fromkeys(x)),
        wrong=(lambda x: list(dict.fromkeys(x[::-1]))[::-1],),
    ),
    Operation(
        "weigh",
        "numbers",
        "numbers",
        no_params,
        "x = [i * v for i, v in enumerate(x, 1)]",
        (
            "multiply each number by its position, where the first has position 1",
            "multiply the first number by 1, the second by 2, and so on",
        ),
        lambda x: [i * v for i, v in enumerate(x, 1)],
        wrong=(lambda x: [i * v for i, v in enumerate(x)],),
    ),
    Operation(
        "clip",
        "numbers",
        "numbers",
        lambda rng: (rng.randint(-5, 1), rng.randint(4, 12)),
        "x = [min(max(v, {0}), {1}) for v in x]",
        (
            "replace numbers below {0} by {0} and numbers above {1} by {1}",
            "limit each number to the range from {0} to {1}",
        ),
        _clip,
        near=((1, 0), (0, 1)),
    ),
    Operation(
        "sum",
        "numbers",
        "number",
        no_params,
        "x = sum(x)",
        ("add up the numbers (0 if there are none)", "form the sum of all that is left (0 for nothing)"),
        sum,
        wrong=(lambda x: sum(map(abs, x)) + len(x), lambda x: sum(x[:-1])),
    ),
    Operation(
        "largest",
        "numbers",
        "number",
        no_params,
        "x = max(x, default=0)",
        ("take the largest number (0 if there are none)", "find the maximum, or 0 if the list is empty"),
        lambda x: max(x, default=0),
        wrong=(lambda x: min(x, default=0), lambda x: x[-1] if x else 0),
    ),
    Operation(
        "spread",
        "numbers",
        "number",
        no_params,
        "x = max(x) - min(x) if x else 0",
        (
            "take the largest number minus the smallest (0 if there are none)",
            "find by how much the maximum exceeds the minimum, or 0 if the list is empty",
        ),
        lambda x: max(x) - min(x) if x else 0,
        wrong=(lambda x: x[-1] - x[0] if x else 0,),
    ),
    Operation(
        "alternate",
        "numbers",
        "number",
        no_params,
        "x = sum(x[::2]) - sum(x[1::2])",
        (
            "take the first number minus the second plus the third minus the fourth and so on (0 if there are none)",
            "add up the numbers with alternating signs, the first one counting as positive (0 if the list is empty)",
        ),
        lambda x: sum(x[::2]) - sum(x[1::2]),
        wrong=(lambda x: sum(x[1::2]) - sum(x[::2]),),
    ),
    Operation(
        "ends",
        "numbers",
        "number",
        no_params,
        "x = x[-1] - x[0] if x else 0",
        (
            "take the last number minus the first (0 if there are none)",
            "subtract the first number from the last one, or give 0 if the list is empty",
        ),
        lambda x: x[-1] - x[0] if x else 0,
        wrong=(lambda x: x[0] - x[-1] if x else 0,),
    ),
    Operation(
        "machine",
        "numbers",
        "number",
        lambda rng: (rng.randint(0, 9), rng.randint(2, 4), rng.randint(1, 5)),
        "counter = {0}\nfor v in x:\n    if v % {1} == 0:\n        counter += v\n    else:\n        counter -= {2}\n"
        "x = counter",
        (
            "start a counter at {0} and go through the numbers: add a number that is divisible by {1} to the "
            "counter, and "
            "for any other number subtract {2} from it; take the counter at the end",
            "keep a balance that begins with "
            "{0}: each multiple of {1} among the numbers is added to it, each other number costs {2}; take the final "
            "balance",
        ),
        _machine,
        near=((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    ),
    Operation(
        "join-numbers",
        "numbers",
        "text",
        separator,
        "x = {0!r}.join(map(str, x))",
        (
            "write the numbers one after the other into a string, with {0!r} between them",
            "turn the list into a single string whose numbers are separated by {0!r}",
        ),
        lambda x, s: s.join(map(str, x)),
        wrong=(lambda x, s: "".join(map(str, x)),),
    ),
)
