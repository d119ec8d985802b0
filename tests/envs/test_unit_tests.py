"""The grader of hidden tests. Hostile submissions run in the sandbox `local`, harmless ones anywhere."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_sandbox import ScriptedByInput, ScriptedSandbox, result

from palestra.envs.grading import CaseResult, FunctionCase, ProgramCase, UnitTests, Verdict, unit_tests
from palestra.envs.grading.values import equal_tokens, equal_values, from_json, to_json
from palestra.envs.sandbox.base import KEPT_BYTES, SandboxError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


def canonical(value: Any) -> str:
    """One text per value that counts as equal; 0.0 and -0.0 are equal."""
    return json.dumps(value, sort_keys=True).replace("-0.0", "0.0")


def statuses(verdict: Verdict) -> list[str]:
    return [case.status for case in verdict.cases]


# Comparing values.


@given(JSON)
def test_a_value_survives_writing_and_reading(value: Any) -> None:
    assert equal_values(value, from_json(to_json(value)))


@given(JSON, JSON)
def test_values_are_equal_exactly_if_their_canonical_texts_are(a: Any, b: Any) -> None:
    assert equal_values(a, b) == (canonical(a) == canonical(b))


@given(JSON, st.text(max_size=40) | JSON.map(json.dumps))
def test_judging_never_raises_and_passes_the_expected_value_only(expected: Any, written: str) -> None:
    verdict = FunctionCase("f", [], expected).judge(written)
    try:
        right = canonical(json.loads(written)) == canonical(expected)
    except ValueError:
        right = False
    if right:
        assert verdict.status in {"passed", "error"}  # a key twice is an error
    else:
        assert verdict.status in {"wrong", "error"}


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        (1, True),
        (True, 1),
        (1, 1.0),
        (1.0, 1),
        (0, False),
        (None, 0),
        (None, False),
        ("1", 1),
        ([], {}),
        ([], None),
        ([1], [1, 1]),
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"a": None}, {}),
        (0.3, 0.1 + 0.2),
        (math.nan, 0.0),
        (math.inf, 1e308),
        (math.inf, -math.inf),
    ],
)
def test_pairs_that_python_might_call_equal_are_not(expected: object, got: object) -> None:
    assert not equal_values(expected, got)


@pytest.mark.parametrize(
    ("expected", "got"), [(math.nan, math.nan), (math.inf, math.inf), (0.0, -0.0), ([math.nan], [math.nan])]
)
def test_odd_floats_equal_themselves(expected: object, got: object) -> None:
    assert equal_values(expected, got)
    assert equal_values(expected, got, 1e-6)


@pytest.mark.parametrize(
    ("expected", "got", "close"),
    [
        (0.3, 0.1 + 0.2, True),
        (2.0, 2, True),
        (1e9, 1e9 + 1, True),
        (0.0, 1e-7, True),
        (0.0, 1e-5, False),
        (2.0, 2.1, False),
        (2.0, True, False),
        (1.0, "1.0", False),
        (2, 2.0, False),
        (2, 3, False),
        ([1.0, {"a": 2.5}], [1, {"a": 2.5000001}], True),
        (math.inf, 1e308, False),
        (math.nan, 1.0, False),
        (1.0, math.nan, False),
        (1.0, math.inf, False),
        (1.0, 10**400, False),
    ],
)
def test_a_tolerance_is_for_expected_floats_only(expected: object, got: object, close: bool) -> None:
    assert equal_values(expected, got, 1e-6) is close


@pytest.mark.parametrize("text", ["", " ", "1 2", "1\n2", "[1][1]", "{'a': 1}", '{"a": 1, "a": 1}', "9" * 5_000])
def test_only_one_json_value_is_read(text: str) -> None:
    with pytest.raises(ValueError, match="."):
        from_json(text)


def test_deep_nesting_is_refused_on_both_sides() -> None:
    with pytest.raises(ValueError, match="deep"):
        from_json("[" * 60_000 + "]" * 60_000)
    value: list[Any] = []
    for _ in range(200):
        value = [value]
    with pytest.raises(ValueError, match="deep"):
        to_json(value)


@pytest.mark.parametrize(
    ("expected", "got", "tolerance", "equal"),
    [
        ("1 2\n3", "1\n2 3\n", None, True),
        ("", " \n", None, True),
        ("Yes", "yes", None, False),
        ("1 2", "1 2 3", None, False),
        ("1 2", "12", None, False),
        ("0.5", "0.50", None, False),
        ("0.5", "0.50000001", 1e-6, True),
        ("0.5", ".5", 1e-6, True),
        ("1e3", "1000", 1e-6, True),
        ("1000", "1000.0", 1e-6, False),
        ("0.5", "0.6", 1e-6, False),
        ("0.5", "nan", 1e-6, False),
        ("0.5", "0_.5", 1e-6, False),
        ("0.5", "٠.٥", 1e-6, False),
        ("x 0.5", "y 0.5", 1e-6, False),
    ],
)
def test_outputs_are_compared_word_by_word(expected: str, got: str, tolerance: float | None, equal: bool) -> None:
    assert equal_tokens(expected, got, tolerance) is equal


# What an author may ask for.


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: UnitTests([]), "no cases"),
        (lambda: FunctionCase("f(x)", [], 1), "not the name of a function"),
        (lambda: FunctionCase("f", "abc", 1), "are a list"),  # type: ignore[arg-type]
        (lambda: FunctionCase("f", [{1, 2}], 1), "is JSON"),
        (lambda: FunctionCase("f", [], {1: 2}), "must be strings"),
        (lambda: FunctionCase("f", [], object()), "is JSON"),
        (lambda: FunctionCase("f", [], 10**5_000), "digits"),
        (lambda: FunctionCase("f", [], "x" * KEPT_BYTES), "expected value of a case may have 49152 bytes"),
        (lambda: FunctionCase("f", ["x" * 2**23], 1), "arguments of a case"),
        (lambda: FunctionCase("f", [], 1, tolerance=math.nan), "a tolerance is a number"),
        (lambda: FunctionCase("f", [], 1, tolerance=math.inf), "a tolerance is a number"),
        (lambda: ProgramCase("", "", tolerance=-1.0), "a tolerance is a number"),
        (lambda: ProgramCase("x" * 2**23, ""), "standard input of a case"),
        (lambda: ProgramCase("", "x" * KEPT_BYTES), "expected output of a case"),
    ],
)
def test_a_case_that_makes_no_sense_is_refused(make: Callable[[], object], part: str) -> None:
    with pytest.raises(ValueError, match=part):
        make()


# Grading, with a scripted sandbox.


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[ScriptedSandbox], ScriptedSandbox]:
    def use(sandbox: ScriptedSandbox) -> ScriptedSandbox:
        monkeypatch.setattr(unit_tests, "shared_sandbox", lambda name: sandbox)
        return sandbox

    return use


def programs(*inputs: str) -> UnitTests:
    return UnitTests([ProgramCase(text, "42") for text in inputs], timeout=1.5)


def test_results_come_in_the_order_of_the_cases(scripted: Callable[[ScriptedSandbox], ScriptedSandbox]) -> None:
    sandbox = scripted(
        ScriptedByInput(
            {
                "a": result("ok", "42\n"),
                "b": result("ok", "43\n"),
                "c": result("error", "42", "Traceback\nValueError: no\n", 1),
                "d": result("timeout", "42", exit_code=None),
                "e": result("ok", "42" + " " * KEPT_BYTES),
            }
        )
    )
    verdict = programs(*"abcde").grade("source")
    assert statuses(verdict) == ["passed", "wrong", "error", "timeout", "wrong"]
    assert (verdict.passed, verdict.fraction) == (False, 0.2)
    assert [case.detail for case in verdict.cases[1:3]] == ["printed 43", "ValueError: no"]
    assert {(r.code, r.timeout) for r in sandbox.requests} == {(b"source", 1.5)}


@pytest.mark.parametrize("broken", [SandboxError("lost"), result("sandbox-failure", "", "lost", None)])
def test_a_broken_sandbox_is_no_failed_test(
    scripted: Callable[[ScriptedSandbox], ScriptedSandbox], broken: Any
) -> None:
    sandbox = ScriptedByInput({"a": result("ok", "42"), "b": broken})
    scripted(sandbox)
    with pytest.raises(SandboxError, match="lost"):
        programs(*"abcd").grade("source")
    assert [future.cancelled() for future in sandbox.unanswered] == [True, True]


def test_stopping_early_skips_and_cancels_the_rest(
    scripted: Callable[[ScriptedSandbox], ScriptedSandbox],
) -> None:
    sandbox = ScriptedByInput({"a": result("ok", "42"), "b": result("ok", "1"), "c": result("ok", "42")})
    scripted(sandbox)
    verdict = programs(*"abcd").grade("source", stop_early=True)
    assert statuses(verdict) == ["passed", "wrong", "skipped", "skipped"]
    assert (verdict.passed, verdict.fraction) == (False, 0.25)
    assert [future.cancelled() for future in sandbox.unanswered] == [True]


def test_what_is_expected_never_enters_the_sandbox(scripted: Callable[[ScriptedSandbox], ScriptedSandbox]) -> None:
    sandbox = scripted(ScriptedSandbox(result("ok", "")))
    cases = [FunctionCase("f", [f"input-{i}"], {"secret": f"expected-{i}"}) for i in range(3)]
    UnitTests([*cases, ProgramCase("input-3", "expected-3")]).grade("def f(x): pass")
    for i, request in enumerate(sandbox.requests):
        everything = request.code + request.stdin + b"".join(request.files.values())
        assert b"expected" not in everything
        assert b"secret" not in everything
        assert [f"input-{k}".encode() in everything for k in range(4)] == [k == i for k in range(4)]


# Harmless submissions, for the lines that call them.

HONEST = [
    "def f(x): return x * 2",
    "f = lambda x: x + x",
    "from __future__ import annotations\ndef f(x: undefined) -> undefined: return x * 2",
    "print('hello')\ndef f(x):\n    print('[1]', x)\n    return x * 2",
    "import sys\nsys.stdout.close()\ndef f(x): return x * 2",
    "json = None\nplain = main = task = result = text = 3\ndef f(x): return x * 2",
    "import atexit\natexit.register(print, 'bye')\ndef f(x): return x * 2",
    "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: 'int'\ndef f(x): return P(x).x * 2",
    "if __name__ == '__main__': input()\ndef f(x): return x * 2",
    "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\ndef f(x): return x * 2",
    "class N(int): pass\ndef f(x): return N(x * 2)",
]


@pytest.mark.parametrize("source", HONEST)
def test_a_right_function_passes_whatever_else_it_does(source: str) -> None:
    verdict = UnitTests([FunctionCase("f", [21], 42)], sandbox="unsafe-process").grade(source)
    assert verdict == Verdict((CaseResult("passed"),))


FAILING = [
    ("def f(x): return x", "wrong", "returned 21"),
    ("def g(x): return x * 2", "error", "AttributeError: module 'submission' has no attribute 'f'"),
    ("def f(): return 42", "error", "TypeError: f() takes 0 positional arguments but 1 was given"),
    ("def f(x): return {x}", "error", "TypeError: a result must not hold a set"),
    ("def f(x): return {x: x}", "error", "TypeError: the keys of a result must be strings"),
    ("def f(x): return b'42'", "error", "TypeError: a result must not hold a bytes"),
    ("def f(x): return (yield)", "error", "TypeError: a result must not hold a generator"),
    ("def f(x): raise ValueError('no')", "error", "ValueError: no"),
    ("def f(x): return 10 ** 5000", "error", None),
    ("def f(x)", "error", "SyntaxError: expected ':'"),
    ("f = 42", "error", "TypeError: 'int' object is not callable"),
    ("", "error", "AttributeError: module 'submission' has no attribute 'f'"),
]


@pytest.mark.parametrize(("source", "status", "detail"), FAILING)
def test_a_failure_is_told_apart_and_named(source: str, status: str, detail: str | None) -> None:
    (case,) = UnitTests([FunctionCase("f", [21], 42)], sandbox="unsafe-process").grade(source).cases
    assert case.status == status
    if detail is not None:
        assert case.detail == detail


def test_arguments_and_results_travel_unchanged() -> None:
    values = [None, True, -1, 0.1, math.inf, "ü\ud800\0", [], {}, {"a": [{"b": (1, 2)}]}, 10**100, "x" * 40_000]
    cases = [FunctionCase("f", [value, "second"], [value, "second"]) for value in values]
    assert UnitTests(cases, sandbox="unsafe-process").grade("def f(*args): return args").passed


def test_executions_share_nothing() -> None:
    source = (
        "import os\ncount = 0\n"
        "def f(x):\n"
        "    global count\n"
        "    count += 1\n"
        "    seen = os.path.exists('left')\n"
        "    open('left', 'w').close()\n"
        "    return [count, seen]"
    )
    cases = [FunctionCase("f", [i], [1, False]) for i in range(5)]
    assert UnitTests(cases, sandbox="unsafe-process").grade(source).passed


def test_a_program_is_graded_by_what_it_prints() -> None:
    cases = [ProgramCase("1 2\n", "3"), ProgramCase("20 22\n", "42\n"), ProgramCase("1\n", "?")]
    source = "a, b = map(int, input().split())\nif __name__ == '__main__': print(a + b, flush=True)"
    verdict = UnitTests(cases, sandbox="unsafe-process").grade(source)
    assert statuses(verdict) == ["passed", "passed", "error"]
    assert verdict.cases[2].detail == "ValueError: not enough values to unpack (expected 2, got 1)"


# Hostile submissions, in the sandbox. None knows the answer, and none may pass.

HOSTILE = json.loads(Path(__file__).with_name("hostile_submissions.json").read_text(encoding="utf-8"))
SECRET = HOSTILE["secret"]


@pytest.mark.sandbox
@pytest.mark.parametrize("name", HOSTILE["submissions"])
def test_a_hostile_submission_does_not_pass(name: str) -> None:
    source = "\n".join(HOSTILE["submissions"][name])
    grader = UnitTests([FunctionCase("f", [41], SECRET), ProgramCase("41", str(SECRET))], timeout=2)
    verdict = grader.grade(source)
    assert verdict.fraction == 0.0
    assert UnitTests([FunctionCase("f", [41], 42)]).grade("def f(x): return x + 1").passed


@pytest.mark.sandbox
def test_a_submission_finds_nothing_of_other_cases_or_of_what_is_expected() -> None:
    source = """
