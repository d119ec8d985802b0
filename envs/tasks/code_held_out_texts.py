"""The other operations that no training variant of PythonCoding contains; see `code_steps`."""

from itertools import groupby

from palestra.envs.tasks.code_steps import Operation, between, no_params


def _lengths(x: str) -> str:
    return "".join(f"{len(list(group))}{c}" for c, group in groupby(x))


def _turtle(x: str, left: int = 1) -> list[int]:
    a, b, da, db = 0, 0, 0, 1
    for c in x:
        if c in "LR":
            turn = left if c == "L" else -left
            da, db = -db * turn, da * turn
        else:
            sign = 1 if c == "U" else -1
            a, b = a + sign * da, b + sign * db
    return [a, b]


HELD_OUT_TEXTS = (
    Operation(
        "run-lengths",
        "text",
        "text",
        no_params,
        "runs = []\nfor c in x:\n    if runs and runs[-1][1] == c:\n        runs[-1][0] += 1\n    else:\n        "
        "runs.append([1, c])\nx = ''.join(str(n) + c for n, c in runs)",
        (
            "replace each run of equal characters by its length, in decimal, followed by the character",
            "encode the string by run lengths: for equal characters in a row write how many there are and then the "
            "character once",
        ),
        _lengths,
        wrong=(lambda x: "".join(c for c, _ in groupby(x)),),
    ),
    Operation(
        "mirror",
        "text",
        "text",
        no_params,
        "x = x + x[::-1]",
        ("append the reversed string to the string", "write the string and then once more backwards"),
        lambda x: x + x[::-1],
        wrong=(lambda x: x + x[-2::-1], lambda x: x + x),
    ),
    Operation(
        "vowel-case",
        "text",
        "text",
        no_params,
        "x = ''.join(c.upper() if c in 'aeiou' else c for c in x)",
        (
            "turn the small vowels a, e, i, o and u into capitals",
            "write every small a, e, i, o or u as a capital and change nothing else",
        ),
        lambda x: "".join(c.upper() if c in "aeiou" else c for c in x),
        wrong=(str.upper,),
    ),
    Operation(
        "text-rotate",
        "text",
        "text",
        between(1, 4),
        "k = {0} % len(x) if x else 0\nx = x[k:] + x[:k]",
        (
            "move the first character to the end of the string, {0} times in all (an empty string stays empty)",
            "rotate the string to the left by {0} places",
        ),
        lambda x, k: x[k % len(x) :] + x[: k % len(x)] if x else x,
        near=((1,),),
        wrong=(lambda x, k: x[-k % len(x) :] + x[: -k % len(x)] if x else x,),
    ),
    Operation(
        "longest-run",
        "text",
        "number",
        no_params,
        "best = run = 0\nfor i, c in enumerate(x):\n    run = run + 1 if i and c == x[i - 1] else 1\n    best = "
        "max(best, run)\nx = best",
        (
            "count the characters in the longest run of equal characters (0 if there are no characters)",
            "find how many times at most one character stands in a row, or 0 if the string is empty",
        ),
        lambda x: max((len(list(g)) for _, g in groupby(x)), default=0),
        wrong=(lambda x: max((x.count(c) for c in x), default=0), lambda x: sum(1 for _ in groupby(x))),
    ),
    Operation(
        "code-points",
        "text",
        "numbers",
        no_params,
        "x = [ord(c) for c in x]",
        ("list the Unicode code points of the characters", "replace each character by its number in Unicode"),
        lambda x: [ord(c) for c in x],
        wrong=(lambda x: [ord(c) - 96 for c in x],),
    ),
    Operation(
        "words-by-length",
        "words",
        "words",
        no_params,
        "x = sorted(x, key=len)",
        (
            "sort the words by length, shortest first; words of equal length keep their order",
            "order the words by the number of their characters, in a stable way and with the shortest first",
        ),
        lambda x: sorted(x, key=len),
        wrong=(sorted,),
    ),
    Operation(
        "words-swap",
        "words",
        "words",
        no_params,
        "x = x[1::-1] + x[2:]",
        (
            "exchange the first two words (if there are at least two)",
            "let the first word and the second change places; a single word stays",
        ),
        lambda x: x[1::-1] + x[2:],
        wrong=(lambda x: x[::-1],),
    ),
    Operation(
        "chain",
        "words",
        "numbers",
        no_params,
        "x = [sum(a in w for w in x) for a in 'aeiou']",
        (
            "list for each of the letters a, e, i, o and u, in this order, how many words contain it as a small "
            "letter",
            "make a list of five counts: the words in which a small a occurs, those with e, with i, with o, and "
            "with u",
        ),
        lambda x: [sum(a in w for w in x) for a in "aeiou"],
        wrong=(lambda x: ["".join(x).count(a) for a in "aeiou"],),
    ),
    Operation(
        "turtle",
        "moves",
        "numbers",
        no_params,
        "a, b, da, db = 0, 0, 0, 1\nfor c in x:\n    if c == 'L':\n        da, db = -db, da\n    elif c == 'R':\n   "
        "     da, db = db, -da\n"
        "    elif c == 'U':\n        a, b = a + da, b + db\n    else:\n        a, b = a - da, b - db\nx = [a, b]",
        (
            "a robot stands at (0, 0) and looks along the second coordinate: L and R turn it by 90 degrees to the "
            "left and to the right, U and D move it by 1 forwards and backwards (when it looks to the right, "
            "forwards is +1 in the first coordinate); list its two coordinates at the end",
            "a turtle at the origin faces up the y axis; L is a quarter turn to the left and R one to the right, U "
            "is a step ahead and D a step back, each of length 1; give the final x and y as a list",
        ),
        _turtle,
        wrong=(lambda x: _turtle(x, -1), lambda x: [x.count("R") - x.count("L"), x.count("U") - x.count("D")]),
    ),
    Operation(
        "divisors",
        "n",
        "numbers",
        no_params,
        "x = [d for d in range(1, x + 1) if x % d == 0]",
        (
            "list all positive divisors of the number, from 1 to the number itself",
            "find every whole number from 1 on that divides the number without a remainder, in ascending order",
        ),
        lambda x: [d for d in range(1, x + 1) if x % d == 0],
        wrong=(lambda x: [d for d in range(1, x) if x % d == 0], lambda x: [d for d in range(2, x + 1) if x % d == 0]),
    ),
    Operation(
        "binary",
        "n",
        "numbers",
        no_params,
        "x = [int(c) for c in bin(x)[2:]]",
        (
            "list the binary digits of the number, the most significant first",
            "write the number in base two and list its digits from left to right",
        ),
        lambda x: [int(c) for c in f"{x:b}"],
        wrong=(lambda x: [int(c) for c in f"{x:b}"[::-1]],),
    ),
)
