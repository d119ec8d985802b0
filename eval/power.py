r"""Power sampling: draws turns from p(turn)^alpha, sharpened without training (Karan and Du 2025, arXiv 2510.14901).

What this reaches with the base model alone is no evidence that training added anything: it is the control for gains.
A low temperature is not the same: it weighs a token by (sum of its futures' p)^alpha, this by the sum of (p^alpha).

Metropolis-Hastings, block by block. Within a block's limit the state is a turn that ended, or one cut at the limit. A
move picks a cut c uniformly among the L tokens of the turn x, draws the rest anew from the model at temperature
1/alpha (the proposal q), up to a stop or the limit, and takes the result x' of length L' with probability

    min(1, (p(x')/p(x))^alpha  q(x|c)/q(x'|c)  L/L')

The way back picks the same cut with probability 1/L', hence the last factor; the part before the cut is common, so its
terms cancel, and x' may be longer or shorter than x. So each move is reversible with respect to p^alpha at any length,
which the published code is not: it compares sequences cut to one length and leaves out the factor. In an episode of
several turns each turn is drawn so, given what came before.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from palestra.agents.engine import BatchStream, Completion, SamplingParams, Stream
from palestra.agents.scoring import token_logprobs
from palestra.agents.transformers_engine import TransformersEngine
from palestra.eval.stats.passk import FloatArray, IntArray

Seeds = npt.NDArray[np.uint64]


class PowerSettings(BaseModel):
    """How power sampling is done; the paper's alpha is 4 and its moves per block 10."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    alpha: float = Field(gt=0)
    """Power of the model's probability."""
    block: PositiveInt = 16
    """Tokens by which the limit grows."""
    moves: PositiveInt = 10
    """Moves at each limit."""


class Drawn(NamedTuple):
    """Turns of several chains, padded on the right."""

    tokens: IntArray
    """Shape (chains, limit); what stands beyond a turn's length has no meaning."""
    lengths: IntArray
    """At least 1, shape (chains,)."""
    ended: npt.NDArray[np.bool_]
    """Whether the last token is a stop, shape (chains,)."""
    logp: FloatArray
    """Log-probability of each token under the model, in nats, 0 beyond the length, shape (chains, limit)."""
    logq: FloatArray
    """Log-probability of the turn at temperature 1/alpha, in nats, shape (chains,)."""


class Proposal(Protocol):
    """Draws turns at temperature 1/alpha."""

    def draw(self, chains: IntArray, tokens: IntArray, kept: IntArray, limit: int, seeds: Seeds) -> Drawn:
        """Keep the first `kept` tokens of each chain's turn and draw the rest, up to a stop or `limit` tokens.

        Args:
            chains: Which chains, shape (n,).
            tokens: Their turns so far, shape (n, any width).
            kept: Tokens to keep, less than `limit`, shape (n,).
            limit: Most tokens of a turn.
            seeds: One for each draw, shape (n,).
        """
        ...


def power_sample(proposal: Proposal, seeds: Seeds, settings: PowerSettings, most: int) -> tuple[Drawn, IntArray]:
    """Run one chain per seed and return its last state.

    Args:
        proposal: The model.
        seeds: Shape (chains,); a chain depends on its own seed alone.
        settings: Alpha, blocks, and moves.
        most: Most tokens of a turn.

    Returns:
        The turns, and how many tokens each chain drew for its own, shape (chains,).
    """
    everyone = np.arange(len(seeds))
    spent = np.zeros(len(seeds), dtype=np.int64)
    nothing = np.zeros((len(seeds), 0), dtype=np.int64)
    state: Drawn | None = None
    clock = 0
    for limit in [*range(settings.block, most, settings.block), most]:
        clock += 1
        if state is None:
            kept = np.zeros(len(seeds), dtype=np.int64)
            state = proposal.draw(everyone, nothing, kept, limit, _mixed(seeds, clock))
            spent += state.lengths
        else:
            state = _widened(state, limit)
            going = np.flatnonzero(~state.ended)
            if len(going):
                kept = state.lengths[going]
                grown = proposal.draw(going, state.tokens[going], kept, limit, _mixed(seeds[going], clock))
                spent[going] += grown.lengths - kept
                state = _replaced(state, going, grown)
        for _ in range(settings.moves):
            clock += 3
            cuts = np.floor(_uniform(seeds, clock) * state.lengths).astype(np.int64)
            new = proposal.draw(everyone, state.tokens, cuts, limit, _mixed(seeds, clock + 1))
            spent += new.lengths - cuts
            taken = np.log(_uniform(seeds, clock + 2)) < log_ratio(state, new, settings.alpha)
            rows = np.flatnonzero(taken)
            state = _replaced(state, rows, _of(new, rows))
    assert state is not None
    return state, spent


