"""`palestra aha`: whether training brought back-tracking, and whether it is of use."""

import json
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("aha")(aha)


def aha(
    runs: Annotated[
        list[str],
        typer.Argument(help="Folders that `palestra eval` wrote, the base first, then checkpoints in order."),
    ],
    without: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Run of the last one's model with the markers banned (`eval --ban`)."),
    ] = None,
    marker: Annotated[
        list[str] | None,
        typer.Option(help="Word or sign that counts; repeatable. [default: English phrases of doubt and return]"),
    ] = None,
    variant: Annotated[list[str] | None, typer.Option(help="Measure this variant only; repeatable.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON instead.")] = False,
) -> None:
    """Measure back-tracking and self-checking in stored episodes: R1's "aha moment".

    How often traces hold a marker in the base and after training, how long they are, whether those with one succeed
    more often on the same problem, and, with a run in which markers could not be sampled, what accuracy loses.

    Examples: `palestra aha runs/base-eval runs/step-50-eval runs/rl-eval`,
    `palestra eval --ban wait --ban hmm ... --out runs/rl-banned && palestra aha runs/base-eval runs/rl-eval --marker
    wait --marker hmm --without runs/rl-banned`
    """
    from rich.console import Console

    from palestra.agents.markers import markers_of
    from palestra.eval.aha_runs import aha_tables, measure_runs

    measured = measure_runs(runs, markers_of(tuple(marker or ())), without, variant)
    if as_json:
        typer.echo(json.dumps([found.to_json() for found in measured]))
    else:
        Console().print(*aha_tables(measured), sep="\n")
