"""`palestra plan`: how many problems, samples and training seeds a claim needs, from a pilot."""

import json
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("plan")(plan)


def plan(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="The pilot: a run of the base and, better, one of a trained model; LABEL=FOLDER names one."
        ),
    ],
    delta: Annotated[float, typer.Option(help="Difference in pass@k that shall be found.")] = 0.05,
    k: Annotated[int, typer.Option(help="Attempts; at most half of the pilot's samples.", min=1)] = 1,
    variant: Annotated[list[str] | None, typer.Option(help="Plan for this variant only; repeatable.")] = None,
    seed_sd: Annotated[
        float | None,
        typer.Option(help="Standard deviation of mean pass@k between training seeds of one method, where known."),
    ] = None,
    power: Annotated[float, typer.Option(help="Chance of finding the difference.")] = 0.8,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON on stdout instead.")] = False,
) -> None:
    """Say from a pilot how many problems, samples and training seeds it takes to find a difference.

    One run stands for two models that have its spread over problems and nothing in common: more than two related
    models need. Problems are at the pilot's samples, samples at the pilot's problems.

    Example: `palestra plan runs/base-eval runs/rl-eval --k 8 --delta 0.05 --seed-sd 0.03`
    """
    from palestra.eval.planning import plan_runs

    plans = plan_runs(runs, variants=variant, k=k, delta=delta, seed_sd=seed_sd, power=power)
    if as_json:
        typer.echo(json.dumps([found.to_json() for found in plans]))
    else:
        typer.echo("\n".join(map(str, plans)))
