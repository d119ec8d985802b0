"""Power sampling draws from p^alpha exactly, at any length: held against full enumeration."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from palestra.eval.power import Drawn, PowerSettings, Seeds, _mixed, _uniform, log_ratio, power_sample
from palestra.eval.stats.passk import FloatArray, IntArray

STOP = 0


class Table:
    """A model over few tokens, whose next-token probabilities are a table of the sequence so far; 0 may be a stop."""

    def __init__(self, following: dict[tuple[int, ...], FloatArray], alpha: float, stop: int | None) -> None:
        self.alpha, self.stop = alpha, stop
        self.codes = {prefix: row for row, prefix in enumerate(following)}
        with np.errstate(divide="ignore"):
            self.logp = np.log(np.array(list(following.values())))
        hot = np.exp(alpha * self.logp)
        self.q = hot / hot.sum(1, keepdims=True)
        size = self.logp.shape[1]
        self.next = np.array([[self.codes.get((*p, t), -1) for t in range(size)] for p in following])

    def draw(self, chains: IntArray, tokens: IntArray, kept: IntArray, limit: int, seeds: Seeds) -> Drawn:
        n = len(chains)
        out = np.zeros((n, limit), dtype=np.int64)
        out[:, : tokens.shape[1]] = tokens
        lengths, ended = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=bool)
        code, logp, logq = np.zeros(n, dtype=np.int64), np.zeros((n, limit)), np.zeros(n)
        for t in range(limit):
            going = np.flatnonzero(~ended)
            at = code[going]
            cumulative = self.q[at].cumsum(1)
            drawn = (_uniform(seeds[going], 1000 + t)[:, None] * cumulative[:, -1:] >= cumulative).sum(1)
            token = np.where(t < kept[going], out[going, t], drawn)
            out[going, t] = token
            logp[going, t] = self.logp[at, token]
            logq[going] += np.log(self.q[at, token])
            lengths[going] = t + 1
            if self.stop is not None:
                ended[going] = token == self.stop
            code[going] = self.next[at, token]
        return Drawn(out, lengths, ended, logp, logq)


def world(rng: np.random.Generator, size: int = 4, most: int = 4) -> dict[tuple[int, ...], FloatArray]:
    """Random next-token probabilities after every sequence that has not ended; token 0 ends it."""
    prefixes = [p for length in range(most) for p in product(range(1, size), repeat=length)]
    return {prefix: rng.dirichlet(np.full(size, 0.7)) for prefix in prefixes}


def everything(following: dict[tuple[int, ...], FloatArray], most: int) -> dict[tuple[int, ...], float]:
    """All turns with their probabilities: those that end, and those cut at the limit."""
    found: dict[tuple[int, ...], float] = {}

    def walk(prefix: tuple[int, ...], p: float) -> None:
        if len(prefix) == most or (prefix and prefix[-1] == STOP):
            found[prefix] = p
            return
        for token, share in enumerate(following[prefix]):
            walk((*prefix, token), p * share)

    walk((), 1.0)
    assert sum(found.values()) == pytest.approx(1.0)
    return found


def powered(p: dict[tuple[int, ...], float], alpha: float) -> dict[tuple[int, ...], float]:
    total = sum(x**alpha for x in p.values())
    return {turn: x**alpha / total for turn, x in p.items()}


def shares(drawn: Drawn) -> dict[tuple[int, ...], float]:
    turns, counts = np.unique(
        np.where(np.arange(drawn.tokens.shape[1]) < drawn.lengths[:, None], drawn.tokens, -1),
        axis=0,
        return_counts=True,
    )
    keys = [tuple(int(t) for t in turn if t >= 0) for turn in turns]
    return dict(zip(keys, counts / counts.sum(), strict=True))


def total_variation(a: dict[tuple[int, ...], float], b: dict[tuple[int, ...], float]) -> float:
    return 0.5 * sum(abs(a.get(x, 0.0) - b.get(x, 0.0)) for x in a.keys() | b.keys())


@pytest.mark.parametrize("alpha", [1.0, 2.0, 4.0])
def test_each_move_is_reversible_whatever_the_lengths(alpha: float) -> None:
    """The whole kernel, summed over cuts: pi_x K(x, y) = pi_y K(y, x) for every pair of turns."""
    following = world(np.random.default_rng(1), size=3, most=4)
    p = everything(following, 4)
    table, target = Table(following, alpha, STOP), powered(p, alpha)
    turns = list(p)
    logq = {t: [np.log(table.q[table.codes[t[:i]], t[i]]) for i in range(len(t))] for t in turns}

    def state(turn: tuple[int, ...]) -> Drawn:
        logp = np.array([[np.log(following[turn[:i]][turn[i]]) for i in range(len(turn))]])
        return Drawn(np.array([turn]), np.array([len(turn)]), np.array([True]), logp, np.array([sum(logq[turn])]))

    flow = np.zeros((len(turns), len(turns)))
    for i, x in enumerate(turns):
        for j, y in enumerate(turns):
            common = next((k for k, (s, t) in enumerate(zip(x, y, strict=False)) if s != t), None)
            if x == y or common is None:
                continue  # one begins with the other: impossible, as a turn ends but once
            accept = min(1.0, float(np.exp(log_ratio(state(x), state(y), alpha))[0]))
            reach = sum(np.exp(sum(logq[y][cut:])) for cut in range(common + 1)) / len(x)
            flow[i, j] = target[x] * reach * accept
    assert flow == pytest.approx(flow.T, abs=1e-15)
    assert (flow > 0).sum() > 100


@pytest.mark.parametrize(
    ("alpha", "chains", "limit"),
    [
        (2.0, 10_000, 0.04),
        *(pytest.param(alpha, 100_000, 0.02, marks=pytest.mark.slow) for alpha in (1.0, 2.0, 4.0)),
    ],
)
def test_samples_are_of_the_power(alpha: float, chains: int, limit: float) -> None:
    following = world(np.random.default_rng(3))
    target = powered(everything(following, 4), alpha)
    drawn, spent = power_sample(
        Table(following, alpha, STOP),
        np.arange(chains, dtype=np.uint64),
        PowerSettings(alpha=alpha, block=2, moves=24),
        4,
    )
    lengths = np.array([len(turn) for turn in target])
    assert len(set(lengths.tolist())) == 4, "turns of every length"
    assert total_variation(shares(drawn), target) < limit
    assert (spent > drawn.lengths).all()


@pytest.mark.slow
def test_leaving_out_the_lengths_would_be_seen() -> None:
    """The same test fails for the kernel without the factor L/L': the world is one in which it matters."""
    following, alpha = world(np.random.default_rng(3)), 2.0
    target = powered(everything(following, 4), alpha)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "palestra.eval.power.log_ratio",
            lambda old, new, alpha: alpha * (new.logp.sum(1) - old.logp.sum(1)) + old.logq - new.logq,
        )
        drawn, _ = power_sample(
            Table(following, alpha, STOP), np.arange(50_000, dtype=np.uint64), PowerSettings(alpha=alpha, moves=40), 4
        )
    assert total_variation(shares(drawn), target) > 0.04


