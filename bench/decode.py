"""Milliseconds per token that all rows sample: `agents/decoder.py` against the model's own forward pass, in turns.

    python bench/decode.py MODEL [--rows 1 4 16 64] [--prompt 64] [--tokens 100] [--rounds 7] [--clock cpu]

Turns that never end, of as many sequences as there are rows. Each round times both, another one first; the median of
the ratios within a round is what to read, with the least and the most beside it.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable

import torch

from palestra.agents import slot_stream
from palestra.agents.decoder import Decoder
from palestra.agents.engine import SamplingParams
from palestra.agents.models import load_model
from palestra.agents.transformers_engine import TransformersEngine

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Nothing:
    """In place of `Decoder`: no model is known."""

    @staticmethod
    def of(model: object) -> None:
        """Leave the model to itself."""


ARMS = {"decoder": Decoder, "model": Nothing}


def main() -> None:
    """Print a line per number of rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--prompt", type=int, default=64, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=100, help="that each row samples")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: of the process, on a busy machine")
    args = parser.parse_args()
    loaded = load_model(args.model)
    if Decoder.of(loaded.model) is None:
        raise SystemExit(f"{args.model}: no decoder for this model; it samples with its own forward pass.")
    engine = TransformersEngine(loaded.model, frozenset(), loaded.tokenizer.pad_token_id)
    size = loaded.model.config.vocab_size
    print(
        f"{args.model}, {args.rounds} rounds, {torch.get_num_threads()} threads, {args.clock} milliseconds per token"
    )
    for rows in args.rows:
        taken: dict[str, list[float]] = {name: [] for name in ARMS}
        for number in range(args.rounds + 1):
            for name in sorted(ARMS, reverse=number % 2 == 1):
                slot_stream.Decoder = ARMS[name]  # type: ignore[assignment, misc]
                prompts = [[random.Random(row).randrange(size) for _ in range(args.prompt)] for row in range(rows)]
                ms = timed(engine, prompts, args.tokens, CLOCKS[args.clock])
                if number:  # the first round warms up
                    taken[name].append(ms)
        ratios = sorted(model / ours for ours, model in zip(taken["decoder"], taken["model"], strict=True))
        ours, own = (statistics.median(taken[name]) for name in ARMS)
        print(
            f"{rows:4} rows: decoder {ours:.2f}, model {own:.2f}, "
            f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) times faster",
            flush=True,
        )


def timed(engine: TransformersEngine, prompts: list[list[int]], tokens: int, tick: Callable[[], float]) -> float:
    """Return milliseconds per step after the prompts were read."""
    with engine.open(SamplingParams(tokens), len(prompts)) as stream:
        for key, ids in enumerate(prompts):
            stream.submit(key, ids, key)
        stream.step()
        began = tick()
        for _ in range(tokens - 1):
            stream.step()
        return (tick() - began) / (tokens - 1) * 1e3


if __name__ == "__main__":
    main()
