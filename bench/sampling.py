"""Tokens per second: our engine against transformers' `generate`, on the same prompts in the same run.

    python bench/sampling.py MODEL [--rows 64] [--rounds 5]

Both sample at T = 1 until the end of the turn; the ratio of medians is what to read, the machine is noisy.
"""

import argparse
import statistics
import time

import torch

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
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    loaded = load_model(options.model)
    codec = ChatCodec(loaded.tokenizer)
    engine = TransformersEngine(loaded.model, codec.stop_ids, codec.pad_id)
    env = make("palestra/StringCompose-v0", "test")
    prompts = [codec.start(env.system_prompt(), env.task_at(i).prompt) for i in range(options.rows)]
    width = max(map(len, prompts))
    ids = torch.tensor([[codec.pad_id] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])

    def ours(seed: int) -> int:
        done = engine.generate(prompts, SamplingParams(NEW_TOKENS), list(range(seed, seed + len(prompts))))
        return sum(len(c.ids) for c in done)

    def theirs(seed: int) -> int:
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

    rates: dict[str, list[float]] = {"palestra": [], "generate": []}
    for seed in range(options.rounds + 1):
        for name, run in (("palestra", ours), ("generate", theirs)):
            start = time.perf_counter()
            tokens = run(seed * 1_000)
            if seed:  # the first round warms up
                rates[name].append(tokens / (time.perf_counter() - start))
    for name, values in rates.items():
        print(f"{name}: median {statistics.median(values):.0f} tokens/s ({min(values):.0f} to {max(values):.0f})")
    ratio = statistics.median(rates["palestra"]) / statistics.median(rates["generate"])
    print(f"ratio {ratio:.2f} ({options.rows} rows, {options.rounds} rounds, {torch.get_num_threads()} threads)")


if __name__ == "__main__":
    main()
