"""Log-probabilities of given turns under a model held in this process: one forward pass, nothing sampled."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

BATCH_TOKENS = 65_536
"""Rows x longest row of a forward pass; logits of a large vocabulary are what takes the room."""


@torch.inference_mode()
def token_logprobs(
    model: Any,
    prompts: Sequence[Sequence[int]],
    turns: Sequence[Sequence[int]],
    temperatures: Sequence[float] = (1.0,),
    banned: Sequence[int] = (),
) -> list[npt.NDArray[np.float64]]:
    """Return the log-probability of each token of each turn, in nats.

    Args:
        model: A transformers causal language model.
        prompts: What comes before each turn, token ids.
        turns: Token ids, at least one each.
        temperatures: Each > 0; one array is returned for each.
        banned: Ids that have no probability: the others' is renormalised.

    Returns:
        Arrays of shape (turns, longest turn), 0 beyond a turn's end.
    """
    found = [np.zeros((len(turns), max(map(len, turns)))) for _ in temperatures]
    longest = max(len(prompt) + len(turn) for prompt, turn in zip(prompts, turns, strict=True))
    rows = max(1, BATCH_TOKENS // longest)
    for start in range(0, len(turns), rows):
        part = range(start, min(start + rows, len(turns)))
        ids = torch.zeros((len(part), longest), dtype=torch.long)
        attention = torch.zeros_like(ids)
        for row, i in enumerate(part):
            whole = [*prompts[i], *turns[i]]
            ids[row, : len(whole)] = torch.tensor(whole)
            attention[row, : len(whole)] = 1
        # Padding on the right of a causal model changes nothing before it.
        logits = (
            model(input_ids=ids.to(model.device), attention_mask=attention.to(model.device)).logits[:, :-1].float()
        )
        if len(banned):
            logits[..., list(banned)] = -torch.inf
        for temperature, into in zip(temperatures, found, strict=True):
            chosen = (logits / temperature).log_softmax(-1).gather(-1, ids[:, 1:, None].to(model.device))[..., 0]
            values = chosen.double().cpu().numpy()
            for row, i in enumerate(part):
                first = len(prompts[i]) - 1
                into[i, : len(turns[i])] = values[row, first : first + len(turns[i])]
    return found
