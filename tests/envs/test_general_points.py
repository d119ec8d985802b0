import itertools
import random
from fractions import Fraction
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palestra.envs import Task, Turn, make
from palestra.envs.expressions import parse_formula
from palestra.envs.tasks.formulas import Tree, combine, explain, find, random_tree, write
from palestra.envs.tasks.general_points import FACES, LARGE, diverse_rule, split_position, value_of

ID = "palestra/GeneralPoints-v0"
FIXED = {  # variant: (what J, Q and K count, different tasks as the module says)
    "train": ((10, 10, 10), 221),
    "test": ((10, 10, 10), 161),
    "wording": ((10, 10, 10), 184),
    "faces-11-12-13": ((11, 12, 13), 414),
    "fake": ((11, 12, 13), 256),
    "all-5": ((5, 5, 5), 108),
    "all-7": ((7, 7, 7), 109),
    "all-12": ((12, 12, 12), 250),
}


@cache
def makeable(values: tuple[int, ...]) -> frozenset[Fraction]:
    """All that some numbers can make, by combining any two of them until one is left."""
    found = set()

    def go(left: tuple[Fraction, ...]) -> None:
        if len(left) == 1:
            found.add(left[0])
        for i, j in itertools.permutations(range(len(left)), 2):
            rest = tuple(x for k, x in enumerate(left) if k not in (i, j))
            a, b = left[i], left[j]
            for value in [a + b] * (i < j) + [a * b] * (i < j) + [a - b] + ([a / b] if b else []):
                go((*rest, value))

    go(tuple(map(Fraction, values)))
    return frozenset(found)


def multisets(highest: int) -> list[tuple[int, ...]]:
    return list(itertools.combinations_with_replacement(range(1, highest + 1), 4))


def solvable(highest: int) -> list[tuple[int, ...]]:
    return [values for values in multisets(highest) if find(values, 24) is not None]


def test_566_of_the_715_multisets_up_to_ten_are_solvable_and_brute_force_agrees() -> None:
    everything = multisets(10)
    ours = solvable(10)
    assert (len(ours), len(everything)) == (566, 715)
    some = random.Random(0).sample(everything, 40)
    assert [values in ours for values in some] == [24 in makeable(values) for values in some]


@pytest.mark.slow
def test_brute_force_agrees_on_all_multisets_up_to_ten() -> None:
    assert solvable(10) == [values for values in multisets(10) if 24 in makeable(values)]


def test_1362_multisets_up_to_thirteen_are_solvable_796_of_them_with_a_face() -> None:
    ours = solvable(13)
    assert len(ours) == 1362
    with_face = [values for values in ours if values[-1] > 10]
    assert len(with_face) == 796
    assert sum(find(tuple(min(v, 10) for v in values), 24) is not None for values in with_face) == 529


def test_every_solution_makes_24_of_exactly_its_numbers() -> None:
    for values in solvable(13):
        tree = find(values, 24)
        assert tree is not None
        formula = parse_formula(write(tree))
        assert (formula.value, sorted(formula.numbers)) == (24, list(values))


def test_the_hand_that_floats_call_unsolvable_is_solved_and_accepted() -> None:
    tree = find((3, 3, 8, 8), 24)
    assert tree is not None
    assert write(tree) == "8/(3-8/3)"
    task = hand("3", "8", "3", "8")
    assert make(ID).grade(task, "8 / (3 - 8/3) = 24").outcome == 1.0


numbers = st.lists(st.integers(1, 13), min_size=1, max_size=6)


@given(numbers, st.integers())
def test_writing_a_tree_and_reading_it_gives_its_value(values: list[int], seed: int) -> None:
    def value_of_tree(tree: Tree) -> Fraction:
        if isinstance(tree, int):
            return Fraction(tree)
        value = combine(value_of_tree(tree[0]), tree[1], value_of_tree(tree[2]))
        assert value is not None
        return value

    tree = random_tree(values, random.Random(seed))
    formula = parse_formula(write(tree))
    assert formula.value == value_of_tree(tree)
    assert sorted(formula.numbers) == sorted(values)
    lines = explain(tree, values)
    assert len(lines) == len(values) - 1
    assert not lines or lines[-1].endswith(f"= {formula.value}")


