"""The operations on lists of integers that no training variant of PythonCoding contains; see `code_steps`."""

from collections.abc import Sequence

from palestra.envs.tasks.code_steps import Operation, between, no_params


def _rotate(x: Sequence[int], k: int) -> list[int]:
    k = k % len(x) if x else 0
    return [*x[k:], *x[:k]]


def _swap(x: Sequence[int]) -> list[int]:
    swapped = list(x)
    for i in range(0, len(x) - 1, 2):
        swapped[i], swapped[i + 1] = x[i + 1], x[i]
    return swapped


def _records(x: Sequence[int], strict: bool = True) -> list[int]:
    found: list[int] = []
    for v in x:
        if not found or v > found[-1] or (v == found[-1] and not strict):
            found.append(v)
    return found


def _windows(x: Sequence[int], k: int) -> list[int]:
    return [sum(x[i : i + k]) for i in range(len(x) - k + 1)]


def _climb(x: Sequence[int], strict: bool = True) -> int:
    best = run = 0
    for i, v in enumerate(x):
        run = run + 1 if i and (v > x[i - 1] or (v == x[i - 1] and not strict)) else 1
        best = max(best, run)
    return best


def _second(x: Sequence[int]) -> int:
    return sorted(set(x))[-2] if len(set(x)) > 1 else 0


def _stack(x: Sequence[int]) -> list[int]:
    stack: list[int] = []
    for v in x:
        if v >= 0:
            stack.append(v)
        elif stack:
            stack.pop()
    return stack


def _resets(x: Sequence[int], limit: int) -> int:
    total = resets = 0
    for v in x:
        total += v
        if total > limit:
            total = 0
            resets += 1
    return resets


