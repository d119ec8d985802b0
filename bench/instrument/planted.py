"""Organisms whose success probabilities are planted: the truth that a verdict is held against.

Answers are facts that follow from nothing: key k7 has the four letters that a hash gives it. So a model can know only
what it was shown. It is shown a distribution: with probability p the right answer, else four random letters. What was
never shown is hit by chance in 1 of 4,096.
"""

import random
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from palestra.agents.codec import ChatCodec
from palestra.agents.models import load_model
from palestra.envs import Demonstration, Reward, Task, TextEnv, make, register
from palestra.rl.organisms.tokenizer import character_tokenizer

LETTERS = "abcdefgh"
SECOND = "".join(c for c in map(chr, range(33, 127)) if c not in "<>|?")
"""Second characters of keys."""
ENV = "planted/Keys-v0"
RATE = 5e-3
INIT = 0.08
OFF = 0.25
"""Rows with a random beginning to each row with the right one."""
Shares = Mapping[str, float]
"""Prompt -> share of right answers."""


@register(ENV, variants={"train": {}, "train-other": {"first": "pq"}, "test": {}})
class Keys(TextEnv):
    """Recall the four letters of a key."""

    max_turns = 1
    instructions = "Recall the letters of the key."
    first: str = "klmn"
    """First characters of keys."""

    def sample(self, rng: random.Random) -> Task:
        """Draw a key."""
        prompt = rng.choice(self.first) + rng.choice(SECOND)
        digest = blake2b(prompt.encode(), digest_size=4).digest()
        return Task(prompt=prompt, answer="".join(LETTERS[byte % 8] for byte in digest), key=prompt)

    def grade(self, task: Task, answer: str) -> Reward:
        """The very letters."""
        return Reward(float(answer == task.answer))

    def solve(self, task: Task) -> Demonstration:
        """State them."""
        return Demonstration((f"<answer>{task.answer}</answer>",))


def tasks(variant: str, count: int) -> list[Task]:
    """Return the first `count` different tasks: those that an evaluation draws."""
    env = make(ENV, variant)
    return [env.task_at(index) for index in env.distinct_indices(count)]


def plant(start: Path | None, shares: Shares, known: list[Task], out: Path, *, steps: int, seed: int) -> float:
    """Train an organism, from scratch or on from another, until it answers as the shares say.

    It learns the planted distribution itself and not draws of it: a letter after a right beginning has the probability
    that the share gives it, a letter after a wrong one is uniform.

    Args:
        start: Folder of the organism to go on from, or None.
        shares: Share of right answers of each key.
        known: The tasks.
        out: Folder for the model.
        steps: Steps of AdamW over all keys at once.
        seed: Seeds the weights and the wrong beginnings.

    Returns:
        The last Kullback-Leibler divergence from the planted distribution, in nats per letter.
    """
    torch.manual_seed(seed)
    rng = random.Random(f"plant|{seed}|{out.name}")
    tokenizer = character_tokenizer() if start is None else load_model(str(start)).tokenizer
    model: Any = (
        Qwen3ForCausalLM(_config(len(tokenizer), tokenizer)) if start is None else load_model(str(start)).model
    )
    torch.set_num_threads(1)
    codec = ChatCodec(tokenizer)
    letters = torch.tensor([codec.encode_turn(letter)[0] for letter in LETTERS])
    prompts = [codec.start("", task.prompt) for task in known]
    targets = torch.stack([_letters(task.answer, shares[task.key]) for task in known])
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, steps, pct_start=0.1)
    model.train()
    for _ in range(steps):
        rows, wanted = [], []
        for i, task in enumerate(known):
            for answer in (task.answer, "".join(rng.choices(LETTERS, k=4)) if rng.random() < OFF else None):
                if answer is not None:
                    rows.append(prompts[i] + codec.encode_turn(f"<answer>{answer}</answer>"))
                    right = torch.tensor([answer[:j] == task.answer[:j] for j in range(4)])
                    wanted.append(torch.where(right[:, None], targets[i], torch.full((4, 8), 0.125)))
        ids, wish = torch.tensor(rows), torch.stack(wanted)
        logprobs = model(input_ids=ids[:, :-1]).logits[:, len(prompts[0]) - 1 :].log_softmax(-1)
        drawn = logprobs[:, 1:5, letters]  # after <answer>
        fixed = logprobs[:, [0, 5, 6]].gather(-1, ids[:, len(prompts[0]) :][:, [0, 5, 6], None])
        divergence = torch.nn.functional.kl_div(drawn, wish, reduction="none").sum(-1).mean()
        loss = divergence - fixed.mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    model.eval()
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return float(divergence.detach())


def _letters(answer: str, share: float) -> torch.Tensor:
    """Return the probabilities of the eight letters after each right beginning, shape (4, 8)."""
    reached = share + (1 - share) * 8.0 ** -torch.arange(5.0)
    right = reached[1:] / reached[:-1]
    found = ((1 - right) / 7)[:, None].repeat(1, 8)
    found[torch.arange(4), [LETTERS.index(letter) for letter in answer]] = right
    return found


def exact(folder: Path, known: list[Task]) -> np.ndarray:
    """Return each task's probability of its demonstration, token by token: the success probability, from below.

    Other texts state the right answer as well, but none that an organism was ever shown.
    """
    loaded = load_model(str(folder))
    codec = ChatCodec(loaded.tokenizer)
    found = []
    with torch.inference_mode():
        for task in known:
            prompt, turn = codec.start("", task.prompt), codec.encode_turn(f"<answer>{task.answer}</answer>")
            logits = loaded.model(input_ids=torch.tensor([prompt + turn])).logits[0, len(prompt) - 1 : -1]
            found.append(float(logits.log_softmax(-1).gather(-1, torch.tensor(turn)[:, None]).sum().exp()))
    return np.array(found)


def _config(vocabulary: int, tokenizer: Any) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=96,
        intermediate_size=288,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=24,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        initializer_range=INIT,
        dtype=torch.float32,
    )
