import json
from fractions import Fraction
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palestra.eval.stats import pass_at_k, pass_at_k_curve, pass_at_k_variance

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors.json").read_text(encoding="utf-8"))


@st.composite
def counts(draw: st.DrawFn, max_n: int = 60) -> tuple[int, int]:
    n = draw(st.integers(1, max_n))
    return n, draw(st.integers(0, n))


@pytest.mark.parametrize("case", VECTORS["pass_at_k"], ids=lambda c: f"n{c['n']}c{c['c']}k{c['k']}")
def test_pass_at_k_equals_the_exact_fraction(case: dict[str, Any]) -> None:
    exact = float(Fraction(case["exact"]))
    assert pass_at_k(case["n"], case["c"], case["k"]) == pytest.approx(exact, abs=1e-13)
    assert pass_at_k_curve(case["n"], [case["c"]])[0, case["k"] - 1] == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize("case", VECTORS["pass_at_k_variance"], ids=lambda c: f"n{c['n']}c{c['c']}k{c['k']}")
def test_variance_equals_the_exact_fraction(case: dict[str, Any]) -> None:
    exact = float(Fraction(case["exact"]))
    assert pass_at_k_variance(case["n"], case["c"], case["k"]) == pytest.approx(exact, abs=1e-13)


def test_mean_curve_of_four_problems() -> None:
    case = VECTORS["curve"]
    curve = pass_at_k_curve(case["n"], case["c"])
    assert curve.mean(axis=0) == pytest.approx(case["mean_pass_at"], abs=1e-14)


def test_pass_at_k_counts_the_subsets_that_hold_a_success() -> None:
    outcomes = [1, 1, 0, 0, 0]
    draws = list(combinations(outcomes, 3))
    assert pass_at_k(5, 2, 3) == pytest.approx(sum(any(draw) for draw in draws) / len(draws), abs=1e-15)
    assert pass_at_k(5, 2, 3) == pytest.approx(0.9, abs=1e-15)


def test_ten_thousand_samples_stay_exact() -> None:
    n, c, k = 10_000, 7, 5_000
    exact = float(1 - Fraction(comb(n - c, k), comb(n, k)))
    assert pass_at_k(n, c, k) == pytest.approx(exact, abs=1e-12)
    assert pass_at_k_curve(n, [c])[0, k - 1] == pytest.approx(exact, abs=1e-11)


def test_samples_may_differ_between_problems() -> None:
    assert pass_at_k([4, 10], [1, 3], 4) == pytest.approx([1.0, 5 / 6])


@pytest.mark.parametrize("n", [1, 2, 7, 12])
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
def test_pass_at_k_and_its_variance_are_unbiased(n: int, p: float) -> None:
    chance = np.array([comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)])
    curve = pass_at_k_curve(n, list(range(n + 1)))
    for k in range(1, n + 1):
        truth = 1 - (1 - p) ** k
        assert chance @ curve[:, k - 1] == pytest.approx(truth, abs=1e-12)
        if 2 * k <= n:
            variance = chance @ curve[:, k - 1] ** 2 - truth**2
            estimates = pass_at_k_variance(n, list(range(n + 1)), k)
            assert chance @ estimates == pytest.approx(variance, abs=1e-12)


@given(counts())
def test_curve_agrees_with_the_product(case: tuple[int, int]) -> None:
    n, c = case
    curve = pass_at_k_curve(n, [c])[0]
    assert curve == pytest.approx([pass_at_k(n, c, k) for k in range(1, n + 1)], abs=1e-12)


@given(counts())
def test_curve_is_nondecreasing_and_concave_between_its_ends(case: tuple[int, int]) -> None:
    n, c = case
    curve = pass_at_k_curve(n, [c])[0]
    steps = np.diff(np.concatenate([[0.0], curve]))
    assert np.all(steps >= -1e-12)
    assert np.all(np.diff(steps) <= 1e-12)
    assert curve[0] == pytest.approx(c / n)
    assert curve[-1] == (1.0 if c else 0.0)


@given(counts())
def test_one_more_success_never_lowers_the_curve(case: tuple[int, int]) -> None:
    n, c = case
    if c < n:
        lower, upper = pass_at_k_curve(n, [c, c + 1])
        assert np.all(upper >= lower - 1e-12)


@given(counts())
def test_one_more_failure_never_raises_the_curve(case: tuple[int, int]) -> None:
    n, c = case
    assert np.all(pass_at_k_curve(n + 1, [c])[0, :n] <= pass_at_k_curve(n, [c])[0] + 1e-12)


@given(counts())
def test_variance_is_never_negative(case: tuple[int, int]) -> None:
    n, c = case
    if n >= 2:
        assert pass_at_k_variance(n, c, n // 2) >= 0.0


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.randoms())
def test_order_of_problems_only_orders_the_rows(c: list[int], random: Any) -> None:
    order = list(range(len(c)))
    random.shuffle(order)
    assert np.array_equal(pass_at_k_curve(9, c)[order], pass_at_k_curve(9, [c[i] for i in order]))


def test_one_sample() -> None:
    assert pass_at_k(1, 1, 1) == 1.0
    assert pass_at_k(1, 0, 1) == 0.0
    assert pass_at_k_curve(1, [0, 1]).tolist() == [[0.0], [1.0]]


@pytest.mark.parametrize(
    ("n", "c", "k", "message"),
    [
        (4, 1, 5, "needs at least 5 samples"),
        (4, 5, 1, "between 0 and n"),
        (4, -1, 1, "between 0 and n"),
        (0, 0, 1, "at least 1 sample"),
        (4, 1, 0, "k must be at least 1"),
        (4, 1.5, 1, "c must be whole numbers"),
        (4, 1, 1.5, "k must be a whole number"),
    ],
)
def test_impossible_counts_are_refused(n: int, c: Any, k: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pass_at_k(n, c, k)


def test_no_variance_beyond_half_the_samples() -> None:
    with pytest.raises(ValueError, match="needs at least 6 samples"):
        pass_at_k_variance(5, 2, 3)


def test_curve_needs_one_n_and_a_count_per_problem() -> None:
    with pytest.raises(ValueError, match="one n"):
        pass_at_k_curve(5, 2)  # type: ignore[arg-type]
