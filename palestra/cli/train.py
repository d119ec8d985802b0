"""`palestra sft`, `rft`, `dpo` and `train`: the arms of a comparison."""

import os
from typing import TypeVar

import typer

from palestra.cli.options import settings_command
from palestra.rl.settings import DPOSettings, RFTSettings, RunSettings, SFTSettings, TrainSettings

_Run = TypeVar("_Run", bound=RunSettings)

SFT_HELP = """Fine-tune on the environment's own demonstrations (assistant tokens only).

Running the same command again resumes from the last checkpoint.

Example: `palestra sft --model string-atoms --env palestra/StringCompose-v0 --out runs/sft`
"""
RFT_HELP = """Fine-tune on the model's own right episodes: sample, keep what the environment accepts, train, and again.

Running the same command again resumes after the last round. With --token-budget an arm samples as much as another
one did: see cost.tokens_sampled in that run's manifest.json.

Example: `palestra rft --model string-atoms --env palestra/StringCompose-v0 --out runs/rft`
"""
DPO_HELP = """Train the model to prefer its own right episodes to its own wrong ones, on the same tasks (DPO).

Samples as `rft` does: with the same settings, the first round has the same episodes. Only what the model wrote counts.
DPO raises the margin between right and wrong, and may do so while right episodes become less likely as well: look at
logps/chosen, and at --likelihood-weight 1.
Running the same command again resumes after the last round; --token-budget as for `rft`.

Example: `palestra dpo --model string-atoms --env palestra/StringCompose-v0 --out runs/dpo`
"""
TRAIN_HELP = """Train with GRPO or DAPO on the environment's rewards.

Running the same command again resumes from the last checkpoint. A recipe (--config) holds the same settings.

Placebos for a comparison: `--reward random` and `format`. Turn-level credit: `--reward both --credit step-groups`.
ProRL: `--beta 0.05 --reset-every 100`, or `--validate-every 10 --reset-patience 5`.

Example: `palestra train --model string-atoms --env palestra/StringCompose-v0 --algo dapo --out runs/rl`
"""


def add_to(app: typer.Typer) -> None:
    """Add the verbs."""
    settings_command(app, "sft", SFTSettings, sft, SFT_HELP)
    settings_command(app, "rft", RFTSettings, rft, RFT_HELP)
    settings_command(app, "dpo", DPOSettings, dpo, DPO_HELP)
    settings_command(app, "train", TrainSettings, train, TRAIN_HELP)


def sft(settings: SFTSettings) -> None:
    """Run supervised fine-tuning and say what is next."""
    run_sft(settings)
    _say_done(settings)


def rft(settings: RFTSettings) -> None:
    """Run rejection-sampling fine-tuning and say what is next."""
    checked = _checked(settings)

    from palestra.rl.rundir import RunFolder

    with RunFolder(checked.out, "rft", checked) as run:
        if not run.done:
            from palestra.rl.rft import fine_tune_on_own

            fine_tune_on_own(checked, run)
    _say_done(settings)


def dpo(settings: DPOSettings) -> None:
    """Run preference optimisation and say what is next."""
    checked = _checked(settings)

    from palestra.rl.rundir import RunFolder

    with RunFolder(checked.out, "dpo", checked) as run:
        if not run.done:
            from palestra.rl.dpo import prefer_right

            prefer_right(checked, run)
    _say_done(settings)


def train(settings: TrainSettings) -> None:
    """Run reinforcement learning and say what is next."""
    run_train(settings)
    _say_done(settings)


def run_sft(settings: SFTSettings) -> None:
    """Run supervised fine-tuning, or resume it."""
    settings = _checked(settings)

    from palestra.rl.rundir import RunFolder

    with RunFolder(settings.out, "sft", settings) as run:
        if not run.done:
            from palestra.rl.sft import fine_tune

            fine_tune(settings, run)


def run_train(settings: TrainSettings) -> None:
    """Run reinforcement learning, or resume it."""
    settings = _checked(settings)

    from palestra.rl.rundir import RunFolder

    with RunFolder(settings.out, "train", settings) as run:
        if not run.done:
            from palestra.rl.train import train as reinforce

            reinforce(settings, run)


def _checked(settings: _Run) -> _Run:
    """Resolve the model and check names before anything heavy is imported."""
    from palestra.cli.models import resolve_model
    from palestra.envs import make
    from palestra.envs.errors import UsageError
    from palestra.envs.sandbox.shared import use_sandbox

    use_sandbox(settings.sandbox)
    env = make(settings.env, settings.variant)
    if not settings.variant.startswith("train"):
        training = ", ".join(v for v in env.variants if v.startswith("train"))
        raise UsageError(
            f"'{settings.variant}' is for evaluation; training on it would spoil the comparison. Train on: {training}"
        )
    if getattr(settings, "reward", "outcome") == "process" and not env.process_terms:
        raise UsageError(f"{settings.env} pays no process terms; use --reward outcome")
    return settings.model_copy(update={"model": resolve_model(settings.model)})


def _say_done(settings: RunSettings) -> None:
    if int(os.environ.get("RANK", "0")):  # the first of several processes speaks
        return
    typer.echo(f"trained; the model is in {settings.out}")
    tokens = f" --max-tokens {settings.max_tokens}" if isinstance(settings, TrainSettings | RFTSettings) else ""
    typer.echo(f"next: palestra eval --model {settings.out} --env {settings.env}{tokens} --out {settings.out}-eval")
