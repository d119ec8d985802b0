import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palestra.agents.markers import Markers, markers_of, tokens_to_ban
from palestra.eval.aha import Run, aha, change, describe, share, within_problems

TILDE = Markers(("~",))


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Wait, that cannot be.", 1),
        ("WAIT. Let me\n  check: hmm...", 3),
        ("I awaited the waiter in waiting.", 0),
        ("That's not right. I made a mistake, let me try again.", 3),
        ("Check the sum, but go on.", 0),
        ("", 0),
    ],
)
def test_default_markers_are_whole_phrases_of_doubt(text: str, count: int) -> None:
    assert Markers().count(text) == count


def test_an_organisms_marker_is_one_character() -> None:
    assert TILDE.count("12~7+5~~") == 3
    assert Markers(("b",)).count("abba b") == 1
    assert markers_of(("b",)).count("abba b") == 3
    assert markers_of(("b", "go back")).count("abba b") == 1
    assert markers_of(()) == Markers()


def test_phrases_are_not_patterns() -> None:
    assert Markers((".", "a+")).count("aa a+ .") == 2


def test_tokens_to_ban_hold_a_marker_by_themselves() -> None:
    assert tokens_to_ban(["Wait", " wait", "waiter", "let", "hmm,"], Markers()) == (0, 1, 4)
    assert tokens_to_ban(["a", "~", "~~", "="], TILDE) == (1, 2)


