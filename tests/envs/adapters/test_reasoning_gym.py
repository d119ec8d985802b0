"""The tasks of reasoning-gym: the package's scores where they are sound, and the same in every process."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

from palestra.envs import make, spec
from palestra.envs.adapters import reasoning_gym
from palestra.envs.adapters.reasoning_gym import table
from palestra.envs.adapters.reasoning_gym_process import WORKER, Worker, item, score
from palestra.envs.errors import MissingPrerequisiteError

pytest.importorskip("reasoning_gym")

from palestra.envs.adapters.reasoning_gym_repairs import GRADERS, KEYS, disarmed
from palestra.envs.adapters.reasoning_gym_worker import Suite

REGISTERED = sorted(name for name, row in table().items() if not row["withheld"])
HASH_DEPENDENT = (
    "intermediate_integration",
    "isomorphic_strings",
    "list_functions",
    "polynomial_multiplication",
    "puzzle24",
    "ransom_note",
)
NO_ORACLE = ("boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour")
HANDFUL = ("chain_sum", "acre", "gsm_symbolic", "n_queens", "spiral_matrix", "simple_integration", "word_ladder")
UNSAFE = ("countdown", "puzzle24", "intermediate_integration", "simple_integration", "polynomial_multiplication")
"""Their graders evaluate what they are given, and may take for ever."""
JUNK = ("", "zzz qqq", "0", "[]", "nan", "(", "{}", "'", "-1, 2", "True")


def env_of(task: str, variant: str = "train") -> Any:
    return make(f"palestra/rg/{task}-v0", variant)


# Registration.


def test_registering_imports_nothing_of_the_package() -> None:
    code = (
        "import sys, palestra.envs.adapters, palestra.envs as e\n"
        "assert 'reasoning_gym' not in sys.modules and 'textarena' not in sys.modules\n"
        "print(sum(s.id.startswith('palestra/rg/') for s in e.specs()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == len(REGISTERED)


def test_both_registries_know_an_environment() -> None:
    assert spec("palestra/rg/dice-v0").gymnasium_id == "palestra-rg/dice-v0"
    assert spec("palestra-rg/dice-v0") is spec("palestra/rg/dice-v0")
    env = gymnasium.make("palestra-rg/dice-v0", variant="test")
    assert "odds" in env.reset(seed=1)[0]


def test_every_task_is_registered_or_withheld_with_a_reason() -> None:
    from reasoning_gym.factory import DATASETS

    rows = table()
    assert set(rows) == DATASETS.keys() - {"composite"}
    assert all(len(row["withheld"]) > 20 for name, row in rows.items() if name not in REGISTERED)
    explained = reasoning_gym.__doc__ or ""
    for name in REGISTERED:
        assert rows[name]["oracle"] == 1.0
        assert rows[name]["same_everywhere"]
        assert all(f"`{flag}`" in explained for flag in rows[name]["flags"])
        assert spec(f"palestra/rg/{name}-v0").flags == tuple(rows[name]["flags"])


def test_another_version_of_the_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reasoning_gym, "version", lambda name: "0.0.1")
    reasoning_gym._require_package.cache_clear()
    with pytest.raises(MissingPrerequisiteError, match=r"found 0\.0\.1.*pip install"):
        env_of("dice")


# Every task.


def assert_sound(task: str, variant: str, count: int) -> None:
    env = env_of(task, variant)
    for index in range(count):
        env.reset(options={"index": index})
        (turn,) = env.solve(env.task).turns
        _, reward, terminated, _, info = env.step(turn)
        assert (reward, terminated) == (1.0, True)
        assert info["reward"]["process"] == {"partial": 1.0}


@pytest.mark.parametrize("task", [*HANDFUL, *NO_ORACLE])
def test_oracle_solves_three_tasks(task: str) -> None:
    assert_sound(task, "train", 3)


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("task", REGISTERED)
def test_oracle_solves_every_variant(task: str) -> None:
    for variant in spec(f"palestra/rg/{task}-v0").variants:
        assert_sound(task, variant, 3 if "slow" in table()[task]["flags"] else 20)


TASKS = """
import sys
from palestra.envs import make
import palestra.envs.adapters
for name in sys.argv[2:]:
    env = make(f"palestra/rg/{name}-v0")
    for index in range(int(sys.argv[1])):
        task = env.task_at(index)
        print(name, repr(task.prompt), task.key, repr(task.answer), env.grade(task, "1"))