def hand(*cards: str, rule: tuple[int, int, int] = (10, 10, 10)) -> Task:
    values = [value_of(card, rule) for card in cards]
    return Task("", "", "", {"hand": list(cards), "numbers": values, "target": 24})


def expected_keys(variant: str) -> set[tuple[int, ...]]:
    """The value multisets that a variant can ever draw, found by going through all hands."""
    env = make(ID, variant)
    rule, _ = FIXED[variant]
    found = set()
    for cards in itertools.combinations_with_replacement(env.ranks, 4):  # type: ignore[attr-defined]
        values = tuple(sorted(value_of(card, rule) for card in cards))
        tens = tuple(sorted(value_of(card, (10, 10, 10)) for card in cards))
        if env.one_of != env.ranks and not set(cards) & set(FACES):  # type: ignore[attr-defined]
            continue
        if find(values, 24) is not None and (variant != "fake" or find(tens, 24) is not None):
            found.add(values)
    return found


@pytest.mark.parametrize("variant", FIXED)
def test_a_variant_has_as_many_tasks_as_stated(variant: str) -> None:
    low, high = make(ID, variant).share  # type: ignore[attr-defined]
    _, count = FIXED[variant]
    assert count >= 100
    assert sum(low <= split_position(values, 24) < high for values in expected_keys(variant)) == count


