"""The operations on words, moves and single numbers that PythonCoding trains on; see `code_steps`."""

from palestra.envs.tasks.code_steps import Operation, between, no_params, separator


def _robot(x: str, right: int, up: int) -> list[int]:
    return [right * (x.count("R") - x.count("L")), up * (x.count("U") - x.count("D"))]


def _walled(x: str, k: int) -> list[int]:
    a = b = 0
    for c in x:
        a = min(max(a + (c == "R") - (c == "L"), -k), k)
        b = min(max(b + (c == "U") - (c == "D"), -k), k)
    return [a, b]


def _path(x: str, start: int) -> list[int]:
    heights = [start]
    for c in x:
        if c in "UD":
            heights.append(heights[-1] + (1 if c == "U" else -1))
    return heights


def _hail(n: int, times: int, factor: int) -> list[int]:
    x = [n]
    for _ in range(times):
        x.append(x[-1] // 2 if x[-1] % 2 == 0 else factor * x[-1] + 1)
    return x


WORD_OPERATIONS = (
    Operation(
        "longer",
        "words",
        "words",
        between(2, 4),
        "x = [w for w in x if len(w) > {0}]",
        ("keep only the words with more than {0} characters", "throw away every word of {0} characters or fewer"),
        lambda x, k: [w for w in x if len(w) > k],
        near=((1,), (-1,)),
    ),
    Operation(
        "turn",
        "words",
        "words",
        no_params,
        "x = [w[::-1] for w in x]",
        ("reverse each word, leaving the order of the words", "spell every word backwards"),
        lambda x: [w[::-1] for w in x],
        wrong=(lambda x: x[::-1],),
    ),
    Operation(
        "capitals",
        "words",
        "words",
        no_params,
        "x = [w[:1].upper() + w[1:] for w in x]",
        (
            "turn the first character of each word into a capital and leave the others as they are",
            "let every word begin with a capital, without changing the rest of it",
        ),
        lambda x: [w[:1].upper() + w[1:] for w in x],
        wrong=(lambda x: [w.upper() for w in x],),
    ),
    Operation(
        "words-sort",
        "words",
        "words",
        no_params,
        "x = sorted(x)",
        ("sort the words in Python's order of strings", "order the words as Python compares strings, smallest first"),
        sorted,
        wrong=(lambda x: sorted(x, key=len), lambda x: sorted(x, reverse=True)),
    ),
    Operation(
        "words-distinct",
        "words",
        "words",
        no_params,
        "x = list(dict.fromkeys(x))",
        ("remove repeated words, keeping the first of each", "keep a word only where it occurs for the first time"),
        lambda x: list(dict.fromkeys(x)),
        wrong=(lambda x: list(dict.fromkeys(x[::-1]))[::-1],),
    ),
    Operation(
        "words-drop",
        "words",
        "words",
        between(2, 3),
        "x = x[{0}:]",
        (
            "drop the first {0} of the words (all, if there are not more)",
            "remove {0} words from the front, or all of them if there are fewer",
        ),
        lambda x, k: x[k:],
        near=((1,), (-1,)),
    ),
    Operation(
        "prefix",
        "words",
        "words",
        between(2, 4),
        "x = [w[:{0}] for w in x]",
        (
            "cut each word down to its first {0} characters (a shorter word stays whole)",
            "shorten every word that has more than {0} characters to the first {0}",
        ),
        lambda x, k: [w[:k] for w in x],
        near=((1,), (-1,)),
    ),
    Operation(
        "join",
        "words",
        "text",
        separator,
        "x = {0!r}.join(x)",
        (
            "join the words into a string, with {0!r} between them",
            "write the words one after the other, separated by {0!r}",
        ),
        lambda x, s: s.join(x),
        wrong=(lambda x, s: "".join(x), lambda x, s: "".join(w + s for w in x)),
    ),
    Operation(
        "initials",
        "words",
        "text",
        no_params,
        "x = ''.join(w[:1] for w in x)",
        ("form a string of the first characters of the words", "put the initials of the words together"),
        lambda x: "".join(w[:1] for w in x),
        wrong=(lambda x: "".join(w[-1:] for w in x),),
    ),
    Operation(
        "longest",
        "words",
        "text",
        no_params,
        "x = max(x, key=len, default='')",
        (
            "take the longest word, of several the first (the empty string if there is none)",
            "find the word with the "
            "most characters; among equals the earliest counts, and without any word it is the empty string",
        ),
        lambda x: max(x, key=len, default=""),
        wrong=(lambda x: max(x[::-1], key=len, default=""),),
    ),
    Operation(
        "lengths",
        "words",
        "numbers",
        no_params,
        "x = [len(w) for w in x]",
        ("list the lengths of the words", "replace each word by the number of its characters"),
        lambda x: [len(w) for w in x],
        wrong=(lambda x: [len(w) + 1 for w in x],),
    ),
    Operation(
        "all-characters",
        "words",
        "number",
        no_params,
        "x = sum(len(w) for w in x)",
        ("count the characters of all words together", "add up the lengths of the words (0 if there are none)"),
        lambda x: sum(map(len, x)),
        wrong=(len, lambda x: sum(map(len, x)) + max(0, len(x) - 1)),
    ),
)
"""On lists of words."""

SIMULATIONS = (
    Operation(
        "robot",
        "moves",
        "numbers",
        lambda rng: (rng.randint(1, 5), rng.randint(1, 5)),
        "x = [{0} * (x.count('R') - x.count('L')), {1} * (x.count('U') - x.count('D'))]",
        (
            "a robot starts at (0, 0) and obeys the letters one by one: R adds {0} to its first coordinate and L "
            "takes "
            "{0} away, U adds {1} to the second and D takes {1} away; list its two coordinates at the end",
            "somebody "
            "walks from the origin, each R or L going {0} to the right or left and each U or D going {1} up or down; "
            "give the final x and y as a list",
        ),
        _robot,
        near=((1, 0), (0, 1)),
        wrong=(lambda x, a, b: _robot(x[:-1], a, b),),
    ),
    Operation(
        "walled",
        "moves",
        "numbers",
        between(1, 3),
        "a = b = 0\nfor c in x:\n    a = min(max(a + (c == 'R') - (c == 'L'), -{0}), {0})\n"
        "    b = min(max(b + (c == 'U') - (c == 'D'), -{0}), {0})\nx = [a, b]",
        (
            "a robot starts at (0, 0) and obeys the letters one by one: R and L change its first coordinate by +1 "
            "and -1, "
            "U and D the second, but a move that would bring a coordinate below -{0} or above {0} is not made; list "
            "its "
            "two coordinates at the end",
            "somebody walks inside a square whose coordinates go from -{0} to {0}, from its "
            "middle: R and L are one step in x (+1 and -1), U and D in y, and a step out of the square is skipped; "
            "give "
            "the final x and y as a list",
        ),
        _walled,
        near=((1,),),
        wrong=(lambda x, k: _robot(x, 1, 1),),
    ),
    Operation(
        "heights",
        "moves",
        "numbers",
        between(-5, 9),
        "heights = [{0}]\nfor c in x:\n    if c == 'U':\n        heights.append(heights[-1] + 1)\n"
        "    if c == 'D':\n        heights.append(heights[-1] - 1)\nx = heights",
        (
            "a lift starts at height {0}; each U moves it up by 1 and each D down by 1, and L and R do nothing; "
            "list the "
            "height at the start and after each U or D",
            "record heights, beginning with {0}: at every U note one more "
            "than the last one noted, at every D one less, and ignore the other letters; take the whole record",
        ),
        _path,
        near=((1,),),
        wrong=(lambda x, k: _path(x, k)[1:],),
    ),
    Operation(
        "hail",
        "n",
        "numbers",
        lambda rng: (rng.randint(4, 8), rng.choice((3, 5))),
        "numbers = [x]\nfor _ in range({0}):\n    last = numbers[-1]\n"
        "    numbers.append(last // 2 if last % 2 == 0 else {1} * last + 1)\nx = numbers",
        (
            "list the number and then, {0} times, the next one, which is half of the last if that is even and else "
            "{1} "
            "times the last plus 1",
            "begin a list with the number and append to it {0} times: half the last entry where "
            "it is even, and {1} times it plus 1 where it is odd",
        ),
        _hail,
        near=((1, 0), (0, 1)),
    ),
    Operation(
        "digits",
        "n",
        "numbers",
        no_params,
        "x = [int(c) for c in str(x)]",
        (
            "list the decimal digits of the number from left to right",
            "write down the digits of the number in base ten, the most significant first",
        ),
        lambda x: [int(c) for c in str(x)],
        wrong=(lambda x: [int(c) for c in reversed(str(x))],),
    ),
    Operation(
        "down",
        "n",
        "numbers",
        between(2, 6),
        "x = list(range(x, 0, -{0}))",
        (
            "count down from the number in steps of {0} as long as the result is positive, and list all these "
            "numbers, "
            "the first included",
            "list the number and what is left when {0} is subtracted again and again, up to the last positive value",
        ),
        lambda x, k: list(range(x, 0, -k)),
        near=((1,),),
        wrong=(lambda x, k: list(range(x, -1, -k))[1:],),
    ),
)
"""On a string of moves (letters L, R, U and D) or a positive number; they come first in a function."""