"""


def printed(names: list[str], count: int, hash_seed: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", TASKS, str(count), *names],
        env={"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted(done.stdout.splitlines())


def test_tasks_that_depend_on_the_hash_seed_are_the_same_in_every_process() -> None:
    names = [name for name in HASH_DEPENDENT if name not in {"puzzle24", "intermediate_integration"}]
    assert printed(names, 3, "1") == printed(names[::-1], 3, "2")


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_every_task_is_the_same_in_every_process() -> None:
    quick = [name for name in REGISTERED if "slow" not in table()[name]["flags"]]
    slow = [name for name in REGISTERED if name not in quick]
    assert printed(quick, 5, "1") == printed(quick[::-1], 5, "2")
    assert printed(slow, 2, "1") == printed(slow[::-1], 2, "2")


@pytest.mark.parametrize("task", ["chain_sum", "coin_flip"])
def test_splits_share_no_task(task: str) -> None:
    drawn = {v: {env_of(task, v).task_at(i).key for i in range(60)} for v in spec(f"palestra/rg/{task}-v0").variants}
    assert sum(map(len, drawn.values())) == len(set().union(*drawn.values()))


def test_neighbouring_tasks_share_no_item() -> None:
    seeds = [env_of("chain_sum").task_at(index).data["seed"] for index in range(50)]
    assert min(abs(a - b) for i, a in enumerate(seeds) for b in seeds[:i]) > 1_000


def test_wordings_of_one_problem_have_one_key() -> None:
    suite = Suite()
    entry = dict(suite.dataset("countdown", "{}", 3)[0])
    from palestra.envs.adapters.reasoning_gym_worker import _key

    numbers = entry["metadata"]["numbers"]
    other = {**entry, "question": "other words", "metadata": {**entry["metadata"], "numbers": numbers[::-1]}}
    assert _key("countdown", entry) == _key("countdown", other)


@pytest.mark.parametrize(
    ("task", "one", "other", "different"),
    [
        ("chain_sum", "4 - 5 + 30", "30 + 4 - 5", "4 + 5 - 30"),
        ("decimal_chain_sum", "1.5 - 2.5", "1.5 - 2.5", "2.5 - 1.5"),
        ("products", "12 * 34", "34 * 12", "12 * 43"),
    ],
)
def test_orders_of_one_problem_have_one_key(task: str, one: str, other: str, different: str) -> None:
    key_one, key_other, key_different = (
        KEYS[task]({"metadata": {"expression": expression}}) for expression in (one, other, different)
    )
    assert key_one == key_other != key_different


def test_operands_that_commute_have_one_key() -> None:
    def key(first: tuple[float, float], second: tuple[float, float], operation: str) -> object:
        return KEYS["complex_arithmetic"]({"metadata": {"num1": first, "num2": second, "operation": operation}})

    for operation in "+*":
        assert key((1, 2), (3, 4), operation) == key((3, 4), (1, 2), operation)
    for operation in "-/":
        assert key((1, 2), (3, 4), operation) != key((3, 4), (1, 2), operation)


def test_gymnasium_accepts_one() -> None:
    check_env(env_of("dice"), skip_render_check=True)


# Scores.


def perturbed(answer: str, rng: random.Random) -> list[str]:
    """Answers next to the right one: a character changed, dropped, added; spaces; cut in two."""
    at = rng.randrange(len(answer))
    return [
        answer[:at] + rng.choice("0123456789abcXYZ ,") + answer[at + 1 :],
        answer[:at] + answer[at + 1 :],
        f"{answer} .",
        f" {answer}\n",
        answer[: len(answer) // 2],
    ]


def package_score(dataset: Any, answer: str, entry: Any) -> float | None:
    try:
        return float(dataset.score_answer(answer, entry))
    except Exception:  # some graders raise: Palestra pays nothing then
        return None


def assert_scores_equal(task: str, count: int) -> None:
    """Palestra's scores of the answers are the package's own, or where the grader was repaired, no success more."""
    suite, rng = Suite(), random.Random(0)
    for index in range(count):
        with disarmed():
            made = suite.item(task, "{}", 104_729 * index + 11)
        answers = [made.answer, *JUNK[:2]]
        if task not in UNSAFE:
            answers += [*JUNK[2:], *perturbed(made.answer, rng)]
        for answer in answers:
            theirs = package_score(suite.dataset(task, "{}", 0), answer, made.entry)
            with disarmed():
                ours = suite.grade(task, "{}", made.entry, answer)
            if task in GRADERS:
                bare = answer.strip().rstrip(".").strip()
                assert ours < 1.0 or 1.0 in {theirs, package_score(suite.dataset(task, "{}", 0), bare, made.entry)}
            elif theirs is None or not 0.0 <= theirs <= 1.0:
                assert ours == 0.0
            else:
                assert ours == theirs


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # the package's data files
@pytest.mark.parametrize("task", [*HANDFUL, *NO_ORACLE, "string_insertion", "prime_factorization", "dice"])
def test_scores_are_those_of_the_package(task: str) -> None:
    assert_scores_equal(task, 2)


@pytest.mark.audit
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("task", REGISTERED)
def test_scores_of_100_items_are_those_of_the_package(task: str) -> None:
    assert_scores_equal(task, 100)


def grade(task: str, answer: str, config: str = "{}", seed: int = 5) -> float:
    return score(task, config, seed, answer)


@pytest.mark.parametrize("task", ["countdown", "puzzle24", "simple_integration", "polynomial_multiplication"])
@pytest.mark.parametrize("wrap", ["{}", "[{}]", "({}, 'a')[1]"])
def test_answers_are_never_evaluated_as_code(task: str, wrap: str, tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    attack = wrap.format(f"__import__('pathlib').Path('{sign}').touch()")
    for name in (task, "spiral_matrix", "binary_matrix", "n_queens", "string_insertion"):
        assert grade(name, attack) < 1.0
    assert not sign.exists()


@pytest.mark.parametrize("text", ["9**9**9", "9**9**9**9 + x", "(" * 5_000, "x" * 9_000, "exp(" * 80 + "x" + ")" * 80])
def test_huge_formulas_cost_little_and_earn_nothing(text: str) -> None:
    started = time.monotonic()
    for task in ("countdown", "puzzle24", "simple_integration", "polynomial_multiplication"):
        assert grade(task, text) < 1.0
    assert time.monotonic() - started < 60


def test_game_of_life_halting_compares_with_the_truth() -> None:
    for seed in range(6):
        right = item("game_of_life_halting", "{}", seed).answer
        other = {"True": "False", "False": "True"}[right]
        assert [grade("game_of_life_halting", a, seed=seed) for a in (right, other, "zzz", "")] == [1.0, 0.0, 0.0, 0.0]


def test_not_a_number_is_no_complex_number() -> None:
    assert [grade("complex_arithmetic", text) for text in ("nan", "inf", "nan+nani")] == [0.0, 0.0, 0.0]


def test_puzzle24_wants_the_given_numbers() -> None:
    question = item("puzzle24", "{}", 5).question
    assert "4, 6, 1, 1" not in question
    assert grade("puzzle24", "4*6*1*1") < 1.0


def test_countdown_is_exact() -> None:
    suite = Suite()
    entry = {"metadata": {"numbers": [7, 1_000], "target": 143}}  # 1,000 / 7 is 142.857
    assert suite.grade("countdown", "{}", entry, "1000 / 7") == 0.05
    entry = {"metadata": {"numbers": [3, 1_000_003], "target": 333_334}}
    assert suite.dataset("countdown", "{}", 0).score_answer("1000003 / 3", entry) == 1.0
    assert suite.grade("countdown", "{}", entry, "1000003 / 3") == 0.05
    assert suite.grade("countdown", "{}", {"metadata": {"numbers": [7, 6], "target": 42}}, "(7) * 6 = 42") == 1.0
    assert suite.grade("countdown", "{}", {"metadata": {"numbers": [7, 6], "target": 42}}, "7 * 6 + 0") == 0.05


def test_sorted_numbers_must_be_the_given_ones() -> None:
    made = item("number_sorting", "{}", 5)
    numbers = [float(text) for text in json.loads(made.answer.replace("'", '"'))]
    assert grade("number_sorting", json.dumps([str(n) for n in numbers])) == 1.0
    assert grade("number_sorting", json.dumps([str(n + 0.5) for n in numbers])) < 1.0


def test_ten_right_letters_do_not_make_a_figlet_word() -> None:
    config = json.dumps({"min_word_len": 12, "max_word_len": 12})
    made = item("figlet_font", config, 5)
    assert score("figlet_font", config, 5, f"{made.answer}x") < 1.0


def test_a_prefix_of_a_probability_is_none() -> None:
    right = item("coin_flip", "{}", 5).answer
    assert 0 < float(right) < 1
    assert [grade("coin_flip", text) for text in (right, f"{right}0", "0", right[:3])] == [1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("task", "spoil"),
    [
        ("gsm_symbolic", "-{}"),
        ("gsm_symbolic", "{} or 3"),
        ("word_sorting", "{}, more"),
        ("letter_jumble", "{} more"),
        ("decimal_arithmetic", "{}9e-2"),
    ],
)
def test_a_right_answer_with_a_wrong_addition_is_wrong(task: str, spoil: str) -> None:
    right = item(task, "{}", 5).answer
    assert grade(task, right) == 1.0
    assert grade(task, spoil.format(right)) < 1.0


def test_half_a_formula_is_no_conclusion() -> None:
    entry = {"metadata": {"variables": ["P", "Q"], "premises": ["(P ∧ Q)"]}}
    suite = Suite()
    package = suite.dataset("propositional_logic", "{}", 0)
    assert package.score_answer("(¬Q ∨ P", entry) == package.score_answer("(¬Q ∨ P)", entry) == 1.0
    scores = [suite.grade("propositional_logic", "{}", entry, a) for a in ("(¬Q ∨ P)", "(¬Q ∨ P", "P ∨ x", "P ∨ Q R")]
    assert scores == [1.0, 0.0, 0.0, 0.0]


def test_no_cube_is_solved_already() -> None:
    assert all(grade("rubiks_cube", "", seed=seed) < 1.0 for seed in range(60))


@pytest.mark.parametrize(
    "answer", ["[]", '[{"Agent[0.5, 0.5]": "move(box_red, square[9.5, 0.5])"}]', '[{"": "x"}]', "{"]
)
def test_boxnet_pays_nothing_for_doing_nothing(answer: str) -> None:
    env = env_of("boxnet")
    for index in range(5):
        reward = env.grade(env.task_at(index), answer)
        assert (reward.outcome, dict(reward.process)) == (0.0, {"partial": 0.0})


def test_premises_of_propositional_logic_do_not_contradict_each_other() -> None:
    for seed in range(30):
        assert grade("propositional_logic", "P ∧ ¬P", seed=seed) != 1.0


def test_crumbs_for_any_text_are_not_paid() -> None:
    for task in ("countdown", "tsumego", "arc_agi", "fraction_simplification", "color_cube_rotation"):
        env = env_of(task)
        assert env.grade(env.task_at(0), "zzz qqq").process == {"partial": 0.0}


# The process.


@pytest.mark.slow
def test_an_answer_that_hangs_the_scorer_earns_nothing_and_hurts_nobody() -> None:
    made = item("simple_integration", "{}", 5)
    assert grade("simple_integration", "(X+y+z+w+1)**60*(X-y)**50") == 0.0
    assert grade("simple_integration", made.answer) == 1.0


def test_a_long_list_of_names_is_refused_before_it_is_tried() -> None:
    started = time.monotonic()
    assert grade("propositional_logic", "∨".join(f"v{i}" for i in range(60))) == 0.0
    assert grade("rush_hour", "A+99999999999") == 0.0
    assert grade("rubiks_cube", "U999999999") == 0.0
    assert grade("coin_flip", "1e999999999") == 0.0
    assert time.monotonic() - started < 5


def test_a_process_that_dies_is_replaced() -> None:
    worker = Worker()
    request = {"task": "chain_sum", "config": "{}", "seed": 1}
    before = worker.ask(request)
    assert worker._process is not None
    os.kill(worker._process.pid, signal.SIGKILL)
    assert worker.ask(request) == before
    worker.close()


def test_threads_do_not_mix_up_replies() -> None:
    right = [item("chain_sum", "{}", seed).answer for seed in range(64)]
    with ThreadPoolExecutor(8) as threads:
        scores = list(threads.map(lambda seed: score("chain_sum", "{}", seed, right[seed]), range(64)))
    assert scores == [1.0] * 64


FORK = """
import os
from palestra.envs.adapters.reasoning_gym_process import WORKER, item
item("chain_sum", "{}", 1)
parent = WORKER._process.pid
child = os.fork()
if child == 0:
    item("chain_sum", "{}", 2)
    os._exit(WORKER._process.pid == parent)
