"""GeneralPoints: four cards make 24; what a jack, a queen and a king count is the rule that variants change.

The task of "SFT Memorizes, RL Generalizes" (arXiv 2501.17161) with the variants of its answer (arXiv 2510.00237),
repaired:

- Exact fractions for making and grading tasks, so that 8/(3-8/3) makes 24 (a float grader calls it 23.999...).
- The verifier's feedback looks at no solution (`formula_game`).
- Hands are split by the multiset of their values: no held-out variant, whatever its rule, has a hand whose values
  make up a training hand. Half the hands that the originals test on were trained on.
- Every hand of a variant that changes the rule has a face card, and what is graded is what the prompt says. The
  original `fake` variant grades by the training rule against its own prompt; here its hands can be solved under
  both rules, the prompt's counts, and a first answer by the training rule is recorded as `clings`.

There are 566 solvable multisets of four values up to 10, so the splits are small. Different tasks per variant, by
key: train 221 (its values under another rule in `train-diverse`: 82,000 or so), test 161, wording 184, faces-11-12-13
414, fake 256, all-5 108, all-7 109, all-12 250, large 1,995, five-cards 1,961.
`train-diverse` states another rule in each task; variants `*-answers-only` have demonstrations without the working.
These are the arms of supervised training that a comparison with RL needs (frozen prompt, diverse prompts, worked).
"""

import random
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b

from palestra.envs.core import ProcessTerm, Task, Turn
from palestra.envs.expressions import ExpressionError, parse_formula
from palestra.envs.registry import register
from palestra.envs.tasks.formula_game import FormulaGame
from palestra.envs.tasks.formulas import explain, find, write

FACES = ("J", "Q", "K")
RANKS = ("A", *map(str, range(2, 11)), *FACES)
LARGE = tuple(map(str, range(14, 20)))
Rule = tuple[int, int, int]
"""What J, Q and K count."""
TENS: Rule = (10, 10, 10)
TRAIN, HELD_OUT = (0.0, 0.4), (0.4, 1.0)
_DRAWS = 100_000


