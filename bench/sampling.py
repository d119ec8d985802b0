"""Tokens per second of one turn: our engine against transformers' `generate` and its continuous batching, in one run.

    python bench/sampling.py MODEL [--env palestra/Dice-v0] [--rows 64] [--rounds 5]

All sample the same prompts, each of a task of its own, at T = 1 until the end of the turn; the ratios of medians are
what to read, the machine is noisy.
"""

import argparse
import statistics
import time

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from palestra.agents.codec import ChatCodec
from palestra.agents.engine import SamplingParams
from palestra.agents.models import load_model
from palestra.agents.transformers_engine import TransformersEngine
from palestra.envs import make

NEW_TOKENS = 64


def main() -> None:
    """Print medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--env", default="palestra/Dice-v0")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    loaded = load_model(options.model)
    codec = ChatCodec(loaded.tokenizer)
    engine = TransformersEngine(loaded.model, codec.stop_ids, codec.pad_id)
    env = make(options.env, "test")
    prompts = [codec.start(env.system_prompt(), env.task_at(i).prompt) for i in range(options.rows)]
    width = max(map(len, prompts))
    ids = torch.tensor([[codec.pad_id] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])

    def ours(seed: int) -> int:
        done = []
        with engine.open(SamplingParams(NEW_TOKENS), len(prompts)) as stream:
            for key, prompt in enumerate(prompts):
                stream.submit(key, prompt, seed + key)
            while len(done) < len(prompts):
                done += [completion for _, completion in stream.step()]
        return sum(len(c.ids) for c in done)

    def generate(seed: int) -> int:
        torch.manual_seed(seed)
        out = loaded.model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=NEW_TOKENS,
            do_sample=True,
            top_k=0,
            eos_token_id=sorted(codec.stop_ids),
            pad_token_id=codec.pad_id,
        )
        return int((out[:, width:] != codec.pad_id).sum())

    def continuous(seed: int) -> int:
        torch.manual_seed(seed)
        config = GenerationConfig(
            max_new_tokens=NEW_TOKENS,
            do_sample=True,
            top_k=0,
            eos_token_id=sorted(codec.stop_ids),
            pad_token_id=codec.pad_id,
        )
        share = ContinuousBatchingConfig(max_memory_percent=0.1)  # by default it takes nearly all of the memory
        out = loaded.model.generate_batch(prompts, config, share)
        return sum(len(done.generated_tokens) for done in out.values())

    ways = {"palestra": ours, "generate": generate, "continuous batching": continuous}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for seed in range(options.rounds + 1):
        for name, run in ways.items():
            start = time.perf_counter()
            tokens = run(seed * 1_000)
            if seed:  # the first round warms up
                rates[name].append(tokens / (time.perf_counter() - start))
    for name, values in rates.items():
        print(f"{name}: median {statistics.median(values):.0f} tokens/s ({min(values):.0f} to {max(values):.0f})")
    base = statistics.median(rates.pop("palestra"))
    for name, values in rates.items():
        print(f"palestra / {name}: {base / statistics.median(values):.2f}")
    print(f"({options.rows} rows, {options.rounds} rounds, {torch.get_num_threads()} threads)")


if __name__ == "__main__":
    main()
