"""Tokens per second of multi-turn rollouts: ours against `model.generate` once per turn, in turns in one run.

    python bench/rollout.py MODEL [--env palestra/Dice-v0] [--turns 0 2 6 10] [--rows 64] [--rounds 5]

With 0 turns the environment is played as it is. With more, one that never ends answers every turn, right or wrong,
with `--observation` characters, so that each episode has as many turns; `--max-tokens` is short there. The ratio of
sampled tokens per second within a round is what to read; beside it, the share of our time that environments took.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from generate_rollout import generate_rollout

from palestra.agents.codec import ChatCodec
from palestra.agents.engine import SamplingParams
from palestra.agents.models import LoadedModel, load_model
from palestra.agents.rollout import Episode, RolloutClock, rollout
from palestra.agents.transformers_engine import TransformersEngine
from palestra.envs import Demonstration, Reward, Task, TextEnv, Turn, make, register

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main() -> None:
    """Print a line per number of turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--env", default="palestra/Dice-v0")
    parser.add_argument("--turns", type=int, nargs="+", default=[0, 2, 6, 10])
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--env-tokens", type=int, default=320, help="most of a turn of the environment as it is")
    parser.add_argument("--max-tokens", type=int, default=12, help="of a turn of the environment that never ends")
    parser.add_argument("--observation", type=int, default=24, help="characters it answers with")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: of the process, on a busy machine")
    args = parser.parse_args()
    loaded = load_model(args.model)
    codec = ChatCodec(loaded.tokenizer)
    engine = TransformersEngine(loaded.model, codec.stop_ids, codec.pad_id)
    loaded.model.eval()
    threads = torch.get_num_threads()
    print(f"{args.model}, {args.rows} episodes, {args.rounds} rounds, {threads} threads, {args.clock} seconds")
    for turns in args.turns:
        compare(args, loaded, codec, engine, turns)


def compare(
    args: argparse.Namespace, loaded: LoadedModel, codec: ChatCodec, engine: TransformersEngine, turns: int
) -> None:
    """Time both in turns, and print."""
    make_env: Callable[[], TextEnv] = partial(make, args.env, "train", syntax=codec.syntax)
    if turns:
        make_env = partial(endless, turns, args.observation)
    params, length = SamplingParams(args.max_tokens if turns else args.env_tokens), loaded.max_length or 8192
    tick = CLOCKS[args.clock]
    rates: dict[str, list[float]] = {"ours": [], "generate": []}
    shares, had = [], []
    for r in range(args.rounds + 1):
        indices = [r * args.rows + i for i in range(args.rows)]
        clock = RolloutClock()
        start = tick()
        episodes = [Episode(index, index) for index in indices]
        done = [t for _, t in rollout(make_env, episodes, engine, codec, params, max_length=length, clock=clock)]
        ours = tick() - start
        if not any(t.sampled for t in done):
            raise SystemExit(f"no turn of {params.max_tokens} tokens fits into a context of {length}; ask for less.")
        torch.manual_seed(r)
        start = tick()
        theirs = generate_rollout(loaded.model, codec, make_env, indices, params.max_tokens, length)
        taken = tick() - start
        if r:  # the first round warms up
            rates["ours"].append(sum(t.sampled for t in done) / ours)
            rates["generate"].append(sum(sum(e.mask) for e in theirs) / taken)
            shares.append(clock.environment_s / (clock.environment_s + clock.sampling_s))
            had.append(sum(len(t.turns) for t in done) / len(done))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    paired = sorted(a / b for a, b in zip(rates["ours"], rates["generate"], strict=True))
    print(
        f"{'as it is' if not turns else f'{turns} turns':9} ({statistics.mean(had):.1f} turns): ours "
        f"{medians['ours']:.0f} tokens/s, generate {medians['generate']:.0f}, ratio "
        f"{statistics.median(paired):.2f} ({paired[0]:.2f} to {paired[-1]:.2f}); environments "
        f"{statistics.mean(shares):.0%} of our time",
        flush=True,
    )


@register("bench/Endless-v0", variants={"train": {}})
class Endless(TextEnv):
    """Answers every turn with the same characters until the turns are used up."""

    observation = ""

    def sample(self, rng: random.Random) -> Task:
        """Draw letters."""
        letters = "".join(rng.choice("abcdefgh") for _ in range(32))
        return Task(prompt=letters, answer="", key=letters)

    def grade(self, task: Task, answer: str) -> Reward:
        """Nothing is right."""
        return Reward(0.0)

    def judge(self, task: Task, turn: Turn) -> Reward | None:
        """No turn ends the episode."""
        return None

    def solve(self, task: Task) -> Demonstration:
        """Nobody asks."""
        raise NotImplementedError

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Say the same whatever the turn."""
        _, *rest = super().step(action)
        return self.observation, *rest


def endless(turns: int, characters: int) -> Endless:
    """Make one with so many turns."""
    env = Endless()
    env.max_turns, env.observation = turns, "abcdefgh" * (characters // 8)
    return env


if __name__ == "__main__":
    main()
