"""The rollout that TRL's users write themselves: every turn of all episodes is one call of `model.generate`.

What our engine is measured against (`rollout.py`, `train_step.py`): batch-synchronous turns, each of which reads its
whole conversation again. It is token-in-token-out, as it has to be, and plays the same environments with our codec.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from palestra.agents.codec import ChatCodec
from palestra.envs.core import TextEnv


@dataclass
class Conversation:
    """An episode in tokens, as TRL's `rollout_func` returns it."""

    env: TextEnv
    prompt: list[int]
    completion: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    outcome: float = 0.0
    over: bool = False


def generate_rollout(
    model: Any,
    codec: ChatCodec,
    make_env: Callable[[], TextEnv],
    indices: Sequence[int],
    max_tokens: int,
    max_length: int,
) -> list[Conversation]:
    """Play an episode of each task.

    Args:
        model: Samples at T = 1.
        codec: Chat to tokens.
        make_env: Makes an environment.
        indices: Tasks.
        max_tokens: Most tokens of a turn.
        max_length: The model's context; an episode whose next turn might not fit ends.
    """
    episodes = []
    for index in indices:
        env = make_env()
        observation, _ = env.reset(options={"index": index})
        episodes.append(Conversation(env, codec.start(env.system_prompt(), observation)))
    while going := [e for e in episodes if not e.over]:
        for episode, ids in zip(going, _turns(model, codec, going, max_tokens), strict=True):
            _play(episode, ids, codec)
            episode.over |= len(episode.prompt) + len(episode.completion) + max_tokens > max_length
    return episodes


def _turns(model: Any, codec: ChatCodec, episodes: list[Conversation], max_tokens: int) -> list[list[int]]:
    prompts = [e.prompt + e.completion for e in episodes]
    width = max(map(len, prompts))
    ids = torch.tensor([[codec.pad_id] * (width - len(p)) + p for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    with torch.no_grad():
        out = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=max_tokens,
            do_sample=True,
            top_k=0,
            eos_token_id=sorted(codec.stop_ids),
            pad_token_id=codec.pad_id,
        )
    turns = []
    for row in out[:, width:].tolist():
        end = next((i for i, token in enumerate(row) if token in codec.stop_ids), len(row) - 1)
        turns.append(row[: end + 1])
    return turns


def _play(episode: Conversation, ids: list[int], codec: ChatCodec) -> None:
    episode.completion += ids
    episode.mask += [1] * len(ids)
    observation, outcome, terminated, truncated, info = episode.env.step(codec.decode(ids))
    episode.outcome, episode.over = float(outcome), terminated or truncated
    if not episode.over:
        seam = codec.seam(info["role"], observation, ended=ids[-1] in codec.stop_ids)
        episode.completion += seam
        episode.mask += [0] * len(seam)
