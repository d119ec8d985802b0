"""Seconds of forward and backward over the episodes of a step: as trees of prefixes, and as rows of like length.

    python bench/prefix_tree.py MODEL [--env palestra/Dice-v0] [--prompts 8] [--group-size 8] [--micro-batch 16]

The model samples the episodes; then both ways compute TRL's log-probabilities of them and a gradient, in turns in one
run. The tokens that a pass computes, padding included, are given beside the seconds, and how far the gradients of both
ways are apart, as a share of the largest of a weight.
"""

import argparse
import statistics
import time
from typing import Any

import torch
from trl.trainer.utils import add_fused_lm_head

from palestra.agents.codec import ChatCodec
from palestra.agents.engine import SamplingParams
from palestra.agents.models import load_model
from palestra.agents.rollout import Episode, rollout
from palestra.agents.trajectory import Trajectory
from palestra.agents.transformers_engine import TransformersEngine
from palestra.envs import make
from palestra.rl.microbatches import deal
from palestra.rl.prefix_tree import PassCost, PrefixTrees, reads_trees

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main() -> None:
    """Print a line per way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--env", default="palestra/Dice-v0")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--micro-batch", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=CLOCKS, default="cpu")
    args = parser.parse_args()
    loaded = load_model(args.model, to_train=True)
    if not reads_trees(loaded.model):
        raise SystemExit("this model is not one that reads trees (palestra/rl/prefix_tree.py names them)")
    cost = PassCost.of(loaded.model.config, loaded.model.device.type)
    episodes = sampled(args, loaded)
    passes = len(episodes) // args.micro_batch
    step = padded(episodes)
    batches = [{name: part[start::passes] for name, part in step.items()} for start in range(passes)]
    add_fused_lm_head(loaded.model, outputs=("log_probs", "entropy"))
    loaded.model.train()
    ways = {"rows": (deal(batches), None), "trees": (deal(batches, cost), cost)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    gradients, tokens = {}, dict.fromkeys(ways, 0)
    clock = CLOCKS[args.clock]
    for _ in range(args.rounds + 1):  # the first one warms up
        for name, (dealt, known) in ways.items():
            loaded.model.zero_grad()
            began = clock()
            tokens[name] = sum(learn(loaded.model, batch, known) for batch in dealt)
            seconds[name].append(clock() - began)
            gradients[name] = [weights.grad.clone() for weights in loaded.model.parameters()]
    print(f"{args.model}, {args.env}, {len(episodes)} episodes, {args.micro_batch} per pass, {args.clock} seconds")
    for name, times in seconds.items():
        low, *_, high = sorted(times[1:])
        print(f"{name:6} {statistics.median(times[1:]):.2f} s ({low:.2f} to {high:.2f}), {tokens[name]:,} tokens")
    ratios = sorted(rows / trees for rows, trees in zip(seconds["rows"][1:], seconds["trees"][1:], strict=True))
    apart = max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(*gradients.values(), strict=True))
    print(f"rows / trees {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    print(f"gradients {apart:.0e} apart")


def sampled(args: argparse.Namespace, loaded: Any) -> list[Trajectory]:
    """Return the episodes of a step, the members of a group side by side."""
    codec = ChatCodec(loaded.tokenizer)
    engine = TransformersEngine(loaded.model, codec.stop_ids, codec.pad_id)
    asked = [Episode(g, 1_000 * g + member) for g in range(args.prompts) for member in range(args.group_size)]
    done = rollout(
        lambda: make(args.env, "train", syntax=codec.syntax),
        asked,
        engine,
        codec,
        SamplingParams(args.max_tokens),
        max_length=loaded.max_length,
    )
    return [t for _, t in sorted(done, key=lambda pair: asked.index(pair[0]))]


def padded(episodes: list[Trajectory]) -> dict[str, Any]:
    """Return a micro-batch as TRL makes it."""
    before = max(len(t.prompt_ids) for t in episodes)
    after = max(len(t.completion_ids) for t in episodes)
    left = [before - len(t.prompt_ids) for t in episodes]
    right = [after - len(t.completion_ids) for t in episodes]
    return {
        "prompt_ids": torch.tensor([[0] * n + t.prompt_ids for t, n in zip(episodes, left, strict=True)]),
        "prompt_mask": torch.tensor([[0] * n + [1] * (before - n) for n in left]),
        "completion_ids": torch.tensor([t.completion_ids + [0] * n for t, n in zip(episodes, right, strict=True)]),
        "completion_mask": torch.tensor([[1] * (after - n) + [0] * n for n in right]),
    }


def learn(model: Any, batch: dict[str, Any], cost: PassCost | None) -> int:
    """Add the gradient of a loss over a micro-batch; returns the tokens that were computed."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    width = batch["completion_ids"].shape[1]
    trees = PrefixTrees.where_cheaper(ids, mask, width, cost) if cost else None
    if trees is None:
        labels = ids.masked_fill(mask == 0, -100)
        labels[:, :-width] = -100
        found = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True).log_probs[:, -width:]
    else:
        found = trees.spread(model(**trees.inputs(), fused_lm_head=True).log_probs)
    weights = (ids[:, -width:] % 7 - 3) * batch["completion_mask"]  # as advantages are: of both signs
    ((found * weights).sum() / 1_000).backward()
    return ids.numel() if trees is None else trees.ids.numel()


if __name__ == "__main__":
    main()
