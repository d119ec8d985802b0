"""Seconds per optimiser step: ours against TRL's own ways to train on several turns, in turns in one run.

    python bench/train_step.py MODEL [--env palestra/Dice-v0] [--prompts 8] [--group-size 8] [--rounds 3] [--steps 3]

Three trainers of the same model on the same tasks with the same settings (GRPO, `--micro-batch`, AdamW):

- `ours`: what `palestra train` runs;
- `rollout_func`: TRL's GRPOTrainer with a function that calls `model.generate` once per turn (generate_rollout.py);
- `environment_factory`: TRL's GRPOTrainer with its own loop of tool calls. An organism answers in words instead of
  calling `submit`, which ends the episode there, too. Its only limit is one of the whole episode: here as many tokens
  as the others may sample in all turns of one, `--max-tokens` times the turns.

`--clock cpu` counts the CPU seconds of the process instead of wall time: for a machine that has other work.

Each round makes all three anew, another one first, and times `--steps` steps of each after one that warms up. Steps
differ in what happens to be sampled, so that tokens per second of the step are given beside its seconds. Where the
time goes: `sampling` with the environments, `update` (forward, backward, optimiser), `rest` (scoring, padding, ...).
Across these, `arithmetic` is the share of a step spent in the model: its layers forward, when sampling and when
training, and backward.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from datasets import Dataset
from generate_rollout import generate_rollout
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from palestra.agents.codec import ChatCodec
from palestra.agents.decoder import Decoder
from palestra.agents.engine import SamplingParams
from palestra.agents.models import load_model
from palestra.agents.transformers_engine import TransformersEngine
from palestra.envs import make
from palestra.rl.data import index_stream
from palestra.rl.environment_factory import environment_factory
from palestra.rl.sampler import GroupSampler, SamplerSettings
from palestra.rl.trl_trainer import AgentGRPOTrainer

TOOL_TEMPLATE = """{%- for message in messages -%}
{%- if message.role == 'user' -%}<|user|>{{ message.content }}<|end|>
{%- elif message.role == 'tool' -%}<|tool|>{{ message.content }}<|end|>
{%- elif message.role == 'assistant' -%}<|assistant|>{{ message.content or '' }}
{%- for call in message.tool_calls or [] -%}<tool_call>{{ call.function | tojson }}</tool_call>{%- endfor -%}<|end|>
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"""
"""The organisms' template, with the calls that TRL's loop keeps apart from the text."""
RESPONSE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|assistant|>",
    "fields": {
        "tool_calls": {
            "open": "<tool_call>",
            "close_pattern": r"</tool_call>\s*",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": r"<\|end\|>\s*", "content": "text"},
    },
}


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Steps(TrainerCallback):
    """Notes how long every step took, and how much of that was sampling and updating."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.rows: list[dict[str, float]] = []
        self.now = {"sampling": 0.0, "update": 0.0, "tokens": 0.0, "arithmetic": 0.0}
        self._began = 0.0

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Start the watch."""
        self._began = self.clock()
        self.now = dict.fromkeys(self.now, 0.0)

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Stop it."""
        taken = self.clock() - self._began
        update = taken - self.now["scored"]
        rest = self.now["scored"] - self.now["sampling"]
        self.now["arithmetic"] /= taken
        self.rows.append({**self.now, "step": taken, "update": update, "rest": rest})

    def measured(self, trainer: GRPOTrainer) -> GRPOTrainer:
        """Time a trainer's parts."""
        generate, score = trainer._generate, trainer._generate_and_score_completions

        def timed_generate(*args: Any, **kwargs: Any) -> Any:
            began = self.clock()
            out = generate(*args, **kwargs)
            self.now["sampling"] = self.clock() - began
            return out

        def timed_score(*args: Any, **kwargs: Any) -> Any:
            began = self.clock()
            out = score(*args, **kwargs)
            self.now["scored"] = self.clock() - began
            self.now["tokens"] = float((out["completion_mask"] * out["tool_mask"]).sum())
            return out

        trainer._generate, trainer._generate_and_score_completions = timed_generate, timed_score
        trainer.add_callback(self)
        return trainer

    @contextmanager
    def arithmetic(self, model: Any) -> Iterator[None]:
        """Time what the model computes; the classes are changed, since a decoder refuses a model with hooks."""

        def timed(call: Callable[..., Any]) -> Callable[..., Any]:
            @wraps(call)
            def timed_call(*args: Any, **kwargs: Any) -> Any:
                began = self.clock()
                out = call(*args, **kwargs)
                self.now["arithmetic"] += self.clock() - began
                return out

            return timed_call

        places = ((type(model.base_model), "forward"), (Decoder, "__call__"), (torch.Tensor, "backward"))
        with ExitStack() as changed:
            for owner, name in places:
                changed.enter_context(patch.object(owner, name, timed(getattr(owner, name))))
            yield


