"""`palestra eval`: sample many episodes per problem, resumably."""

from typing import TYPE_CHECKING

import typer

from palestra.cli.options import settings_command
from palestra.eval.settings import EvalSettings

if TYPE_CHECKING:
    from palestra.eval.records import SampleRecord

HELP = """Sample episodes of a model and keep every one of them.

Running the same command again resumes; a larger `-n` or `--problems` extends the run.

Examples: `palestra eval --model runs/rl --env palestra/StringCompose-v0 --variant level-3 --out runs/rl-eval`,
`palestra eval --model openai:my-model --base-url http://localhost:8000/v1 --env palestra/Dice-v0 --out runs/served`
"""


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    settings_command(app, "eval", EvalSettings, evaluate, HELP)


def evaluate(settings: EvalSettings) -> None:
    """Run the evaluation and print the share of solved episodes."""
    run_eval(settings)
    from palestra.eval.records import read_samples
    from palestra.eval.settings import PROBLEMS

    samples = read_samples(settings.out)
    for variant in settings.variant:
        drawn = [s for s in samples if s.variant == variant]
        if not drawn:  # of a shard with a higher number than there are samples
            typer.echo(f"{variant}: no sample is in shard {settings.shard}")
            continue
        problems = len({s.problem for s in drawn})
        note = _limits(drawn, settings.max_tokens)
        if settings.problems is None and problems < PROBLEMS:
            note += " (all the problems there are)"
        typer.echo(
            f"{variant}: pass@1 {sum(s.outcome for s in drawn) / len(drawn):.3f} over {len(drawn)} episodes of "
            f"{problems} problems{note}"
        )
    typer.echo(
        f"next: palestra compare BASE_RUN {settings.out}"
        if settings.shard is None
        else f"next: palestra merge {settings.out} OTHER_SHARDS... --out RUN"
    )


def _limits(drawn: "list[SampleRecord]", max_tokens: int) -> str:
    """Say how often a limit of tokens, and not the model or the task, ended a turn or an episode."""
    full = sum(s.stop == "length" for s in drawn) / len(drawn)
    cut = sum(s.cut > 0 for s in drawn) / len(drawn)
    if full and cut:
        return (
            f" (--max-tokens {max_tokens} cut a turn in {cut:.1%}, and the context was full in {full:.1%}: the model "
            "writes more than it has room for)"
        )
    if full:
        return f" (the context was full in {full:.1%}: lower --max-tokens, or take another model)"
    return f" (--max-tokens {max_tokens} cut a turn in {cut:.1%}: raise it, with another --out)" if cut else ""


def run_eval(settings: EvalSettings) -> None:
    """Run the evaluation, or resume it."""
    from palestra.cli.models import resolve_model
    from palestra.envs import make
    from palestra.eval import run

    for variant in settings.variant:
        make(settings.env, variant)
    if settings.model not in run.POLICIES and not settings.served:
        settings = settings.model_copy(update={"model": resolve_model(settings.model, run.POLICIES)})
    run.evaluate(settings)
