"""`palestra view`: read the episodes of a run in the terminal."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("view")(view)


def view(
    run: Annotated[Path, typer.Argument(help="Folder that `palestra eval` wrote.")],
    variant: Annotated[str | None, typer.Option(help="Episodes of this variant only.")] = None,
    problem: Annotated[int | None, typer.Option(help="Episodes of this problem only.")] = None,
    sample: Annotated[int | None, typer.Option(help="Samples with this number only.")] = None,
    outcome: Annotated[Literal["success", "failure"] | None, typer.Option(help="Episodes that ended so only.")] = None,
    limit: Annotated[int, typer.Option(help="Most episodes to show.", min=1)] = 20,
    pager: Annotated[bool, typer.Option(help="Page through them on a terminal.")] = True,
) -> None:
    """Show episodes turn by turn, with their tool calls and outcomes.

    Example: `palestra view runs/rl-eval --variant test --outcome failure`
    """
    from rich.console import Console

    from palestra.eval.viewing import Wanted, episodes_to_view

    solved = None if outcome is None else outcome == "success"
    shown = list(episodes_to_view(run, Wanted(variant, problem, sample, solved), limit))
    console = Console(highlight=False)
    if pager and sys.stdout.isatty():
        with console.pager(styles=True):
            console.print(*shown, sep="\n")
    else:
        console.print(*shown, sep="\n")
