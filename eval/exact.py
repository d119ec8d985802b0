"""Success probabilities of a model without sampling: every turn it could write, the most probable first.

An episode is a function of its turns, so p is the sum over all sequences of turns that succeed. Prefixes are expanded
by their probability, the largest first; a finished turn is played, and where the episode goes on so does its next
turn. What is not expanded is known as well: it is what is left of 1. So at any time

    found in successes  <=  p  <=  found in successes + unexplored

and where few turns carry the probability (forced traces, short answers, few actions), the two meet: p is exact, and
pass@k = 1-(1-p)^k for every k, no matter how large (`palestra.eval.stats.exact`).
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from palestra.agents.codec import ChatCodec
from palestra.envs.core import TextEnv

EXPANSIONS = 64
"""Prefixes that one forward pass reads."""
FLOOR = 1e-12
"""Continuations less probable than this are left unexplored, and counted so."""


class Bracket(NamedTuple):
    """What is known of a success probability, for certain up to floating point."""

    low: float
    """Probability of the successes found."""
    high: float
    """`low` and what was not explored."""
    episodes: int
    """Episodes that were played to their end."""
    expansions: int
    """Prefixes that the model read."""


@dataclass(order=True)
class _Prefix:
    cost: float
    """Minus the logarithm of its probability."""
    number: int
    """Breaks ties."""
    turns: tuple[tuple[int, ...], ...] = field(compare=False)
    """Finished turns."""
    ids: list[int] = field(compare=False)
    """All tokens up to the present turn."""
    turn: tuple[int, ...] = field(compare=False, default=())
    """The present turn so far."""


def success_probability(
    model: Any,
    codec: ChatCodec,
    env: TextEnv,
    index: int,
    *,
    max_tokens: int,
    temperature: float = 1.0,
    tolerance: float = 1e-3,
    budget: int = 20_000,
    max_length: int | None = None,
) -> Bracket:
    """Bracket the probability that a model solves a task at a temperature, with nothing truncated.

    Args:
        model: A transformers causal language model.
        codec: Its chat to tokens.
        env: The environment; it is reset and played, and must answer the same every time.
        index: Of the task.
        max_tokens: Most tokens of a turn, as in sampling.
        temperature: Sampling temperature, > 0.
        tolerance: Stop once `high - low` is no more.
        budget: Stop after so many expansions.
        max_length: Context of the model; an episode whose next turn might not fit is a failure, as in sampling.
    """
    observation, _ = env.reset(options={"index": index})
    prompt = codec.start(env.system_prompt(), observation)
    env.end_episode()
    heap = [_Prefix(0.0, 0, (), prompt)]
    found, left, numbers, episodes, expansions = 0.0, 1.0, 1, 0, 0
    while heap and left > tolerance and expansions < budget:
        batch = [heapq.heappop(heap) for _ in range(min(EXPANSIONS, len(heap), budget - expansions))]
        expansions += len(batch)
        for prefix, logprobs in zip(batch, _following(model, batch, temperature), strict=True):
            for token in np.flatnonzero(logprobs > np.log(FLOOR) + prefix.cost).tolist():
                cost = prefix.cost - float(logprobs[token])
                turn = (*prefix.turn, token)
                if token not in codec.stop_ids and len(turn) < max_tokens:
                    numbers += 1
                    heapq.heappush(heap, _Prefix(cost, numbers, prefix.turns, prefix.ids, turn))
                    continue
                turns = (*prefix.turns, turn)
                outcome, seam = _played(env, codec, index, turns)
                ids = [*prefix.ids, *turn, *(seam or ())]
                if seam is None or (max_length is not None and len(ids) + max_tokens > max_length):
                    episodes += 1
                    left -= float(np.exp(-cost))
                    found += float(np.exp(-cost)) * (outcome if seam is None else 0.0)
                else:
                    numbers += 1
                    heapq.heappush(heap, _Prefix(cost, numbers, turns, ids))
    return Bracket(found, min(1.0, found + max(left, 0.0)), episodes, expansions)


@torch.inference_mode()
def _following(model: Any, batch: Sequence[_Prefix], temperature: float) -> Any:
    """Return log-probabilities of the next token, shape (prefixes, vocabulary)."""
    rows = [[*prefix.ids, *prefix.turn] for prefix in batch]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=model.device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=model.device)
    ends = torch.tensor([len(row) - 1 for row in rows], device=model.device)
    logits = model(input_ids=ids, attention_mask=mask).logits[torch.arange(len(rows), device=model.device), ends]
    return (logits.double() / temperature).log_softmax(-1).cpu().numpy()


def _played(
    env: TextEnv, codec: ChatCodec, index: int, turns: Sequence[tuple[int, ...]]
) -> tuple[float, list[int] | None]:
    """Play turns; returns the outcome, and the tokens between the last one and the next, None at the end."""
    env.reset(options={"index": index})
    for turn in turns:
        observation, outcome, terminated, truncated, info = env.step(codec.decode(list(turn)))
    env.end_episode()
    if terminated or truncated:
        return outcome, None
    return outcome, codec.seam(info["role"], observation, ended=turns[-1][-1] in codec.stop_ids)
