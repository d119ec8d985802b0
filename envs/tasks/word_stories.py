"""Stories for WordProblems: a chain of computations and the sentences that tell it.

A story is built forwards. Each sentence brings one number and one operation, its value is computed as it is told, and
the answer is the last value, so sentences and answer cannot disagree. Of every phrase there is one that only the
variant `wording` uses. Names and things are not part of the problem: two stories that differ in nothing else have
the same key.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

# Thirteen, a prime: any stride goes through all of them.
NAMES = (
    "Ada",
    "Ben",
    "Carla",
    "Dmitri",
    "Elif",
    "Femi",
    "Grace",
    "Hugo",
    "Ines",
    "Jun",
    "Kofi",
    "Lena",
    "Mira",
)
ITEMS = ("stamps", "marbles", "shells", "stickers", "coins", "beads", "pencils", "buttons")
GOODS = ("books", "lamps", "chairs", "plants", "mugs", "shirts", "towels", "plates")
PARTS = ("screws", "bolts", "wheels", "candles", "springs")
SHARES = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth"}
TIMES = {2: "twice", 3: "three times", 4: "four times", 5: "five times"}
_DRAWS = 1_000

USUAL: dict[str, tuple[str, ...]] = {
    "own": ("{a} has {k} {items}.", "{a} owns {k} {items}."),
    "more": ("{b} has {k} more {items} than {a}.", "{b} owns {k} more than {a}."),
    "fewer": ("{b} has {k} fewer {items} than {a}.", "{b} owns {k} fewer than {a}."),
    "as many": ("{b} has {times} as many {items} as {a}.", "{b} owns {times} as many as {a}."),
    "a part": ("{b} has {share} as many {items} as {a}.", "{b} owns only {share} as many as {a}."),
    "last?": ("How many {items} does {a} have?", "How many {items} does {a} own?"),
    "total?": ("How many {items} do they have altogether?", "How many {items} is that in total?"),
    "gap?": ("How many more {items} does {a} have than {b}?",),
    "get": ("{a} buys {k} more {items}.", "Then {a} gets {k} more {items} as a present."),
    "give": ("{a} gives {k} {items} to {b}.", "Then {a} sells {k} {items}."),
    "bags": ("{a} receives {m} bags with {k} {items} each.", "Then {b} brings {a} {m} bags of {k} {items} each."),
    "keep": ("{a} keeps only {share} of the {items}.", "Then {a} gives the {items} away, all but {share} of them."),
    "grow": (
        "{a} goes on until there are {times} as many {items} as before.",
        "Soon {a} has {times} as many {items} as before.",
    ),
    "end?": ("How many {items} does {a} have in the end?", "How many {items} does {a} have then?"),
    "bill": ("{a} buys {m} {goods} at {k} dollars each.", "{a} orders {m} {goods} for {k} dollars each."),
    "also": ("{a} also buys {m} {goods} at {k} dollars each.", "{a} also orders {m} {goods} for {k} dollars each."),
    "coupon": ("A coupon takes {k} dollars off.", "The seller asks {k} dollars less."),
    "delivery": ("Delivery costs {k} dollars.", "Gift wrapping adds {k} dollars."),
    "discount": ("Then {k} percent is taken off the bill.", "Then there is a discount of {k} percent on the bill."),
    "pay?": ("How many dollars does {a} pay?", "How many dollars is that in all?"),
    "change?": ("{a} pays with {k} dollars. How many dollars does {a} get back?",),
    "split?": ("{k} friends split the bill equally. How many dollars does each of them pay?",),
    "machine": ("A machine makes {k} {parts} per hour.",),
    "hours": ("The machine runs for {k} hours.", "The machine works {k} hours."),
    "second": ("A second machine adds {k} {parts}.", "Another {k} {parts} from yesterday are added."),
    "faulty": ("{k} {parts} are faulty and thrown away.", "{k} of the {parts} break."),
    "boxes": ("The {parts} are packed into boxes of {k}.", "All {parts} are packed, {k} to a box."),
    "price": ("Each box is sold for {k} dollars.", "Every box brings {k} dollars."),
    "costs": ("Power costs {k} dollars of this income.", "The landlord gets {k} dollars of this income."),
    "workers": (
        "The rest of the income is shared equally by {k} workers.",
        "{k} workers divide the rest of the income equally.",
    ),
    "hours?": ("How many {parts} is that?",),
    "second?": ("How many {parts} are there now?",),
    "faulty?": ("How many {parts} are left?",),
    "boxes?": ("How many boxes are filled?",),
    "price?": ("How many dollars come in?",),
    "costs?": ("How many dollars remain?",),
    "workers?": ("How many dollars does each worker get?",),
}
"""Phrases by what they tell; those with a question mark end a story."""

OTHER: dict[str, tuple[str, ...]] = {
    "own": ("There are {k} {items} in the drawer of {a}.",),
    "more": ("{a} is {k} {items} short of what {b} has.",),
    "fewer": ("{a} is ahead of {b} by {k} {items}.",),
    "as many": ("For each of the {items} of {a}, {b} has {k}.",),
    "a part": ("For every {k} {items} of {a}, {b} has just one.",),
    "last?": ("Count the {items} of {a}.",),
    "total?": ("If all of them put their {items} in one pile, how large is it?",),
    "gap?": ("By how many {items} is {a} ahead of {b}?",),
    "get": ("Another {k} {items} come in.",),
    "give": ("Afterwards {k} {items} get lost.",),
    "bags": ("After that {m} parcels arrive, every one holding {k} {items}.",),
    "keep": ("Next the {items} are dealt out evenly to {k} people, {a} being one of them; only that share stays.",),
    "grow": ("Next the number of {items} is multiplied by {k}.",),
    "end?": ("What number of {items} is {a} left with?",),
    "bill": ("On the bill of {a} stand {m} {goods}, {k} dollars apiece.",),
    "also": ("The bill also lists {m} {goods} for {k} dollars apiece.",),
    "coupon": ("Of the bill, {k} dollars are waived.",),
    "delivery": ("A fee of {k} dollars comes on top.",),
    "discount": ("The bill is then cut by {k} percent.",),
    "pay?": ("What does {a} owe, in dollars?",),
    "change?": ("Of {k} dollars in the purse of {a}, how many are left?",),
    "split?": ("What is the share of each, in dollars, if {k} people pay equal parts?",),
    "machine": ("Every hour {k} {parts} leave a machine.",),
    "hours": ("The machine is switched on for {k} hours.",),
    "second": ("The store room supplies {k} {parts} more.",),
    "faulty": ("An inspector removes {k} {parts}.",),
    "boxes": ("A box takes {k} {parts}, and every one is filled.",),
    "price": ("The buyer pays {k} dollars a box.",),
    "costs": ("Rent takes {k} dollars away from the income.",),
    "workers": ("What remains of the income goes to {k} workers in equal parts.",),
    "hours?": ("Count the {parts}.",),
    "second?": ("Count all {parts}.",),
    "faulty?": ("Count the {parts} that remain.",),
    "boxes?": ("Count the boxes.",),
    "price?": ("What is the income, in dollars?",),
    "costs?": ("What is kept of the income, in dollars?",),
    "workers?": ("What does a worker receive, in dollars?",),
}
ASIDES = ("{a} is {k} years old.", "The house of {a} has {k} windows.", "{a} lives {k} minutes away from the station.")
"""Sentences that have nothing to do with the question."""


@dataclass(frozen=True, slots=True)
class Step:
    """One computation of a story."""

    expression: str
    value: int | Fraction


class _Misfit(Exception):
    """The numbers drawn do not fit together (nothing to divide, too little to take away): draw again."""


class Story:
    """A story as it is being told; `value` is what the last sentence computed."""

    def __init__(self, rng: random.Random, numbers: tuple[int, int], reworded: bool) -> None:
        self.rng = rng
        self.low, self.high = numbers
        self.phrases = OTHER if reworded else USUAL
        first, stride = rng.randrange(len(NAMES)), rng.randrange(1, len(NAMES))
        self.names = [NAMES[(first + i * stride) % len(NAMES)] for i in range(len(NAMES))]
        self.words = {"items": rng.choice(ITEMS), "goods": rng.choice(GOODS), "parts": rng.choice(PARTS)}
        self.sentences: list[str] = []
        self.steps: list[Step] = []
        self.key: list[str] = []
        self.numbers: list[int] = []
        self.value: int | Fraction = 0

    def say(self, phrase: str, **fields: object) -> None:
        """Add one of the phrases of that name, its numbers and names filled in."""
        text = self.rng.choice(self.phrases[phrase])
        self.sentences.append(text.format(**({"a": self.names[0], "b": self.names[1]} | self.words | fields)))
        self.key.append(" ".join([phrase, *(str(fields[name]) for name in "mk" if name in fields)]))

    def start(self, phrase: str, number: int) -> None:
        """Begin with a number that nothing computes."""
        self.say(phrase, k=number)
        self.numbers.append(number)
        self.value = number

    def compute(self, expression: str, value: int | Fraction, *numbers: int) -> None:
        """Add a step; `numbers` are those of the text that it brings in."""
        if not 0 < value <= 50 * self.high:
            raise _Misfit
        self.steps.append(Step(expression, value))
        self.numbers += numbers
        self.value = value

    def number(self) -> int:
        """Draw a number of the story."""
        return self.rng.randint(self.low, self.high)

    def add(self, phrase: str, **names: str) -> None:
        """Tell of so many more."""
        k = self.number()
        self.compute(f"{self}+{k}", self.value + k, k)
        self.say(phrase, k=k, **names)

    def subtract(self, phrase: str, **names: str) -> None:
        """Tell of so many fewer; something is left."""
        most = min(self.high, int(self.value) - 2)
        if most < self.low:
            raise _Misfit
        k = self.rng.randint(self.low, most)
        self.compute(f"{self}-{k}", self.value - k, k)
        self.say(phrase, k=k, **names)

    def multiply(self, phrase: str, most: int = 5, **names: str) -> None:
        """Tell of several times as much."""
        k = self.rng.randint(2, most)
        self.compute(f"{self}*{k}", self.value * k, k)
        self.say(phrase, k=k, times=TIMES.get(k), **names)

    def divide(self, phrase: str, most: int = 5, whole: bool = True, **names: str) -> None:
        """Tell of one of several equal parts, by default a whole number."""
        fitting = [k for k in range(2, most + 1) if not whole or self.value % k == 0]
        if not fitting:
            raise _Misfit
        k = self.rng.choice(fitting)
        self.compute(f"{self}/{k}", _over(self.value, k), k)
        self.say(phrase, k=k, share=SHARES.get(k), **names)

    def add_lots(self, phrase: str, most: int, **names: str) -> None:
        """Tell of several lots of so many each."""
        m, k = self.rng.randint(2, most), self.rng.randint(2, 20)
        self.compute(f"{self}+{m}*{k}" if self.value else f"{m}*{k}", self.value + m * k, m, k)
        self.say(phrase, m=m, k=k, **names)

    def discount(self, phrase: str) -> None:
        """Tell of some percent less; what is left has no fractions of a cent."""
        k = self.rng.choice((10, 20, 25, 50))
        value = _over(self.value * (100 - k), 100)
        if 100 % value.denominator:
            raise _Misfit
        self.compute(f"{self}*{100 - k}/100", value, k)
        self.say(phrase, k=k)

    def one_of(self, ways: Sequence[Callable[..., None]], **names: str) -> None:
        """Go on in one of several ways, at random among those that fit."""
        first = self.rng.randrange(len(ways))
        for way in (*ways[first:], *ways[:first]):
            try:
                return way(**names)
            except _Misfit:
                continue
        raise _Misfit

    def __str__(self) -> str:
        """Write the value as it may stand in an expression."""
        return str(self.value) if isinstance(self.value, int) else f"({self.value})"


def _over(value: int | Fraction, divisor: int) -> int | Fraction:
    """Divide exactly; whole numbers stay integers, which are a good deal quicker than fractions."""
    quotient = Fraction(value, divisor)
    return quotient.numerator if quotient.denominator == 1 else quotient


def tell(rng: random.Random, steps: int, numbers: tuple[int, int], reworded: bool, asides: int) -> Story:
    """Draw a story of that many steps.

    Raises:
        RuntimeError: No draw fits: the parameters ask for the impossible.
    """
    for _ in range(_DRAWS):
        story = Story(rng, numbers, reworded)
        kind = rng.choice((_comparison, _history, _purchase, _production))
        story.key.append(kind.__name__.strip("_"))
        try:
            kind(story, steps)
        except _Misfit:
            continue
        for _ in range(asides):
            text = rng.choice(ASIDES).format(a=story.names[-1], k=rng.randint(5, 90))
            story.sentences.insert(rng.randrange(1, len(story.sentences)), text)
        return story
    raise RuntimeError(f"no story found in {_DRAWS} draws; change the number of steps or the range of numbers")


def _comparison(story: Story, steps: int) -> None:
    """Several people, each with a number of things that depends on that of the one before."""
    story.start("own", story.number())
    values = [story.value]
    ask = story.rng.choice(("last?", "total?", "gap?"))
    ways = (
        partial(story.add, "more"),
        partial(story.subtract, "fewer"),
        partial(story.multiply, "as many"),
        partial(story.divide, "a part"),
    )
    for i in range(steps - (ask != "last?")):
        story.one_of(ways, a=story.names[i], b=story.names[i + 1])
        values.append(story.value)
    last = story.names[len(values) - 1]
    if ask == "last?":
        story.say(ask, a=last)
    elif ask == "total?":
        story.say(ask)
        story.compute("+".join(map(str, values)), sum(values))
    else:
        (less, loser), (more, winner) = sorted([(values[0], story.names[0]), (values[-1], last)])
        story.say(ask, a=winner, b=loser)
        story.compute(f"{more}-{less}", more - less)


def _history(story: Story, steps: int) -> None:
    """One person, whose number of things changes."""
    story.start("own", story.number())
    ways = (
        partial(story.add, "get"),
        partial(story.subtract, "give"),
        partial(story.multiply, "grow"),
        partial(story.divide, "keep"),
        partial(story.add_lots, "bags", 6),
    )
    for _ in range(steps):
        story.one_of(ways)
    story.say("end?")


def _purchase(story: Story, steps: int) -> None:
    """A bill that grows and shrinks, and who pays it."""
    goods = story.rng.sample(GOODS, len(GOODS))
    story.words["goods"] = goods.pop()
    story.add_lots("bill", min(story.high, 30))
    ask = story.rng.choice(("pay?", "change?", "split?"))
    ways = (
        lambda: story.add_lots("also", 9, goods=goods.pop()),
        partial(story.subtract, "coupon"),
        partial(story.add, "delivery"),
        partial(story.discount, "discount"),
    )
    for _ in range(steps - 1 - (ask != "pay?")):
        story.one_of(ways)
    if ask == "pay?":
        story.say(ask)
    elif ask == "split?":
        story.divide(ask, 6, whole=False)
    else:
        k = int(story.value) + story.number()
        story.say(ask, k=k)
        story.compute(f"{k}-{story}", k - story.value, k)


def _production(story: Story, steps: int) -> None:
    """What a machine makes, packed, sold and shared: as many of the stages as there are steps."""
    story.start("machine", story.number())
    story.multiply("hours", 9)
    extras = story.rng.randint(max(0, steps - 5), min(2, steps - 1))
    for phrase in story.rng.sample(("second", "faulty"), extras):
        (story.add if phrase == "second" else story.subtract)(phrase)
    stages = (
        partial(story.divide, "boxes", 12),
        partial(story.multiply, "price", 20),
        partial(story.subtract, "costs"),
        partial(story.divide, "workers", 6, whole=False),
    )
    for stage in stages[: steps - 1 - extras]:
        stage()
    story.say(f"{story.key[-1].split()[0]}?")