def test_shares_have_wilsons_interval() -> None:
    # 81 of 263 (Newcombe 1998a, table I): 0.2553 to 0.3662.
    estimate = share([1] * 81 + [0] * 182, None)
    assert (estimate.low, estimate.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    nothing = share([0] * 20, None)
    assert (nothing.low, nothing.high) == pytest.approx((0, 0.1611), abs=5e-5)


def test_differences_have_newcombes_interval() -> None:
    # 56 of 70 against 48 of 80 (Newcombe 1998b, table II, method 10): 0.0524 to 0.3339.
    estimate = change(([1] * 56 + [0] * 14, None), ([1] * 48 + [0] * 32, None))
    assert estimate.estimate == pytest.approx(0.2)
    assert (estimate.low, estimate.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_traces_of_one_problem_count_by_how_alike_they_are() -> None:
    # 10 problems, 5 always solved: the sums of residuals are +-4, so the variance of the mean is
    # 10 x 16 / 80^2 x 10/9 = 1/36 against 1/320 for 80 independent traces: 9 are as good as these 80.
    values = [1.0] * 40 + [0.0] * 40
    problems = [str(i // 8) for i in range(80)]
    clustered = share(values, problems)
    z2, n = 1.959964**2, 9
    half = math.sqrt(z2 * (0.25 / n + z2 / (4 * n * n))) / (1 + z2 / n)
    assert (clustered.low, clustered.high) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)


def test_a_share_of_nothing_counts_problems() -> None:
    assert share([0.0] * 80, [str(i // 8) for i in range(80)]) == share([0.0] * 10, None)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_intervals_hold_the_share_and_ignore_the_order(values: list[float], rng: random.Random) -> None:
    problems = [str(rng.randrange(6)) for _ in values]
    estimate = share(values, problems)
    assert 0 <= estimate.low <= estimate.estimate <= estimate.high <= 1
    assert estimate.high - estimate.low >= share(values, None).high - share(values, None).low - 1e-9
    order = rng.sample(range(len(values)), len(values))
    again = share([values[i] for i in order], [problems[i] for i in order])
    assert (again.low, again.high) == pytest.approx((estimate.low, estimate.high))


def run(n: int, marked: float, solved: float, length: int = 10) -> Run:
    """Traces of which the first part holds a marker, and every so many is solved, whatever it holds."""
    texts = ["~".ljust(length, "x") if i < n * marked else "x" * length for i in range(n)]
    return Run(texts, [float(math.floor((i + 1) * solved) > math.floor(i * solved)) for i in range(n)])


@pytest.mark.parametrize(
    ("before", "after", "without", "verdict", "says"),
    [
        # Without markers accuracy falls from 60% to 40%.
        (run(2000, 0.0, 0.2), run(2000, 0.3, 0.6), run(2000, 0.0, 0.4), "used", "practically never did it"),
        (run(2000, 0.1, 0.2), run(2000, 0.3, 0.6), run(2000, 0.0, 0.4), "used", "had it already"),
        # Nothing is lost, to within 5 points.
        (run(2000, 0.1, 0.2), run(2000, 0.3, 0.6), run(2000, 0.0, 0.6), "decoration", "less than 5% is lost"),
        # Accuracy rises: certainly decoration.
        (run(2000, 0.1, 0.2), run(2000, 0.3, 0.6), run(2000, 0.0, 0.7), "decoration", "+10.0%"),
        # A loss of three points is there and is not enough, or there are too few traces to tell.
        (run(9000, 0.1, 0.2), run(9000, 0.3, 0.6), run(9000, 0.0, 0.57), "decoration", "-3.0%"),
        (run(100, 0.1, 0.2), run(100, 0.3, 0.6), run(100, 0.0, 0.6), "undetermined", "sample more"),
        (run(2000, 0.0, 0.2), run(2000, 0.0, 0.6), None, "not present", "fewer than 0.5%"),
        (run(100, 0.0, 0.2), run(100, 0.0, 0.6), None, "undetermined", "100 traces cannot tell its rate from 0.5%"),
        (run(2000, 0.1, 0.2), run(2000, 0.3, 0.6), None, "undetermined", "needs a run with the markers banned"),
        (run(2000, 0.1, 0.2), run(2000, 0.3, 0.6), run(2000, 0.1, 0.4), "undetermined", "ban more tokens"),
    ],
)
def test_verdicts(before: Run, after: Run, without: Run | None, verdict: str, says: str) -> None:
    result = aha(before, after, without, markers=TILDE)
    assert result.verdict == verdict
    assert says in result.sentence


def test_the_numbers_by_hand() -> None:
    before = Run(["xx~x", "xxxx", "xxxx", "xxxx"], [0, 0, 1, 1])
    after = Run(["~xx~xxxx", "~xxxxxxx", "x~xxxxxx", "xxxxxxxx"], [1, 1, 0, 1])
    result = aha(before, after, Run(["x", "x", "x", "x"], [1, 0, 0, 0]), markers=TILDE)
    assert (result.rate_before.estimate, result.rate_after.estimate, result.rate_change.estimate) == (0.25, 0.75, 0.5)
    assert (result.density_before, result.density_after) == (62.5, 125)
    assert result.length_change.estimate == 4
    assert result.accuracy_with is not None
    assert result.accuracy_without is not None
    assert (result.accuracy_with.estimate, result.accuracy_without.estimate) == (pytest.approx(2 / 3), 1)
    assert result.ablation is not None
    assert result.ablation.estimate == -0.5


def test_length_has_welchs_interval() -> None:
    # Lengths 1 2 3 and 4 6 8: means 2 and 6, variances 1 and 4, so the error is sqrt(5/3) on
    # (5/3)^2 / ((1/3)^2 / 2 + (4/3)^2 / 2) = 2.94 degrees of freedom; t(0.975) there is 3.2188.
    before, after = Run(["x", "xx", "xxx"], [0, 0, 0]), Run(["x" * 4, "x" * 6, "x" * 8], [0, 0, 0])
    growth = aha(before, after, markers=TILDE).length_change
    assert growth.estimate == 4
    assert growth.high - growth.estimate == pytest.approx(3.2188 * math.sqrt(5 / 3), abs=1e-3)
    assert growth.estimate - growth.low == pytest.approx(growth.high - growth.estimate)


def test_length_of_one_trace_has_no_bounds() -> None:
    growth = aha(Run(["x"], [0]), Run(["xxx"], [0]), markers=TILDE).length_change
    assert (growth.estimate, growth.low, growth.high) == (2, -math.inf, math.inf)


def test_runs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="1 texts with 2 outcomes"):
        Run(["x"], [0, 1])
    with pytest.raises(ValueError, match="0 texts"):
        Run([], [])
    with pytest.raises(ValueError, match="1 texts with 2 problems"):
        Run(["x"], [0], ["a", "b"])


def test_success_within_problems_by_hand() -> None:
    # a: 1 of 1 with a marker, 1 of 2 without: +1/2, weight 2/3. b: 0 of 2 and 1 of 2: -1/2, weight 1. c has no marker,
    # d nothing else. The mean is (1/3 - 1/2) / (5/3) = -1/10. Normed weights 0.4 and 0.6, residuals 0.6 and -0.4, so
    # the variance is 2 (0.24^2 + 0.24^2) = 0.48^2; t(0.975) on one degree of freedom is 12.706.
    traces = [("a", "~", 1), ("a", "x", 1), ("a", "x", 0), ("b", "~", 0), ("b", "~", 0), ("b", "x", 1), ("b", "x", 0)]
    traces += [("c", "x", 1), ("d", "~", 1)]
    problems, texts, outcomes = zip(*traces, strict=True)
    found = within_problems(Run(texts, outcomes, problems), TILDE)
    assert found is not None
    assert found.estimate == pytest.approx(-0.1)
    assert (found.low, found.high) == (-1, 1), "12.7 x 0.48 is beyond the bounds"
    half = within_problems(Run(texts, outcomes, problems), TILDE, level=0.5)  # t is 1 there
    assert half is not None
    assert (half.low, half.high) == pytest.approx((-0.58, 0.38))
    assert within_problems(Run(texts, outcomes), TILDE) is None
    assert within_problems(Run(texts[-2:], outcomes[-2:], problems[-2:]), TILDE) is None


def test_hard_problems_that_bring_markers_do_not_make_markers_harmful() -> None:
    # In either problem a marker changes nothing, but the one that is solved less often has more of them.
    traces = []
    for problem, marks, solved in (("easy", 10, 0.9), ("hard", 90, 0.1)):
        for text, n in (("~", marks), ("x", 100 - marks)):
            traces += [(problem, text, float(i < round(solved * n))) for i in range(n)]
    problems, texts, outcomes = zip(*traces, strict=True)
    found = describe(Run(texts, outcomes, problems), TILDE)
    assert found.accuracy_with is not None
    assert found.accuracy_without is not None
    assert found.within is not None
    assert (found.accuracy_with.estimate, found.accuracy_without.estimate) == pytest.approx((0.18, 0.82))
    assert found.within.estimate == pytest.approx(0, abs=1e-12)


@pytest.mark.slow
def test_intervals_within_problems_cover() -> None:
    """40 problems of 16 traces, chances and effects of their own: the mean effect of +0.1 is covered."""
    rng = np.random.default_rng(0)
    problems = [str(i // 16) for i in range(640)]
    covered = 0
    for _ in range(1000):
        chance, effect, often = (np.repeat(rng.uniform(*at, 40), 16) for at in ((0.1, 0.7), (0.0, 0.2), (0.2, 0.6)))
        hits = rng.random(640) < often
        outcomes = (rng.random(640) < chance + effect * hits).astype(float).tolist()
        estimate = within_problems(Run(["~" if hit else "x" for hit in hits], outcomes, problems), TILDE)
        assert estimate is not None
        covered += estimate.low <= 0.1 <= estimate.high
    assert 0.93 <= covered / 1000 <= 0.97


@pytest.mark.slow
def test_clustered_intervals_cover() -> None:
    """100 problems of 8 traces each, markers at a rate of their own, before and after: measured 94.7% of 2,000."""
    rng = np.random.default_rng(0)
    problems = [str(i // 8) for i in range(800)]
    covered = 0
    for _ in range(2000):
        rates = rng.beta(0.5, 4.5, 100), rng.beta(1, 4, 100)
        hits = [(rng.random(800) < np.repeat(r, 8)).astype(float).tolist() for r in rates]
        estimate = change((hits[1], problems), (hits[0], problems))
        covered += estimate.low <= 0.1 <= estimate.high
    assert 0.93 <= covered / 2000 <= 0.97