def test_the_power_looks_ahead_where_a_low_temperature_does_not() -> None:
    """Example 1 of arXiv 2510.14901: p(ab) = .40, p(ba) = p(bb) = .25, unnormalised, alpha = 2."""
    a, b = 0, 1
    following = {
        (): np.array([0.40, 0.50]) / 0.9,
        (a,): np.array([0.0, 1.0]),
        (b,): np.array([0.5, 0.5]),
    }
    table = Table(following, 2.0, None)
    seeds = np.arange(40_000, dtype=np.uint64)
    drawn, _ = power_sample(table, seeds, PowerSettings(alpha=2.0, block=2, moves=20), 2)
    low = table.draw(
        np.arange(len(seeds)), np.zeros((len(seeds), 0), np.int64), np.zeros(len(seeds), np.int64), 2, seeds
    )
    assert np.mean(drawn.tokens[:, 0] == a) == pytest.approx(0.160 / (0.160 + 0.125), abs=0.01)
    assert np.mean(low.tokens[:, 0] == a) == pytest.approx(0.160 / (0.160 + 0.250), abs=0.01)


def test_a_chain_depends_on_its_own_seed_alone() -> None:
    table = Table(world(np.random.default_rng(0)), 2.0, STOP)
    settings = PowerSettings(alpha=2.0, block=2, moves=5)
    seeds = np.array([5, 2**63 + 7, 11], dtype=np.uint64)
    together, _ = power_sample(table, seeds, settings, 4)
    for row, seed in enumerate(seeds):
        alone, _ = power_sample(table, np.array([seed]), settings, 4)
        length = alone.lengths[0]
        assert together.lengths[row] == length
        assert together.tokens[row, :length].tolist() == alone.tokens[0, :length].tolist()


def test_streams_of_numbers_are_uniform_and_apart() -> None:
    seeds = np.arange(100_000, dtype=np.uint64)
    numbers = np.stack([_uniform(seeds, clock) for clock in range(4)])
    assert numbers.mean(1) == pytest.approx([0.5] * 4, abs=0.005)
    assert np.abs(np.corrcoef(numbers) - np.eye(4)).max() < 0.015
    assert len(np.unique(_mixed(seeds, 9))) == len(seeds)


@pytest.mark.e2e
def test_a_model_in_this_process_is_sampled_from_the_power(organism: Path) -> None:
    """The first turn of a task, enumerated token by token, against what the engine draws."""
    from palestra.agents.codec import ChatCodec
    from palestra.agents.engine import SamplingParams
    from palestra.agents.models import load_model
    from palestra.agents.scoring import token_logprobs
    from palestra.agents.transformers_engine import TransformersEngine
    from palestra.eval.power import PowerEngine

    loaded = load_model(str(organism))
    codec = ChatCodec(loaded.tokenizer)
    letters = codec.encode_turn("ab")[:-1]
    allowed = [*letters, codec.end_id]
    banned = tuple(i for i in range(len(loaded.tokenizer)) if i not in allowed)
    prompt = codec.start("", "A(abcd) = ?")
    turns = [[codec.end_id]]
    turns += [[letter, codec.end_id] for letter in letters]
    turns += [list(w) for w in product(letters, repeat=2)]
    (logp,) = token_logprobs(loaded.model, [prompt] * len(turns), turns, banned=banned)
    p = dict(zip(map(tuple, turns), np.exp(logp.sum(1)).tolist(), strict=True))
    assert sum(p.values()) == pytest.approx(1.0, abs=1e-5)
    engine = PowerEngine(
        TransformersEngine(loaded.model, codec.stop_ids, codec.pad_id), PowerSettings(alpha=2.0, block=1, moves=10)
    )
    params, n = SamplingParams(2, banned=banned), 2000
    done = engine.generate([prompt] * n, params, range(n))
    turns_seen, counts = np.unique([str(tuple(c.ids)) for c in done], return_counts=True)
    target = {str(turn): x for turn, x in powered(p, 2.0).items()}
    distance = total_variation(dict(zip(turns_seen.tolist(), counts / n, strict=True)), target)  # type: ignore[arg-type]
    assert distance < 0.05
    assert sum(done[0].logprobs) == pytest.approx(np.log(p[tuple(done[0].ids)]), abs=1e-4)
    assert min(engine.drawn.values()) >= 20
