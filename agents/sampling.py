"""Drawing tokens from logits: temperature, banned tokens, top-p, and the inverse of the cumulative distribution."""

import torch

from palestra.agents.engine import SamplingParams


def sample_tokens(
    logits: torch.Tensor, params: SamplingParams, draws: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one token per row by inverting the cumulative distribution.

    Args:
        logits: `(rows, vocabulary)`.
        params: Temperature and top-p.
        draws: `(rows,)` float64 numbers in [0, 1).

    Returns:
        Token ids `(rows,)` and their log-probabilities `(rows,)` under the temperature, before top-p.
    """
    if params.banned:
        logits = logits.index_fill(-1, torch.tensor(params.banned, device=logits.device), -torch.inf)
    if params.temperature == 0:
        logprobs = logits.float().log_softmax(-1)
        chosen = logits.argmax(-1)
        return chosen, logprobs.gather(-1, chosen[:, None])[:, 0]
    logprobs = (logits.float() / params.temperature).log_softmax(-1)
    probabilities = logprobs.double().exp()
    if params.top_p < 1:
        probabilities = _nucleus(probabilities, params.top_p)
    cumulative = probabilities.cumsum(-1)
    target = draws[:, None] * cumulative[:, -1:]
    chosen = torch.searchsorted(cumulative, target, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
    return chosen, logprobs.gather(-1, chosen[:, None])[:, 0]


def _nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    ordered, index = probabilities.sort(-1, descending=True)
    outside = ordered.cumsum(-1) - ordered >= top_p
    return probabilities.scatter(-1, index, ordered.masked_fill(outside, 0.0))