assert os.waitpid(child, 0)[1] == 0
item("chain_sum", "{}", 3)
assert WORKER._process.pid == parent
print(parent)
"""


@pytest.mark.slow
def test_an_interrupt_does_not_shift_the_replies() -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    worker = Worker()
    ask = {"task": "chain_sum", "config": "{}", "seed": 11}
    expected = worker.ask(ask)
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    try:
        with pytest.raises(KeyboardInterrupt):
            all(worker.ask({"task": "zebra_puzzles", "config": "{}", "seed": seed}) for seed in range(10_000))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert worker.ask(ask) == expected
    worker.close()


def test_sequences_that_square_and_square_are_given_up() -> None:
    hard = json.dumps(table()["number_sequence"]["hard"])
    began = time.process_time()
    with disarmed():
        made = Suite().item("number_sequence", hard, 44_008_051)  # computed a number of 2^36 digits
    assert made.answer
    assert time.process_time() - began < 5


def test_a_fork_has_a_process_of_its_own_and_the_process_ends_with_the_host() -> None:
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, check=True)
    for _ in range(100):
        if not Path(f"/proc/{done.stdout.strip()}").exists():
            return
        time.sleep(0.1)
    pytest.fail("the process outlives its host")


def test_a_generator_that_fails_says_so() -> None:
    with pytest.raises(RuntimeError, match="chain_sum: "):
        WORKER.ask({"task": "chain_sum", "config": '{"no_such": 1}', "seed": 1})


def test_targets_cannot_be_carried_to_the_boxes() -> None:
    env = make("palestra/rg/boxnet-v0")
    task = env.task_at(1)
    (turn,) = env.solve(task).turns
    env.reset(options={"index": 1})
    assert env.step(turn)[1] == 1.0
    env.reset(options={"index": 1})
    assert env.step(turn.replace("move(box_", "move(target_"))[1] == 0.0


def test_a_grid_with_more_cells_is_another_grid() -> None:
    env = make("palestra/rg/game_of_life-v0")
    grid = json.loads(env.task_at(0).answer)
    for wrong in ([*grid, [1] * len(grid[0])], [[*row, 1] for row in grid]):
        env.reset(options={"index": 0})
        assert env.step(f"<answer>{json.dumps(wrong)}</answer>")[1] == 0.0