@pytest.mark.parametrize("variant", FIXED)
def test_every_task_can_be_solved_under_its_rule(variant: str) -> None:
    env = make(ID, variant)
    rule, count = FIXED[variant]
    tasks = [env.task_at(index) for index in env.distinct_indices(count * 3 // 4)]
    assert {tuple(sorted(task.data["numbers"])) for task in tasks} <= expected_keys(variant)
    for task in tasks:
        assert task.data["numbers"] == [value_of(card, rule) for card in task.data["hand"]]


def test_no_held_out_variant_has_the_values_of_a_training_hand() -> None:
    def values(variant: str) -> set[tuple[int, ...]]:
        env = make(ID, variant)
        return {tuple(sorted(env.task_at(index).data["numbers"])) for index in range(800)}

    training = values("train") | values("train-diverse")
    for variant in make(ID).variants:
        if not variant.startswith("train"):
            assert not values(variant) & training, variant


@pytest.mark.parametrize("variant", ["faces-11-12-13", "fake", "all-5", "all-7", "all-12", "train-diverse"])
def test_where_the_rule_changes_every_hand_has_a_face_card(variant: str) -> None:
    env = make(ID, variant)
    assert all(set(env.task_at(index).data["hand"]) & set(FACES) for index in range(200))


def test_size_variants_are_larger() -> None:
    assert all(set(make(ID, "large").task_at(i).data["hand"]) & set(LARGE) for i in range(100))
    assert all(len(make(ID, "five-cards").task_at(i).data["hand"]) == 5 for i in range(100))


def test_diverse_rules_stay_within_the_numbers_of_training_and_off_the_held_out_rules() -> None:
    drawn = [diverse_rule(random.Random(seed)) for seed in range(2_000)]
    assert len(set(drawn)) > 300
    assert all(2 <= value <= 10 for rule in drawn for value in rule)
    assert not {(5, 5, 5), (7, 7, 7)} & set(drawn)


@pytest.mark.parametrize("variant", make(ID).variants)
def test_the_prompt_states_the_rule_that_is_graded(variant: str) -> None:
    env = make(ID, variant)
    for index in range(20):
        task = env.task_at(index)
        rule = task.key.split(":")[0].replace("J=", "").replace("Q=", "").replace("K=", "").split()
        if len(set(rule)) == 1:
            said = [f"J, Q and K count as {rule[0]}", f"every jack, queen or king is worth {rule[0]}"]
        else:
            said = ["J counts as {}, Q as {}, K as {}".format(*rule)]
        assert any(text in task.prompt for text in said)
        for card, number in zip(task.data["hand"], task.data["numbers"], strict=True):
            assert number == value_of(card, tuple(map(int, rule)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ("10*2+10-6", 1.0),
        ("10*2+4", 0.0),
        ("24", 0.0),
        ("10+10+2+6", 0.0),
        ("102-10*6", 0.0),
        ("K*2+Q-6", 0.0),
        ("10*2+10-6+2-2", 0.0),
        ("", 0.0),
    ],
)
def test_only_the_target_from_exactly_the_cards_counts(answer: str, outcome: float) -> None:
    assert make(ID).grade(hand("K", "2", "Q", "6"), answer).outcome == outcome


def play(variant: str, task: Task, *answers: str) -> list[tuple[str, float, bool, dict[str, float]]]:
    env = make(ID, variant)
    env.reset(options={"index": 0})
    env.task = task
    steps = []
    for answer in answers:
        observation, outcome, terminated, truncated, info = env.step(f"<answer>{answer}</answer>")
        steps.append((observation, outcome, terminated or truncated, info["reward"]["process"]))
    return steps


def test_feedback_says_what_is_wrong_with_the_formula() -> None:
    steps = play("train", hand("K", "2", "Q", "6"), "10*2+4", "10+10+2+6", "K+2", "2*10/(6-6)", "1")
    assert [text for text, *_ in steps] == [
        "Wrong: it uses 4, which you do not have (or not that often); it leaves out 6, 10. Try again.",
        "Wrong: it makes 28, not 24. Try again.",
        "Not a formula of numbers, + - * / and parentheses: unexpected 'K' in the expression. Try again.",
        "Not a formula of numbers, + - * / and parentheses: division by zero. Try again.",
        "",
    ]
    assert [over for _, _, over, _ in steps] == [False] * 4 + [True]


def test_feedback_does_not_depend_on_a_solution(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody_may_look(*_: object) -> Tree:
        raise AssertionError("feedback looked for a solution")

    env = make(ID)
    tasks = [env.task_at(index) for index in range(50)]
    for module in ("formulas", "general_points"):
        monkeypatch.setattr(f"palestra.envs.tasks.{module}.find", nobody_may_look)
    for task in tasks:
        blind = Task("", "", "", {k: task.data[k] for k in ("hand", "numbers", "target")})
        attempt = Turn("", answer=env.guess(task, random.Random(0)))
        assert env.feedback(blind, attempt) == env.feedback(task, attempt)


def test_an_attempt_after_feedback_still_counts_and_process_terms_are_paid_once() -> None:
    steps = play("train", hand("K", "2", "Q", "6"), "1+1", "10+10+2+6", "10+10+6/2", "10*2+10-6")
    assert [(outcome, process) for _, outcome, _, process in steps] == [
        (0.0, {}),
        (0.0, {"legal": 1.0}),
        (0.0, {"close": 1.0}),
        (1.0, {}),
    ]
    assert steps[-1][2]


def test_fake_hands_are_graded_by_the_prompt_and_clinging_to_the_training_rule_shows() -> None:
    task = hand("K", "9", "2", "3", rule=(11, 12, 13))
    clinging, right = "(10-9)*24", "2*3*(13-9)"
    assert make(ID, "fake").grade(task, right).outcome == 1.0
    assert "clings" not in play("fake", task, right)[0][3]
    tens = find((2, 3, 9, 10), 24)
    assert tens is not None
    first = play("fake", task, write(tens))[0]
    assert (first[1], first[3]) == (0.0, {"clings": -1.0})
    assert "clings" not in play("fake", task, clinging)[0][3]
    assert "clings" not in play("fake", task, "1", write(tens))[1][3]


def test_under_the_training_rule_nothing_clings() -> None:
    assert play("train", hand("K", "2", "Q", "6"), "10*2+10-6")[0][3] == {"legal": 1.0, "close": 1.0}


def test_demonstrations_work_the_formula_out_unless_they_are_answers_only() -> None:
    task = make(ID).task_at(1)
    worked, bare = (make(ID, v).solve(task).turns[0] for v in ("train", "train-answers-only"))
    assert bare == f"<answer>{task.answer}</answer>"
    assert worked.endswith(f"\n{bare}")
    assert "= 24\n" in worked