def log_ratio(old: Drawn, new: Drawn, alpha: float) -> FloatArray:
    """Return the logarithm of the ratio with which a move is taken, shape (chains,)."""
    target = alpha * (new.logp.sum(1) - old.logp.sum(1))
    proposed = old.logq - new.logq
    ratio: FloatArray = target + proposed + np.log(old.lengths / new.lengths)
    return ratio


class PowerEngine:
    """Samples turns by power sampling; an `Engine`.

    Args:
        inner: Draws the proposals.
        settings: Alpha, blocks, and moves.

    Attributes:
        drawn: Tokens that were drawn for a turn, by its seed.
    """

    def __init__(self, inner: TransformersEngine, settings: PowerSettings) -> None:
        self._inner = inner
        self._settings = settings
        self.drawn: dict[int, int] = {}

    def open(self, params: SamplingParams, most: int) -> Stream:
        """Return a stream; the parameters' temperature and top-p must be 1.

        Raises:
            ValueError: They are not.
        """
        if (params.temperature, params.top_p) != (1.0, 1.0):
            raise ValueError("power sampling is of the model itself: temperature and top_p must be 1.")
        return BatchStream(self.generate, params, most)

    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, seeds: Sequence[int]
    ) -> list[Completion]:
        """Sample one completion per prompt, with its log-probabilities under the model itself."""
        proposal = _ModelProposal(self._inner, prompts, params, self._settings.alpha)
        chains = np.array(seeds, dtype=np.uint64)
        turns, spent = power_sample(proposal, chains, self._settings, params.max_tokens)
        self.drawn.update(zip(seeds, spent.tolist(), strict=True))
        return [
            Completion(ids[:length].tolist(), logp[:length].tolist(), "eos" if ended else "length")
            for ids, length, ended, logp in zip(turns.tokens, turns.lengths, turns.ended, turns.logp, strict=True)
        ]


class _ModelProposal:
    def __init__(
        self, engine: TransformersEngine, prompts: Sequence[Sequence[int]], params: SamplingParams, alpha: float
    ) -> None:
        self._engine, self._prompts, self._params, self._alpha = engine, prompts, params, alpha

    def draw(self, chains: IntArray, tokens: IntArray, kept: IntArray, limit: int, seeds: Seeds) -> Drawn:
        starts = [row[:keep].tolist() for row, keep in zip(tokens, kept, strict=True)]
        turns: list[list[int]] = [[] for _ in chains]
        ended = np.zeros(len(chains), dtype=bool)
        for room in np.unique(limit - kept).tolist():  # one call for those with the same room
            rows = np.flatnonzero(limit - kept == room)
            params = SamplingParams(room, 1.0 / self._alpha, banned=self._params.banned)
            begun = [[*self._prompts[chains[row]], *starts[row]] for row in rows]
            for row, done in zip(rows, self._engine.generate(begun, params, seeds[rows].tolist()), strict=True):
                turns[row] = starts[row] + done.ids
                ended[row] = done.stop == "eos"
        lengths = np.array([len(turn) for turn in turns])
        padded = np.zeros((len(chains), limit), dtype=np.int64)
        for number, turn in enumerate(turns):
            padded[number, : len(turn)] = turn
        prompts = [self._prompts[chain] for chain in chains]
        logp, logq = token_logprobs(self._engine.model, prompts, turns, (1.0, 1.0 / self._alpha), self._params.banned)
        wide = np.zeros((len(chains), limit))
        wide[:, : logp.shape[1]] = logp
        return Drawn(padded, lengths, ended, wide, logq.sum(1))


def _widened(state: Drawn, limit: int) -> Drawn:
    grow = ((0, 0), (0, limit - state.tokens.shape[1]))
    return state._replace(tokens=np.pad(state.tokens, grow), logp=np.pad(state.logp, grow))


def _of(state: Drawn, rows: IntArray) -> Drawn:
    return Drawn(state.tokens[rows], state.lengths[rows], state.ended[rows], state.logp[rows], state.logq[rows])


def _replaced(state: Drawn, rows: IntArray, new: Drawn) -> Drawn:
    copy = Drawn(*(part.copy() for part in state))  # type: ignore[arg-type]
    for old, fresh in zip(copy, new, strict=True):
        old[rows] = fresh
    return copy


def _mixed(seeds: Seeds, clock: int) -> Seeds:
    """Return the numbers of the seeds' own streams at one place (splitmix64), shape (chains,)."""
    with np.errstate(over="ignore"):
        z: Any = seeds + np.uint64((clock * 0x9E3779B97F4A7C15) & (2**64 - 1))
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: Seeds = z ^ (z >> np.uint64(31))
    return mixed


def _uniform(seeds: Seeds, clock: int) -> FloatArray:
    """Return numbers in (0, 1), shape (chains,)."""
    uniform: FloatArray = ((_mixed(seeds, clock) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return uniform