def main() -> None:
    """Print a line per trainer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--env", default="palestra/Dice-v0")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--micro-batch", type=int, default=16, help="episodes per pass; divides those of a step")
    parser.add_argument("--max-tokens", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--arms", nargs="+", default=["ours", "rollout_func", "environment_factory"], choices=ARMS)
    args = parser.parse_args()
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in args.arms}
    for number in range(args.rounds):
        first = number % len(args.arms)
        for name in args.arms[first:] + args.arms[:first]:
            with tempfile.TemporaryDirectory() as folder:
                steps = Steps(CLOCKS[args.clock])
                trainer = steps.measured(ARMS[name](args, configuration(args, Path(folder))))
                trainer.remove_callback(PrinterCallback)
                with steps.arithmetic(trainer.model):
                    trainer.train()
                rows[name] += steps.rows[1:]
    print(
        f"{args.model}, {args.env}, {args.prompts} x {args.group_size} episodes, {args.micro_batch} per pass, "
        f"{args.rounds} rounds of {args.steps} steps, {torch.get_num_threads()} threads, {args.clock} seconds"
    )
    base = statistics.median(row["step"] for row in rows[args.arms[0]])
    for name, found in rows.items():
        median = {part: statistics.median(row[part] for row in found) for part in found[0]}
        rate = statistics.median(row["tokens"] / row["sampling"] for row in found)
        print(
            f"{name:20} {median['step']:.2f} s per step ({median['step'] / base:.2f} x ours): sampling "
            f"{median['sampling']:.2f}, update {median['update']:.2f}, rest {median['rest']:.2f}; "
            f"arithmetic {median['arithmetic']:.0%}; {median['tokens']:.0f} tokens, {rate:.0f} per second of sampling"
        )


def configuration(args: argparse.Namespace, folder: Path) -> GRPOConfig:
    """Return the settings that all three share."""
    episodes = args.prompts * args.group_size
    return GRPOConfig(
        output_dir=str(folder),
        max_steps=args.steps + 1,
        per_device_train_batch_size=args.micro_batch,
        gradient_accumulation_steps=episodes // args.micro_batch,
        num_generations=args.group_size,
        max_completion_length=700,
        learning_rate=1e-5,
        loss_type="grpo",
        beta=0.0,
        temperature=1.0,
        shuffle_dataset=False,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=not torch.accelerator.is_available(),
        dataloader_pin_memory=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=1,
    )


def ours(args: argparse.Namespace, config: GRPOConfig) -> GRPOTrainer:
    """Make the trainer of `palestra train`."""
    loaded = load_model(args.model, to_train=True)
    codec = ChatCodec(loaded.tokenizer)
    settings = SamplerSettings(
        args.env, "train", SamplingParams(args.max_tokens), args.group_size, 0, loaded.max_length
    )
    sampler = GroupSampler(settings, codec, lambda model: TransformersEngine(model, codec.stop_ids, codec.pad_id))
    return AgentGRPOTrainer(
        sampler=sampler,
        model=loaded.model,
        processing_class=loaded.tokenizer,
        args=replaced(config, reward_weights=[0.0, 1.0, 0.0]),
        train_dataset=tasks(args),
    )


def rollout_func(args: argparse.Namespace, config: GRPOConfig) -> GRPOTrainer:
    """Make TRL's trainer with `model.generate` once per turn."""
    loaded = load_model(args.model, to_train=True)
    codec = ChatCodec(loaded.tokenizer)

    def rollout(prompts: list[str], trainer: GRPOTrainer) -> dict[str, Any]:
        model = trainer.accelerator.unwrap_model(trainer.model)
        model.eval()
        indices = [int(prompt) for prompt in prompts]
        make_env = partial(make, args.env, "train", syntax=codec.syntax)
        done = generate_rollout(model, codec, make_env, indices, args.max_tokens, loaded.max_length or 8192)
        model.train()
        return {
            "prompt_ids": [e.prompt for e in done],
            "completion_ids": [e.completion for e in done],
            "logprobs": None,
            "env_mask": [e.mask for e in done],
            "outcome": [e.outcome for e in done],
        }

    return GRPOTrainer(
        model=loaded.model,
        processing_class=loaded.tokenizer,
        args=config,
        train_dataset=tasks(args),
        reward_funcs=lambda outcome, **kwargs: outcome,
        rollout_func=rollout,
    )


def factory(args: argparse.Namespace, config: GRPOConfig) -> GRPOTrainer:
    """Make TRL's trainer with its own loop."""
    loaded = load_model(args.model, to_train=True)
    loaded.tokenizer.chat_template, loaded.tokenizer.response_template = TOOL_TEMPLATE, RESPONSE
    stream = index_stream(0)
    prompt = [{"role": "user", "content": ""}]
    rows = [{"prompt": prompt, "index": next(stream)} for _ in range(args.prompts * (args.steps + 1))]
    return GRPOTrainer(
        model=loaded.model,
        processing_class=loaded.tokenizer,
        args=replaced(config, max_completion_length=args.max_tokens * make(args.env, "train").max_turns),
        train_dataset=Dataset.from_list(rows),
        environment_factory=environment_factory(args.env, "train"),
    )


ARMS: dict[str, Callable[[argparse.Namespace, GRPOConfig], GRPOTrainer]] = {
    "ours": ours,
    "rollout_func": rollout_func,
    "environment_factory": factory,
}


def replaced(config: GRPOConfig, **more: Any) -> GRPOConfig:
    """Set more of the settings."""
    for name, value in more.items():
        setattr(config, name, value)
    return config


def tasks(args: argparse.Namespace) -> Dataset:
    """Return the same tasks for all."""
    stream = index_stream(0)
    return Dataset.from_list([{"prompt": str(next(stream))} for _ in range(args.prompts * (args.steps + 1))])


if __name__ == "__main__":
    main()
