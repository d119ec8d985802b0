"""`palestra envs`: what can be trained on."""

import json
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("envs")(envs)


def envs(
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable, on stdout.")] = False,
) -> None:
    """List the environments that are built in or installed, with their variants."""
    from rich.console import Console
    from rich.table import Column, Table

    from palestra.envs import specs

    if as_json:
        rows = [{"id": s.id, "summary": s.summary, "variants": list(s.variants)} for s in specs()]
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table(Column("environment", no_wrap=True), "variants", "what it is")
    for spec in specs():
        table.add_row(spec.id, ", ".join(spec.variants), spec.summary)
    Console().print(table)
