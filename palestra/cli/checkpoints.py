"""`palestra checkpoints`: what training did over time, and arms against each other at equal cost or accuracy."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from palestra.eval.over_training import OverTraining
    from palestra.eval.stats.intervals import Interval


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("checkpoints")(checkpoints)


def checkpoints(
    base: Annotated[str, typer.Argument(help="Folder that `palestra eval` wrote of the model before training.")],
    arm: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=RUN,RUN,...",
            help="Evaluations of one training's checkpoints, from the earliest to the last; repeatable.",
        ),
    ],
    variant: Annotated[list[str] | None, typer.Option(help="Compare on this variant only; repeatable.")] = None,
    match: Annotated[
        str,
        typer.Option(
            help="Cost at which arms are compared: tokens_sampled, tokens_trained, optimiser_steps, seconds, or none."
        ),
    ] = "tokens_trained",
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples.", min=100)] = 2_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON on stdout instead.")] = False,
) -> None:
    """Follow trainings over their checkpoints.

    Each arm gets a regime per variant: Diminish (more in one try, less in many), Plateau, Sustained, or unresolved.
    Several arms are compared at the greatest cost that both reached, and out of distribution where both are equally
    accurate in distribution (`test`). `palestra train --keep-checkpoints 0 --save-every 20` leaves the checkpoints;
    evaluate each like any model: `palestra eval --model runs/rl/checkpoints/checkpoint-20 --out runs/rl-20 ...`.

    Example: `palestra checkpoints runs/base --arm rl=runs/rl-20,runs/rl-40 --arm sft=runs/sft-30,runs/sft-60`
    """
    from palestra.envs.errors import UsageError
    from palestra.eval.over_training import over_training

    arms: dict[str, list[str]] = {}
    for text in arm:
        name, separator, runs = text.partition("=")
        if not (separator and name and runs) or name in arms:
            raise UsageError(f"--arm takes NAME=RUN,RUN,... with a name of its own, not '{text}'.")
        arms[name] = [run for run in runs.split(",") if run]
    found = over_training(base, arms, variants=variant, match=None if match == "none" else match, resamples=resamples)
    if as_json:
        typer.echo(json.dumps(found.to_json()))
    else:
        _print(found, match)


def _print(found: "OverTraining", match: str) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from palestra.eval.stats.seeds import ONE_SEED

    table = Table(title=f"{found.env}: over training, in %", box=SIMPLE_HEAD)
    for name in ("variant", "arm", "checkpoint", match.replace("_", " "), "pass@1", f"pass@{found.n // 2}", "regime"):
        table.add_column(name, justify="left" if name in ("variant", "arm", "checkpoint", "regime") else "right")
    for curve in found.curves:
        for number, point in enumerate(curve.points):
            last = number == len(curve.points) - 1
            cost = (point.cost or {}).get(match)
            table.add_row(
                curve.variant if number == 0 else "",
                curve.arm if number == 0 else "",
                "base" if number == 0 else point.run,
                "?" if cost is None else f"{cost:,.0f}",
                _percent(point.first),
                _percent(point.many),
                str(curve.regime or "one checkpoint only") if last else "",
                end_section=last,
            )
    Console().print(table)
    for equal in found.equal_cost:
        typer.echo(
            f"{equal.variant}: {equal.first} - {equal.second} at {equal.at:,.0f} {match.replace('_', ' ')}: pass@1 "
            f"{_percent(equal.difference, signed=True)}"
        )
    for at in found.equal_accuracy:
        typer.echo(
            f"{at.variant}: {at.first} - {at.second} where both solve {_percent(at.found.accuracy)} of test: pass@1 "
            f"{_percent(at.found.difference, signed=True)}"
        )
    typer.echo(
        f"95% intervals over problems, n={found.n} samples each; points between checkpoints are linear; {ONE_SEED}."
    )


def _percent(interval: "Interval", *, signed: bool = False) -> str:
    low, high = 100 * interval.low, 100 * interval.high
    if signed:
        return f"{100 * interval.estimate:+.1f} [{low:+.1f}, {high:+.1f}]"
    return f"{100 * interval.estimate:.1f} [{low:.1f}, {high:.1f}]"
