"""`palestra sft`, `rft`, `dpo` and `train`: the arms of a comparison."""

import os
from collections.abc import Callable
from importlib import import_module

import typer

from palestra.cli.options import settings_command
from palestra.rl.settings import DPOSettings, RFTSettings, RunSettings, SFTSettings, TrainSettings

_LEARNERS = {
    "sft": ("palestra.rl.sft", "fine_tune"),
    "rft": ("palestra.rl.rft", "fine_tune_on_own"),
    "dpo": ("palestra.rl.dpo", "prefer_right"),
    "train": ("palestra.rl.train", "train"),
}
"""Verb -> module and function; the modules load TRL, which takes seconds, and names are checked before."""

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

Running the same command again resumes from the last checkpoint; with more --steps, a finished run goes on.
A recipe (--config) holds the same settings.

Placebos for a comparison: `--reward random` and `format`. Turn-level credit: `--reward both --credit step-groups`.
ProRL: `--beta 0.05 --reset-every 100`, or `--validate-every 10 --reset-patience 5`.

Example: `palestra train --model string-atoms --env palestra/StringCompose-v0 --algo dapo --out runs/rl`
"""


def add_to(app: typer.Typer) -> None:
    """Add the verbs."""
    settings_command(app, "sft", SFTSettings, _command("sft"), SFT_HELP)
    settings_command(app, "rft", RFTSettings, _command("rft"), RFT_HELP)
    settings_command(app, "dpo", DPOSettings, _command("dpo"), DPO_HELP)
    settings_command(app, "train", TrainSettings, _command("train"), TRAIN_HELP)


def run_arm(verb: str, settings: RunSettings) -> None:
    """Run an arm by the name of its verb, or resume it."""
    checked = _checked(settings)

    from palestra.rl.rundir import RunFolder

    with RunFolder(checked.out, verb, checked) as folder:
        if not folder.done:
            module, learn = _LEARNERS[verb]
            getattr(import_module(module), learn)(checked, folder)


def _command(verb: str) -> Callable[[RunSettings], None]:
    """Return what a verb does: run the arm and say what is next."""

    def command(settings: RunSettings) -> None:
        run_arm(verb, settings)
        _say_done(settings)

    return command


def _checked(settings: RunSettings) -> RunSettings:
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