HELD_OUT_NUMBERS = (
    Operation(
        "rotate",
        "numbers",
        "numbers",
        between(1, 4),
        "k = {0} % len(x) if x else 0\nx = x[k:] + x[:k]",
        (
            "move the first number to the end of the list, {0} times in all (an empty list stays empty)",
            "rotate the list to the left by {0} places",
        ),
        _rotate,
        near=((1,),),
        wrong=(lambda x, k: _rotate(x, -k),),
    ),
    Operation(
        "swap",
        "numbers",
        "numbers",
        no_params,
        "x = list(x)\nfor i in range(0, len(x) - 1, 2):\n    x[i], x[i + 1] = x[i + 1], x[i]",
        (
            "exchange the first number with the second, the third with the fourth and so on; without a partner the "
            "last one stays where it is",
            "swap the members of each pair of neighbours, counting the pairs from the front; a number left over at "
            "the end does not move",
        ),
        _swap,
        wrong=(lambda x: x[::-1],),
    ),
    Operation(
        "records",
        "numbers",
        "numbers",
        no_params,
        "found = []\nfor v in x:\n    if not found or v > found[-1]:\n        found.append(v)\nx = found",
        (
            "keep only the numbers that are greater than all numbers before them (the first is kept)",
            "keep the first number, and of the others those that exceed everything before them",
        ),
        _records,
        wrong=(sorted, lambda x: _records(x)[1:]),
    ),
    Operation(
        "windows",
        "numbers",
        "numbers",
        between(2, 3),
        "x = [sum(x[i:i + {0}]) for i in range(len(x) - {0} + 1)]",
        (
            "list the sums of all {0} neighbouring numbers, from the first {0} to the last {0} (none if there are "
            "fewer)",
            "slide a window over {0} numbers along the list and record the sum inside it at each place where it fits",
        ),
        _windows,
        near=((1,),),
        wrong=(lambda x, k: _windows(x, k)[:-1],),
    ),
    Operation(
        "once",
        "numbers",
        "numbers",
        no_params,
        "x = [v for v in x if x.count(v) == 1]",
        (
            "keep only the numbers that occur exactly once in the list",
            "remove every number that has an equal elsewhere in the list",
        ),
        lambda x: [v for v in x if x.count(v) == 1],
        wrong=(lambda x: list(dict.fromkeys(x)),),
    ),
    Operation(
        "by-size",
        "numbers",
        "numbers",
        no_params,
        "x = sorted(x, key=abs)",
        (
            "sort the numbers by their absolute values, smallest first; equal ones keep their order",
            "order the list by distance from 0, in a stable way and with the nearest first",
        ),
        lambda x: sorted(x, key=abs),
        wrong=(sorted,),
    ),
    Operation(
        "stack",
        "numbers",
        "numbers",
        no_params,
        "stack = []\nfor v in x:\n    if v >= 0:\n        stack.append(v)\n    elif stack:\n        stack.pop()\nx "
        "= stack",
        (
            "go through the numbers with an empty stack: put a number that is not negative on top, and for a "
            "negative one remove the top, if there is one; take the stack from bottom to top",
            "build a list: each number from 0 on is appended, and each negative one deletes the last entry of the "
            "list, as long as there is any",
        ),
        _stack,
        wrong=(lambda x: [v for v in x if v >= 0],),
    ),
    Operation(
        "digit-sums",
        "numbers",
        "numbers",
        no_params,
        "x = [sum(int(c) for c in str(abs(v))) for v in x]",
        (
            "replace each number by the sum of its decimal digits, whatever its sign",
            "take the digit sum of the absolute value of each number",
        ),
        lambda x: [sum(map(int, str(abs(v)))) for v in x],
        wrong=(lambda x: [abs(v) for v in x], lambda x: [len(str(abs(v))) for v in x]),
    ),
    Operation(
        "second",
        "numbers",
        "number",
        no_params,
        "values = sorted(set(x))\nx = values[-2] if len(values) > 1 else 0",
        (
            "take the second largest of the different numbers (0 if there are fewer than two different ones)",
            "find the greatest number below the maximum, or 0 if there is none",
        ),
        _second,
        wrong=(lambda x: sorted(x)[-2] if len(x) > 1 else 0, lambda x: max(x, default=0)),
    ),
    Operation(
        "climb",
        "numbers",
        "number",
        no_params,
        "best = run = 0\nfor i, v in enumerate(x):\n    run = run + 1 if i and v > x[i - 1] else 1\n    best = "
        "max(best, run)\nx = best",
        (
            "count the numbers in the longest run of neighbours in which each is greater than the one before it (0 "
            "if there are no numbers)",
            "find how many numbers the longest strictly rising stretch of the list has, or 0 if the list is empty",
        ),
        _climb,
        wrong=(lambda x: max(0, _climb(x) - 1), lambda x: _climb(x, False)),
    ),
    Operation(
        "inversions",
        "numbers",
        "number",
        no_params,
        "x = sum(x[i] > x[j] for j in range(len(x)) for i in range(j))",
        (
            "count the pairs of numbers of which the earlier one is greater than the later one",
            "find how many pairs of positions i < j hold numbers in the wrong order, the one at i being the greater",
        ),
        lambda x: sum(x[i] > x[j] for j in range(len(x)) for i in range(j)),
        wrong=(
            lambda x: sum(x[i] >= x[j] for j in range(len(x)) for i in range(j)),
            lambda x: sum(a > b for a, b in zip(x, x[1:], strict=False)),
        ),
    ),
    Operation(
        "resets",
        "numbers",
        "number",
        between(10, 25),
        "total = resets = 0\nfor v in x:\n    total += v\n    if total > {0}:\n        total = 0\n        resets += "
        "1\nx = resets",
        (
            "add up the numbers one by one, starting at 0, and set the sum back to 0 whenever it is greater than "
            "{0} after an addition; take how often that happens",
            "fill a tank that is empty at first by the numbers in turn; as soon as it holds more than {0} it is "
            "emptied completely; count how often it is emptied",
        ),
        _resets,
        wrong=(lambda x, k: sum(x) // k, lambda x, k: _resets(x, k) + 1),
    ),
)
