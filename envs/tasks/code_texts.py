"""The operations on strings that PythonCoding trains on; see `code_steps`."""

from itertools import groupby

from palestra.envs.tasks.code_steps import Operation, between, no_params

_VOWELS = "aeiouAEIOU"
_LETTERS = "aeilnorst"


def _shift(x: str, k: int) -> str:
    return "".join(chr((ord(c) - 97 + k) % 26 + 97) if "a" <= c <= "z" else c for c in x)


def _chunks(x: str, k: int) -> list[str]:
    return [x[i : i + k] for i in range(0, len(x), k)]


def _places(x: str, first: int = 1) -> list[int]:
    return [ord(c) - 97 + first for c in x.lower() if "a" <= c <= "z"]


TEXT_OPERATIONS = (
    Operation(
        "text-reverse",
        "text",
        "text",
        no_params,
        "x = x[::-1]",
        ("reverse the string", "write the characters in the opposite order"),
        lambda x: x[::-1],
    ),
    Operation(
        "upper",
        "text",
        "text",
        no_params,
        "x = x.upper()",
        ("turn all letters into capitals", "replace every small letter by the capital one"),
        str.upper,
        wrong=(str.title,),
    ),
    Operation(
        "swap-case",
        "text",
        "text",
        no_params,
        "x = x.swapcase()",
        ("turn small letters into capitals and capitals into small letters", "exchange upper and lower case"),
        str.swapcase,
        wrong=(str.lower,),
    ),
    Operation(
        "no-vowels",
        "text",
        "text",
        no_params,
        "x = ''.join(c for c in x if c not in 'aeiouAEIOU')",
        (
            "remove the vowels a, e, i, o and u, also as capitals",
            "delete every a, e, i, o and u, whether small or capital",
        ),
        lambda x: "".join(c for c in x if c not in _VOWELS),
        wrong=(lambda x: "".join(c for c in x if c in _VOWELS),),
    ),
    Operation(
        "text-every",
        "text",
        "text",
        between(2, 3),
        "x = x[::{0}]",
        (
            "keep only the characters at the positions 0, {0}, 2 * {0} and so on, counted from 0",
            "starting with the first character, take one and skip the {0} - 1 that follow, again and again",
        ),
        lambda x, k: x[::k],
        wrong=(lambda x, k: x[k - 1 :: k],),
    ),
    Operation(
        "text-drop",
        "text",
        "text",
        between(2, 5),
        "x = x[{0}:]",
        (
            "drop the first {0} of the characters (all, if there are not more)",
            "remove {0} characters from the front, or all of them if there are fewer",
        ),
        lambda x, k: x[k:],
        near=((1,), (-1,)),
    ),
    Operation(
        "replace",
        "text",
        "text",
        lambda rng: tuple(rng.sample(_LETTERS, 2)),
        "x = x.replace({0!r}, {1!r})",
        ("replace every small letter {0} by {1}", "wherever a small {0} stands, put {1} in its place"),
        lambda x, a, b: x.replace(a, b),
        wrong=(lambda x, a, b: x.replace(a, b, 1), lambda x, a, b: x.replace(b, a)),
    ),
    Operation(
        "shift",
        "text",
        "text",
        between(1, 9),
        "x = ''.join(chr((ord(c) - 97 + {0}) % 26 + 97) if 'a' <= c <= 'z' else c for c in x)",
        (
            "move every small letter {0} places on in the alphabet, where a follows z, and leave the rest alone",
            "encrypt the small letters (and nothing else) by a Caesar cipher with a shift of {0}",
        ),
        _shift,
        near=((1,), (-1,)),
    ),
    Operation(
        "collapse",
        "text",
        "text",
        no_params,
        "x = ''.join(c for i, c in enumerate(x) if i == 0 or x[i - 1] != c)",
        (
            "wherever a character stands several times in a row, keep one of them",
            "remove each character that is the same as the one before it",
        ),
        lambda x: "".join(c for c, _ in groupby(x)),
        wrong=(lambda x: "".join(dict.fromkeys(x)),),
    ),
    Operation(
        "double",
        "text",
        "text",
        between(2, 3),
        "x = ''.join(c * {0} for c in x)",
        ("write each character {0} times in a row", "replace each character by {0} copies of it"),
        lambda x, k: "".join(c * k for c in x),
        near=((1,),),
        wrong=(lambda x, k: x * k,),
    ),
    Operation(
        "characters",
        "text",
        "number",
        no_params,
        "x = len(x)",
        ("count the characters", "take the length of the string"),
        len,
        wrong=(lambda x: len(x) + 1, lambda x: len(x.replace(" ", "")), lambda x: len(set(x))),
    ),
    Operation(
        "vowels",
        "text",
        "number",
        no_params,
        "x = sum(c in 'aeiouAEIOU' for c in x)",
        (
            "count the vowels a, e, i, o and u, also as capitals",
            "find how often a, e, i, o or u occurs, small or capital",
        ),
        lambda x: sum(c in _VOWELS for c in x),
        wrong=(lambda x: sum(c not in _VOWELS for c in x), lambda x: len(set(x) & set(_VOWELS))),
    ),
    Operation(
        "letter-sum",
        "text",
        "number",
        no_params,
        "x = sum(ord(c) - 96 for c in x.lower() if 'a' <= c <= 'z')",
        (
            "add up the places of the letters in the alphabet, where a and A count 1 and z and Z count 26, and "
            "everything "
            "else counts nothing",
            "give each letter a to z, small or capital, its number from 1 to 26 and form the sum",
        ),
        lambda x: sum(_places(x)),
        wrong=(lambda x: sum(_places(x, 0)), lambda x: sum(_places(x)) - len(x)),
    ),
    Operation(
        "split",
        "text",
        "words",
        no_params,
        "x = x.split()",
        (
            "split the string into the non-empty parts between blanks",
            "cut the string at its blanks, into non-empty parts",
        ),
        str.split,
        wrong=(lambda x: x.split()[1:], lambda x: x.split()[::-1]),
    ),
    Operation(
        "chunks",
        "text",
        "words",
        between(2, 4),
        "x = [x[i:i + {0}] for i in range(0, len(x), {0})]",
        (
            "cut the string into pieces of {0} characters, of which the last may be shorter",
            "split the string after every {0} characters; what is left at the end is a piece too",
        ),
        _chunks,
        near=((1,),),
        wrong=(lambda x, k: [p for p in _chunks(x, k) if len(p) == k],),
    ),
    Operation(
        "places",
        "text",
        "numbers",
        no_params,
        "x = [ord(c) - 96 for c in x.lower() if 'a' <= c <= 'z']",
        (
            "list the places of the letters in the alphabet, 1 for a and A to 26 for z and Z, leaving out what is no "
            "letter",
            "replace each letter a to z, small or capital, by its number from 1 to 26, and drop everything else",
        ),
        _places,
        wrong=(lambda x: _places(x, 0),),
    ),
)
