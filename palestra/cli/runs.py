"""Verbs that make runs of runs: `palestra score` and `palestra merge`."""

from pathlib import Path
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command("score")(score)
    app.command("merge")(merge)


def score(
    run: Annotated[Path, typer.Argument(help="Folder that `palestra eval` wrote.")],
    out: Annotated[Path, typer.Option(help="New folder for the run with the new scores.")],
) -> None:
    """Score the stored episodes of a run again, with the environment as it is now.

    Nothing is sampled: the stored turns are played once more. The old run stays as it is.

    Example: `palestra score runs/base-eval --out runs/base-eval-2`
    """
    from palestra.eval.rescore import rescore

    found = rescore(run, out)
    typer.echo(
        f"{out}: {found.samples} samples scored; {found.gained} failures are successes now, {found.lost} successes "
        "are failures now"
    )
    if found.replies:
        typer.echo(
            f"note: in {found.replies} episodes the environment now answers a turn differently; the model had seen "
            "the old answer",
            err=True,
        )


def merge(
    shards: Annotated[list[Path], typer.Argument(help="Folders that `palestra eval --shard I/N` wrote.")],
    out: Annotated[Path, typer.Option(help="New folder for the whole run.")],
) -> None:
    """Join shards to the run that one `palestra eval` without `--shard` would have written.

    Example: `palestra merge runs/base-0 runs/base-1 --out runs/base`
    """
    from palestra.eval.merge import merge as join

    found = join(shards, out)
    typer.echo(f"{out}: {found.samples} samples" + (f", {found.missing} still to be drawn" if found.missing else ""))
    if found.missing:
        typer.echo(f"next: the command of a shard with --out {out} and without --shard draws them")