import gc, os, sys

def texts():
    frame = sys._getframe()
    seen = [dict(os.environ), sys.argv, *gc.get_objects()]
    while frame:
        seen += [dict(frame.f_locals), dict(frame.f_globals)]
        frame = frame.f_back
    for folder, _, names in os.walk("/tmp"):
        seen += [open(os.path.join(folder, name), "rb").read() for name in names]
    return map(repr, seen)

def f(mine):
    # Backwards, so as not to find what is searched for.
    return [any(mark in text[::-1] for text in texts()) for mark in ("-terces", "-rehto", "-enim")]
"""
    cases = [FunctionCase("f", ["mine-0"], [False, False, True])]
    cases += [FunctionCase("f", [f"other-{i}"], f"secret-{i}") for i in range(4)]
    assert statuses(UnitTests(cases).grade(source))[0] == "passed"


@pytest.mark.sandbox
@settings(max_examples=25, deadline=None)
@given(st.lists(JSON, min_size=1, max_size=3))
def test_any_value_comes_through_the_sandbox(values: list[Any]) -> None:
    cases = [FunctionCase("f", [value], value) for value in values]
    assert UnitTests(cases).grade("def f(x): return x").passed


def test_comparing_takes_no_longer_than_reading() -> None:
    began = time.perf_counter()
    assert not equal_tokens("1.5", "1" * 60_000 + "x", 0.1)
    assert time.perf_counter() - began < 1
