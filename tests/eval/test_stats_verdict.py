"""The discovery test, labels of single problems, parts of rules, and the verdict."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from palestra.eval.stats.discovery import (
    DiscoveryRule,
    Fresh,
    candidates,
    confirm,
    failure_p_values,
    samples_needed,
    success_p_values,
)
from palestra.eval.stats.intervals import Interval
from palestra.eval.stats.parts import Part
from palestra.eval.stats.problems import ProblemLabel, label_problems
from palestra.eval.stats.verdict import Evidence, Label, Verdict, VerdictRule, verdict

RULE = DiscoveryRule()
FAST = VerdictRule(resamples=300)
NONE = np.zeros(4, dtype=bool)


def drawn(where: Sequence[bool], n: int, c: int) -> Fresh:
    return Fresh(np.where(where, n, 0), np.where(where, c, 0))


# The discovery test.


@given(st.integers(1, 500), st.data())
def test_p_values_equal_the_binomial_test(n: int, data: st.DataObject) -> None:
    c = data.draw(st.integers(0, n))
    less = scipy.stats.binomtest(c, n, RULE.weak_limit, alternative="less").pvalue
    more = scipy.stats.binomtest(c, n, RULE.delta, alternative="greater").pvalue
    assert failure_p_values([n], [c], RULE)[0] == pytest.approx(less, abs=1e-9)
    assert success_p_values([n], [c], RULE)[0] == pytest.approx(more, abs=1e-9)


@pytest.mark.parametrize(
    ("budget", "eta", "n"), [(16, 0.5, 70), (64, 0.2, 860), (256, 0.5, 1107), (256, 0.05, 14952), (1024, 0.2, 13748)]
)
def test_samples_needed_are_those_of_the_table_and_just_enough(budget: int, eta: float, n: int) -> None:
    assert samples_needed(budget, eta) == n
    rule = DiscoveryRule(budget, eta)
    assert failure_p_values([n], [0], rule)[0] <= 0.05 < failure_p_values([n - 1], [0], rule)[0]


def test_candidates_fail_in_the_base_and_succeed_in_the_trained_model() -> None:
    found = candidates((64, [0, 0, 1, 0]), (64, [40, 0, 40, 4]), RULE)
    assert found.tolist() == [True, False, False, False]


def test_a_guesser_is_no_candidate() -> None:
    assert candidates((64, [0]), (64, [20]), RULE, chance=0.25).tolist() == [False]
    assert candidates((64, [0]), (64, [60]), RULE, chance=[0.25]).tolist() == [True]


def test_confirmation_needs_enough_fresh_samples() -> None:
    where = [True, True, True, False]
    candidate = np.array(where)
    assert confirm(candidate, drawn(where, 2048, 0), RULE).confirmed.tolist() == where
    assert not confirm(candidate, drawn(where, 500, 0), RULE).confirmed.any()
    assert not confirm(candidate, drawn(where, 2048, 8), RULE).confirmed.any()
    assert not confirm(candidate, None, RULE).confirmed.any()


def test_only_candidates_are_tested() -> None:
    found = confirm(NONE, drawn([True] * 4, 4096, 0), RULE)
    assert found.p_values.tolist() == [1.0] * 4
    assert found.at_least == 0


def test_alike_confirmations_all_count_as_true() -> None:
    every = np.ones(40, dtype=bool)
    assert confirm(every, drawn(every.tolist(), 2048, 0), RULE).at_least == 40


def test_a_control_that_succeeds_refutes_the_discovery() -> None:
    where = [True] * 4
    control = Fresh(np.full(4, 2048), np.array([0, 0, 100, 0]))
    found = confirm(np.array(where), drawn(where, 2048, 0), RULE, controls=[control])
    assert found.confirmed.tolist() == [True, True, False, True]


def test_a_control_not_drawn_leaves_the_problem_open() -> None:
    where = [True] * 4
    found = confirm(np.array(where), drawn(where, 2048, 0), RULE, controls=[drawn([True] * 3 + [False], 2048, 0)])
    assert found.confirmed.tolist() == [True, True, True, False]


def test_problems_have_one_label_each() -> None:
    discovered, lost = np.array([True, False, False, False]), np.array([False, True, False, False])
    labels = label_problems(64, [0, 50, 10, 50], [50, 0, 60, 50], discovered=discovered, lost=lost, rule=RULE)
    assert labels.tolist() == [
        ProblemLabel.DISCOVERED,
        ProblemLabel.LOST,
        ProblemLabel.SHARPENED,
        ProblemLabel.UNRESOLVED,
    ]


# Parts of rules.


def test_part_holds_is_ruled_out_or_open() -> None:
    assert Part("x", Interval(0.2, 0.1, 0.3), 0.0, above=True).state == "holds"
    assert Part("x", Interval(0.2, 0.1, 0.3), 0.0, above=False).state == "ruled out"
    assert Part("x", Interval(0.02, -0.02, 0.06), 0.05, above=False).state == "open"


def test_open_part_says_how_many_problems_decide() -> None:
    # Half-width 0.04 towards the threshold, gap 0.03: (4/3)^2 times as many.
    part = Part("x", Interval(0.02, -0.02, 0.06), 0.05, above=False)
    assert part.problems_needed(90) == 160
    # On the wrong side by 0.02 with half-width 0.05: 6.25 times as many rule it out.
    assert Part("x", Interval(0.07, 0.02, 0.12), 0.05, above=False).problems_needed(90) == 563
    assert Part("x", Interval(0.05, 0.02, 0.1), 0.05, above=False).problems_needed(90) is None


# The verdict.


def judged(base: Any, trained: Any, m: int = 150, n: int = 128, **changes: Any) -> Verdict:
    """Judge one draw of two models with known success probabilities, fresh samples included."""
    rng = np.random.default_rng(0)
    p, q = np.broadcast_to(base, m), np.broadcast_to(trained, m)
    evidence = replace(Evidence(n, rng.binomial(n, p), rng.binomial(n, q)), **changes)
    gain, loss = evidence.discovery_candidates(RULE), evidence.loss_candidates(RULE)
    fresh = [Fresh(np.where(g, 2048, 0), rng.binomial(np.where(g, 2048, 0), x)) for g, x in ((gain, p), (loss, q))]
    return verdict(replace(evidence, fresh_base=fresh[0], fresh_trained=fresh[1]), FAST)


def test_the_same_model_has_no_effect() -> None:
    found = judged(0.3, 0.3)
    assert found.labels == (Label.NO_EFFECT,)
    assert found.needs == ()


def test_sharpening_is_named_with_its_reasons() -> None:
    found = judged(0.2, 0.6)
    assert found.labels == (Label.SHARPEN,)
    assert "Delta at k=1 is +0.4" in found.reasons[Label.SHARPEN]
    assert "above 0" in found.reasons[Label.SHARPEN]
    assert set(found.problems.tolist()) <= {"sharpened", "unresolved"}


def test_discovery_and_loss_go_together() -> None:
    base, trained = np.repeat([0.0, 0.4, 0.4], 50), np.repeat([0.4, 0.0, 0.4], 50)
    found = judged(base, trained)
    assert found.labels == (Label.DISCOVER, Label.LOSE)
    assert found.discovered.confirmed.tolist() == (base == 0).tolist()
    assert found.lost.confirmed.tolist() == (trained == 0).tolist()
    assert "no control with the answer format" in found.reasons[Label.DISCOVER]


def test_a_base_that_succeeds_with_the_format_shown_is_no_discovery() -> None:
    base, trained = np.repeat([0.0, 0.4], 75), np.full(150, 0.4)
    found = judged(base, trained, controls={"format shown": Fresh(np.full(150, 2048), np.full(150, 700))})
    assert Label.DISCOVER not in found.labels
    assert "none confirmed" in found.reasons[Label.DISCOVER]


def test_swapping_the_models_swaps_the_labels() -> None:
    rng = np.random.default_rng(0)
    n, rates = 64, np.repeat([0.0, 0.4], 60)
    c, d = rng.binomial(n, rates), rng.binomial(n, 0.4, 120)
    fresh = drawn((rates == 0).tolist(), 2048, 0)
    forward = verdict(Evidence(n, c, d, fresh_base=fresh), FAST)
    backward = verdict(Evidence(n, d, c, fresh_trained=fresh), FAST)
    assert forward.labels == (Label.DISCOVER,)
    assert backward.labels == (Label.LOSE, Label.SHRINK)
    assert forward.curves is not None
    assert backward.curves is not None
    assert forward.curves.delta.estimate == pytest.approx(-backward.curves.delta.estimate)


def test_no_success_in_64_samples_alone_never_discovers() -> None:
    found = verdict(Evidence(64, [0] * 40, [60] * 40), FAST)
    assert Label.DISCOVER not in found.labels
    assert "none confirmed" in found.reasons[Label.DISCOVER]
    assert any(need.startswith("DISCOVER") for need in found.needs)


def test_shrinking_comes_with_its_crossover() -> None:
    found = judged(np.full(150, 0.1), np.repeat([0.0, 0.5], 75))
    assert {Label.LOSE, Label.SHRINK} <= set(found.labels)
    assert found.curves is not None
    assert 1 < found.curves.crossover.low < found.curves.crossover.high < 64


def test_few_problems_decide_nothing_and_say_what_would() -> None:
    rng = np.random.default_rng(1)
    p = rng.beta(0.5, 2.0, 20)
    found = verdict(Evidence(32, rng.binomial(32, p), rng.binomial(32, np.sqrt(p))), FAST)
    assert found.labels == (Label.NOT_DECIDED,)
    assert found.reasons[Label.NOT_DECIDED]
    assert any("problems instead of 20" in need for need in found.needs)


def test_more_samples_are_named_where_they_would_decide() -> None:
    rng = np.random.default_rng(3)
    p = np.full(60, 0.06)
    found = verdict(Evidence(16, rng.binomial(16, p), rng.binomial(16, p)), FAST)
    assert found.labels == (Label.NOT_DECIDED,)
    assert any("samples instead of 16" in need for need in found.needs)


def test_guessing_forbids_claims_about_curves() -> None:
    found = judged(0.3, 0.6, chance=np.full(150, 0.25))
    assert found.labels == (Label.NOT_DECIDED,)
    assert found.curves is None
    assert "guessing alone reaches pass@1 of 0.25" in found.reasons[Label.NOT_DECIDED]
    one = judged(0.3, 0.6, chance=np.array([1.0] + [0.0] * 149))
    reason = "guessing alone solves 1 of the problems in more than 9 of 10 attempts; leave them out"
    assert one.reasons[Label.NOT_DECIDED].startswith(reason)
    assert judged(0.3, 0.6, k_limit=0).reasons[Label.NOT_DECIDED].startswith("claims are limited to k < 1")


def test_the_verifier_limits_k() -> None:
    found = judged(0.2, 0.6, k_limit=4)
    assert found.curves is not None
    assert found.curves.ks[-1] == 4
    assert "curves up to k=4" in found.budget


def test_clusters_are_resampled_whole() -> None:
    found = judged(0.2, 0.6, clusters=np.repeat(np.arange(75), 2))
    assert found.labels == (Label.SHARPEN,)


def test_a_verdict_is_reproducible() -> None:
    assert judged(0.2, 0.3).reasons == judged(0.2, 0.3).reasons


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DiscoveryRule(budget=0), "budget"),
        (lambda: DiscoveryRule(eta=1.0), "eta"),
        (lambda: samples_needed(0, 0.5), "budget"),
        (lambda: candidates((4, [1]), (4, [1, 2]), RULE), "same problems"),
        (lambda: success_p_values([4], [1], RULE, 1.5), "chance rate"),
        (lambda: confirm(NONE, Fresh([4], [0]), RULE), "one n and c per problem"),
        (lambda: verdict(Evidence(1, [1], [1])), "at least 2 samples"),
        (lambda: verdict(Evidence(4, [], [])), "at least 1 problem"),
        (lambda: verdict(Evidence(4, [5], [1])), "between 0 and n"),
        (lambda: verdict(Evidence(4, [1, 2], [1])), "same problems"),
        (lambda: verdict(Evidence(4, [1, 2], [1, 2], chance=[0.1])), "one rate per problem"),
    ],
)
def test_misuse_is_refused_in_a_sentence(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_what_is_no_candidate_is_never_confirmed() -> None:
    zeros_and_ones: Any = np.array([1, 0])
    assert confirm(zeros_and_ones, Fresh([3000, 3000], [0, 0]), RULE).confirmed.tolist() == [True, False]
