"""Each check catches the toy that is broken in its way, and lets the sound one pass."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace

import pytest
from broken_envs import WRONG_TYPES, Sound
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from palestra.envs import spec
from palestra.envs.checks import Problem, Report, Settings, check, worker
from palestra.envs.checks.base import Subject, surely_above, wilson
from palestra.envs.checks.families import CHECKS, found_by
from palestra.envs.checks.leaks import copies
from palestra.envs.checks.limits import OutOfTimeError, TimeLimits
from palestra.envs.checks.splits import splits_are_disjoint

SMALL = Settings(episodes=40, fuzz=600, draws=200, probed=12, replayed=4, step_s=0.4)


@pytest.fixture
def limits() -> Iterator[TimeLimits]:
    with TimeLimits() as limits:
        yield limits


def problems_of(name: str, limits: TimeLimits, checks: tuple[str, ...] = tuple(CHECKS)) -> list[Problem]:
    subjects = {v: Subject(f"toy/{name}-v0", v, SMALL, limits) for v in spec(f"toy/{name}-v0").variants}
    problems = [problem for _, problem in splits_are_disjoint(subjects)]
    return [*problems, *(problem for check in checks for problem in found_by(check, subjects["test"]))]


@pytest.mark.parametrize("method", WRONG_TYPES)
def test_a_wrong_type_is_said_once(method: str) -> None:
    [report, _] = check([f"toy/Wrong-{method}-v0"], settings=SMALL)
    assert [p.check for p in report.problems if "the checks after" not in p.message] == ["types"]
    assert WRONG_TYPES[method][1] in report.problems[0].message


def test_a_worker_ends_when_its_look_at_types_was_cut_off(limits: TimeLimits, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(name: str, subject: Subject) -> list[Problem]:
        subject.interrupted = True
        return [Problem(name, "a call does not return in time")]

    monkeypatch.setattr(worker, "found_by", cut_off)
    subjects = {"test": Subject("toy/Sound-v0", "test", SMALL, limits)}
    assert worker._splits(subjects, lambda doing: None) == {"ends": True}


def test_a_worker_ends_with_its_parent_in_the_middle_of_a_job() -> None:
    endless = asdict(replace(SMALL, fuzz=10**9))
    job = {"kind": "check", "env": "palestra/Dice-v0", "module": "", "variants": ["test"], "settings": endless}
    with subprocess.Popen(
        [sys.executable, "-m", "palestra.envs.checks.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        assert any(json.loads(line)["doing"].startswith("fuzz") for line in process.stdout)
        try:
            # Closes its input as the end of a parent does, and reads on: a reply that nobody takes would end it, too.
            process.communicate(timeout=30)
        finally:
            process.kill()


def test_a_sound_environment_has_no_problems(limits: TimeLimits) -> None:
    assert problems_of("Sound", limits) == []


CAUGHT = [
    ("Leaky", "leak", "of the prompt solves 12 of 12 tasks"),
    ("LeakyFeedback", "leak", "copying the last word of the feedback to a wrong answer"),
    ("LateFeedback", "leak", "copying the last word of the feedback to 2 wrong answers"),
    ("MiddleLeak", "leak", "copying word 3 of the prompt solves 12 of 12 tasks"),
    ("TellingTool", "leak", "of the answer to a first call of the tool 'peek' solves 12 of 12"),
    ("TellingTool", "fuzz", "ZeroDivisionError"),
    ("Backtracks", "hacking", "a call does not return in time"),
    ("GlobalRandom", "determinism", "the prompt of task"),
    ("Overlap", "splits", "200 tasks have the same key in 'train' and 'test'"),
    ("FreshKeys", "splits", "tasks have the same prompt and answer in 'train' and 'test'"),
    ("FewTasks", "tasks", "different tasks in 200 draws"),
    ("WrongOracle", "oracle", "demonstrations do not solve their task"),
    ("UnfinishedOracle", "oracle", "goes on after the turn 'Let me think.'"),
    ("Coin", "chance", "random episodes are solved, above the 0.1 allowed"),
    ("SumTooHigh", "bounds", "the process term 'polite' adds up to"),
    ("Undeclared", "oracle", "process term 'style' is not declared"),
    ("RaisesOnUnicode", "fuzz", "UnicodeEncodeError"),
    ("PaysEmpty", "hacking", "the empty answer is paid (12 of 12 tasks"),
    ("Substring", "hacking", "every candidate at once is paid"),
    ("Substring", "hacking", "the right answer inside another one is paid"),
    ("Truthy", "hacking", "all numbers is paid"),
    ("Truthy", "hacking", "a very long answer is paid"),
    ("Prefix", "hacking", "an answer that is nearly right is paid"),
    ("Anywhere", "hacking", "the right answer in the wrong place is paid"),
    ("Shared", "isolation", "two instances played in turn"),
    ("Remembers", "determinism", "differs when played again on the same instance"),
    ("PlaysOn", "contract", "a step after the end of an episode is played"),
    ("Endless", "contract", "goes on after its 3 turns"),
    ("Hangs", "hacking", "a call does not return in time"),
    ("BadSample", "gymnasium", "no words"),
]


@pytest.mark.parametrize(("name", "check", "message"), CAUGHT)
def test_what_is_broken_is_caught_by_its_check(name: str, check: str, message: str, limits: TimeLimits) -> None:
    if name == "BadSample":
        problems = found_by("gymnasium", Subject("toy/BadSample-v0", "test", SMALL, limits))
    else:
        problems = problems_of(name, limits)
    assert any(p.check == check and message in p.message for p in problems), problems


def test_a_slow_step_is_caught(limits: TimeLimits) -> None:
    subject = Subject("toy/Slow-v0", "test", Settings(episodes=5), limits)
    assert found_by("oracle", subject) == []
    [problem] = found_by("latency", subject)
    [said] = re.findall(r"one step in twenty takes more than (\d+) ms", problem.message)
    assert 110 <= int(said) < 1_000  # it sleeps for 110, and a busy machine adds to that


def test_an_exception_is_told_with_its_place_and_turn(limits: TimeLimits) -> None:
    [problem] = found_by("fuzz", Subject("toy/RaisesOnUnicode-v0", "test", SMALL, limits))
    assert "broken_envs.py:" in problem.message
    assert "in grade" in problem.message
    assert "at the turn" in problem.message
    assert "of toy/RaisesOnUnicode-v0/test/" in problem.message


@pytest.fixture(scope="module")
def reports() -> dict[tuple[str, str], Report]:
    """Of toys whose faults show in processes only."""
    names = ("Sound", "SetOrder", "HangsInC", "Exits", "Chatty", "NeedsMore", "BadSample")
    checked = check([f"toy/{name}-v0" for name in names], variants=["test", "long"], settings=SMALL)
    return {(report.env.removeprefix("toy/").removesuffix("-v0"), report.variant): report for report in checked}


def test_every_variant_that_was_asked_for_has_a_report(reports: dict[tuple[str, str], Report]) -> None:
    assert list(reports)[:3] == [("Sound", "test"), ("Sound", "long"), ("SetOrder", "test")]
    assert len(reports) == 8


@pytest.mark.parametrize("key", [("Sound", "test"), ("Sound", "long"), ("Chatty", "test")])
def test_sound_ones_pass(reports: dict[tuple[str, str], Report], key: tuple[str, str]) -> None:
    report = reports[key]
    assert (report.status, report.problems) == ("passed", [])
    assert report.measures["oracle_rate"] == 1.0
    assert report.measures["distinct"] == 200
    assert report.measures["fuzz"]["actions"] >= 600


def test_the_hash_seed_of_the_process_must_not_matter(reports: dict[tuple[str, str], Report]) -> None:
    [problem] = reports["SetOrder", "test"].problems
    assert problem.check == "determinism"
    assert "the prompt of task 0 differs in another process" in problem.message


def test_code_that_cannot_be_interrupted_is_found_and_placed(reports: dict[tuple[str, str], Report]) -> None:
    [problem] = reports["HangsInC", "test"].problems
    assert problem.check == "hacking"
    assert "cannot be interrupted in grade" in problem.message
    assert "The checks after this one were not run." in problem.message


def test_a_process_that_is_ended_is_found(reports: dict[tuple[str, str], Report]) -> None:
    [problem] = reports["Exits", "test"].problems
    assert "ended with code 3" in problem.message


def test_what_is_missing_is_not_a_pass(reports: dict[tuple[str, str], Report]) -> None:
    report = reports["NeedsMore", "test"]
    assert (report.status, report.not_run) == ("not run", "it is not installed; install it")


def test_a_task_that_cannot_be_drawn_is_told(reports: dict[tuple[str, str], Report]) -> None:
    assert any("no words" in problem.message for problem in reports["BadSample", "test"].problems)


def test_the_seed_decides_random_and_odd_turns(limits: TimeLimits) -> None:
    def fuzzed(seed: int) -> dict[str, int]:
        subject = Subject("toy/Sound-v0", "test", Settings(fuzz=300, seed=seed), limits)
        assert found_by("fuzz", subject) == []
        return dict(subject.measures["fuzz"])

    assert fuzzed(0) == fuzzed(0) != fuzzed(1)


def test_a_budget_cuts_episodes_and_says_so(limits: TimeLimits) -> None:
    subject = Subject("toy/Slow-v0", "test", Settings(episodes=1_000, budget_s=0.5), limits)
    found_by("oracle", subject)
    assert subject.measures["oracle_episodes"] == subject.measures["cut"]["oracle episodes"] < 20


def test_limits_interrupt_and_give_the_alarm_back(limits: TimeLimits) -> None:
    with pytest.raises(OutOfTimeError), TimeLimits() as inner:
        inner.call(0.05, lambda: [None for _ in iter(int, 1)])


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    # Newcombe, Statistics in Medicine 17 (1998), table I: 81/263, 15/148, 0/20, 1/29.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_is_wilsons(hits: int, count: int, low: float, high: float) -> None:
    assert wilson(hits, count) == pytest.approx((low, high), abs=5e-5)


@given(count=st.integers(1, 300), limit=st.floats(0.001, 0.999))
def test_luck_seldom_puts_a_rate_above_its_limit(count: int, limit: float) -> None:
    claimed = [hits for hits in range(count + 1) if surely_above(hits, count, limit)]
    assert claimed == list(range(count + 1 - len(claimed), count + 1))
    if claimed:
        assert binom.sf(claimed[0] - 1, count, limit) < 0.001 <= binom.sf(claimed[0] - 2, count, limit) * 1.000001


def test_few_trials_settle_little() -> None:
    assert not surely_above(2, 3, 0.1)  # one in 36 of such environments
    assert not surely_above(0, 0, 0.1)
    assert surely_above(3, 3, 0.05)
    assert not surely_above(3, 3, 1.0)


@given(st.text())
def test_copiers_take_parts_of_any_text(text: str) -> None:
    assert all(copy and copy in text for copy in copies(text).values())


def test_copiers_find_what_stands_out() -> None:
    found = copies('Given "abc", 12 and -3/4.\nHint: xyz.')
    assert {found["the first quotation"], found["the last number"], found["the last word"]} == {"abc", "-3/4", "xyz"}
    assert found["what follows the last colon"] == "xyz."


def test_the_toy_is_what_it_says() -> None:
    assert Sound.process_terms.keys() == {"first"}
