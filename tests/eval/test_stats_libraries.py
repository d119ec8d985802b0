"""Equality with other implementations; each test runs where the other one is installed."""

import subprocess
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats

from palestra.eval.stats.paired import t_interval
from palestra.eval.stats.passk import pass_at_k, pass_at_k_curve
from palestra.eval.stats.reliability import g_pass_at_k, pass_hat_k

N, M = 24, 30


def test_nothing_heavy_is_loaded_before_it_is_needed() -> None:
    code = "import sys, palestra.eval.stats.verdict; print({'torch', 'scipy', 'pandas'} & set(sys.modules) or '')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.fixture
def counts() -> npt.NDArray[np.int64]:
    rng = np.random.default_rng(0)
    return rng.binomial(N, rng.beta(0.5, 1.5, M)).astype(np.int64)


@pytest.fixture
def outcomes(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Successes and failures, one row per problem."""
    return (np.arange(N) < counts[:, None]).astype(np.int64)


def human_eval(n: int, c: int, k: int) -> float:
    """`estimate_pass_at_k` of github.com/openai/human-eval, its product written out."""
    if n - c < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def test_pass_at_k_equals_human_eval(counts: npt.NDArray[np.int64]) -> None:
    curve = pass_at_k_curve(N, counts)
    for k in range(1, N + 1):
        theirs = [human_eval(N, int(c), k) for c in counts]
        assert curve[:, k - 1] == pytest.approx(theirs, abs=1e-13)
        assert np.asarray(pass_at_k(N, counts, k)) == pytest.approx(theirs, abs=1e-13)


@pytest.mark.parametrize("n", [64, 1024, 10_000])
def test_pass_at_k_equals_the_hypergeometric_tail(n: int) -> None:
    c = np.unique(np.geomspace(1, n, 12).astype(np.int64))
    ks = np.unique(np.geomspace(1, n, 9).astype(np.int64))
    curve = pass_at_k_curve(n, c)
    for k in ks:
        assert curve[:, k - 1] == pytest.approx(scipy.stats.hypergeom.sf(0, n, c, k), abs=1e-12)


@pytest.mark.parametrize("k", [1, 2, 7, 24])
def test_scorio(counts: npt.NDArray[np.int64], outcomes: npt.NDArray[np.int64], k: int) -> None:
    scorio: Any = pytest.importorskip("scorio.eval")
    assert np.mean(pass_at_k(N, counts, k)) == pytest.approx(scorio.pass_at_k(outcomes, k), abs=1e-12)
    assert pass_hat_k(N, counts, k).mean() == pytest.approx(scorio.pass_hat_k(outcomes, k), abs=1e-12)
    for tau in (0.0, 0.25, 0.5, 0.9, 1.0):
        theirs = scorio.g_pass_at_k_tau(outcomes, k, tau)
        assert g_pass_at_k(N, counts, k, tau).mean() == pytest.approx(theirs, abs=1e-12)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("k", [1, 5, 24])
def test_inspect_pass_at(outcomes: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], k: int) -> None:
    scorer: Any = pytest.importorskip("inspect_ai.scorer")
    reduce = scorer.pass_at(k)
    theirs = [reduce([scorer.Score(value=float(x)) for x in row]).as_float() for row in outcomes]
    assert np.asarray(pass_at_k(N, counts, k)) == pytest.approx(theirs, abs=1e-12)


@pytest.mark.filterwarnings("ignore")
def test_inspect_clustered_standard_error() -> None:
    std: Any = pytest.importorskip("inspect_ai.scorer._metrics.std")
    rng = np.random.default_rng(0)
    member = np.repeat(np.arange(12), 4)
    x = rng.random(12)[member] + 0.1 * rng.random(48)
    theirs = std._clustered_stderr([x[member == g].tolist() for g in range(12)])
    ours = t_interval(x, clusters=member)
    half = float(scipy.stats.t.ppf(0.975, 11)) * theirs
    assert ours.high - ours.estimate == pytest.approx(half, abs=1e-12)