@register(
    "palestra/GeneralPoints-v0",
    variants={
        "train": {},
        "test": {"share": (0.4, 0.7)},
        "wording": {"share": (0.7, 1.0), "reworded": True},
        "faces-11-12-13": {"rules": ((11, 12, 13),), "one_of": FACES, "share": (0.0, 0.5)},
        "fake": {"rules": ((11, 12, 13),), "one_of": FACES, "share": (0.5, 1.0), "tens_too": True},
        "all-5": {"rules": ((5, 5, 5),), "one_of": FACES, "share": HELD_OUT},
        "all-7": {"rules": ((7, 7, 7),), "one_of": FACES, "share": HELD_OUT},
        "all-12": {"rules": ((12, 12, 12),), "one_of": FACES, "share": (0.0, 1.0)},
        "large": {"ranks": RANKS + LARGE, "one_of": LARGE, "share": (0.0, 1.0)},
        "five-cards": {"cards": 5, "share": (0.0, 1.0)},
        "train-answers-only": {"worked": False},
        "train-diverse": {"rules": None, "one_of": FACES},
        "train-diverse-answers-only": {"rules": None, "one_of": FACES, "worked": False},
    },
)
class GeneralPoints(FormulaGame):
    """Make 24 from four playing cards; variants change what J, Q and K count. Five attempts with feedback."""

    instructions = (
        "Answer with one formula of the cards' numbers, + - * / and parentheses, for example (10-4)*(5-1). "
        "Write numbers, not the letters of the cards."
    )
    process_terms = {
        **FormulaGame.process_terms,
        "clings": ProcessTerm(-1.0, 0.0, "nothing: it only costs, whoever counts faces as 10 against the prompt"),
    }

    cards: int = 4
    target: int = 24
    ranks: Sequence[str] = RANKS
    """The cards to draw from, each equally likely."""
    one_of: Sequence[str] = RANKS
    """Every hand has at least one of these."""
    rules: Sequence[Rule] | None = (TENS,)
    """The rules to draw from; None for those of training with diverse prompts (see `diverse_rule`)."""
    tens_too: bool = False
    """Whether the hand must also be solvable if faces counted 10."""
    share: tuple[float, float] = TRAIN
    """The part [low, high) of the hashed value multisets that the variant draws from."""
    reworded: bool = False
    """Whether the task is put in words that training does not use."""

    def owns(self, key: str) -> bool:
        """All that is drawn: `sample` splits by the values of the cards; keys also hold the rule."""
        return True

    def sample(self, rng: random.Random) -> Task:
        """Draw a rule and a hand that can be solved and falls into the variant's share.

        Raises:
            RuntimeError: No draw fits: the variant's parameters ask for the impossible.
        """
        for _ in range(_DRAWS):
            hand = [rng.choice(self.ranks) for _ in range(self.cards)]
            rule = diverse_rule(rng) if self.rules is None else rng.choice(self.rules)
            values = [value_of(rank, rule) for rank in hand]
            if not any(rank in self.one_of for rank in hand) or not self._solvable(values):
                continue
            if self.tens_too and not self._solvable([value_of(rank, TENS) for rank in hand]):
                continue
            if self.share[0] <= split_position(tuple(sorted(values)), self.target) < self.share[1]:
                return self._task(hand, values, rule)
        raise RuntimeError(f"no task found in {_DRAWS} draws; this target can hardly be made from these cards")

    def process(self, task: Task, turns: Sequence[Turn]) -> dict[str, float]:
        """Besides `legal` and `close`: whether the first answer solves the hand with every face as 10 instead."""
        earned = super().process(task, turns)
        answers = [turn.answer for turn in turns if turn.answer is not None]
        if turns[-1].answer is not None and len(answers) == 1 and self._clings(task, answers[0]):
            earned["clings"] = -1.0
        return earned

    def working(self, task: Task) -> list[str]:
        """The numbers of the cards, then one line per operation."""
        hand, numbers = task.data["hand"], task.data["numbers"]
        cards = ", ".join(f"{rank} = {number}" for rank, number in zip(hand, numbers, strict=True))
        tree = find(tuple(sorted(numbers)), task.data["target"])
        assert tree is not None
        return [cards, *explain(tree, numbers)]

    def _solvable(self, values: Sequence[int]) -> bool:
        return find(tuple(sorted(values)), self.target) is not None

    def _clings(self, task: Task, answer: str) -> bool:
        tens = sorted(value_of(rank, TENS) for rank in task.data["hand"])
        try:
            formula = parse_formula(answer)
        except ExpressionError:
            return False
        differs = tens != sorted(task.data["numbers"])
        return differs and formula.value == task.data["target"] and sorted(formula.numbers) == tens

    def _task(self, hand: list[str], values: list[int], rule: Rule) -> Task:
        ordered = tuple(sorted(values))
        tree = find(ordered, self.target)
        assert tree is not None
        counts = " ".join(f"{face}={value}" for face, value in zip(FACES, rule, strict=True))
        return Task(
            prompt=_reworded(hand, rule, self.target) if self.reworded else _prompt(hand, rule, self.target),
            answer=write(tree),
            key=f"{counts}: {' '.join(map(str, ordered))} -> {self.target}",
            data={"hand": hand, "numbers": values, "target": self.target},
        )


def value_of(rank: str, rule: Rule) -> int:
    """Return what a card counts."""
    return rule[FACES.index(rank)] if rank in FACES else 1 if rank == "A" else int(rank)


def diverse_rule(rng: random.Random) -> Rule:
    """Draw a training rule: all faces alike or each its own, 2 to 10; never one of a held-out variant."""
    alike = rng.choice((2, 3, 4, 6, 8, 9, 10))
    jack, queen, king = rng.sample(range(2, 11), 3)
    return (alike, alike, alike) if rng.random() < 0.5 else (jack, queen, king)


@lru_cache(maxsize=100_000)
def split_position(values: tuple[int, ...], target: int) -> float:
    """Where a multiset of values lies in [0, 1): the same for every rule."""
    text = f"{' '.join(map(str, values))} -> {target}"
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64


def _prompt(hand: Sequence[str], rule: Rule, target: int) -> str:
    jack, queen, king = rule
    faces = (
        f"J, Q and K count as {jack}" if jack == queen == king else f"J counts as {jack}, Q as {queen}, K as {king}"
    )
    return (
        f"Cards: {', '.join(hand)}. {faces}, A counts as 1. "
        f"Use each card's number exactly once, with + - * / and parentheses, to make {target}."
    )


def _reworded(hand: Sequence[str], rule: Rule, target: int) -> str:
    jack, queen, king = rule
    worth = f"every jack, queen or king is worth {jack}"
    if not jack == queen == king:
        worth = f"a jack is worth {jack}, a queen {queen}, a king {king}"
    return (
        f"You hold {' '.join(hand)}. An ace is worth 1, and {worth}. Find an arithmetic expression with the value "
        f"{target} in which the number of every card you hold occurs, as often as you hold it, and no other number."
    )
