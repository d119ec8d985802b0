"""`palestra envs`: what can be trained on, as a table, as JSON, and as the gallery page."""

import json
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from palestra.envs import EnvSpec


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("envs")(envs)


def envs(
    pattern: Annotated[
        str | None, typer.Argument(help="List those whose id or description holds this; * and ? stand for anything.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Machine-readable, on stdout; always lists each environment.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="List each task of adapted suites.")] = False,
    gallery: Annotated[
        Path | None,
        typer.Option(help="Write a page with every built-in environment and an episode of it; plays them."),
    ] = None,
) -> None:
    """List the environments that are built in or installed, with their variants.

    A suite that was adapted as a whole is one line, unless you ask for --all or name its tasks.

    Examples: `palestra envs`, `palestra envs 'palestra/rg/*'`, `palestra envs --gallery docs/gallery.md`
    """
    from palestra.envs import specs
    from palestra.envs.errors import UsageError

    if gallery is not None:
        _write_gallery(gallery)
        return
    chosen = [spec for spec in specs() if pattern is None or _matches(spec, pattern)]
    if not chosen:
        raise UsageError(f"no environment matches '{pattern}'; `palestra envs` lists what there is")
    if as_json:
        typer.echo(json.dumps([row(spec) for spec in chosen], indent=2))
    else:
        _show(chosen, collapse=pattern is None and not everything)


def row(spec: "EnvSpec") -> dict[str, Any]:
    """Return what is known of an environment without making it; its variants may change some of it."""
    return {
        "id": spec.id,
        "summary": spec.summary,
        "variants": list(spec.variants),
        "tools": [tool.name for tool in spec.cls.tools],
        "max_turns": spec.cls.max_turns,
        "process_terms": {
            name: {"low": term.low, "high": term.high, "gamed_by": term.gamed_by}
            for name, term in spec.cls.process_terms.items()
        },
        "flags": list(spec.flags),
        "source": source(spec),
    }


def source(spec: "EnvSpec") -> str:
    """Return the sentence that cites where the task comes from: of the class, or of its module; empty if none does."""
    import inspect
    import re
    import sys

    for documented in (spec.cls, sys.modules.get(spec.cls.__module__)):
        text = re.sub(r"\s+", " ", inspect.getdoc(documented) or "")
        for sentence in re.split(r"(?<=[.!?]) (?=[A-Z`\"])", text):
            if re.search(r"arXiv|https?://|doi\.org|github\.com", sentence, re.IGNORECASE):
                return sentence
    return ""


def suite(env_id: str) -> str | None:
    """Return the adapted suite that an environment belongs to, such as `palestra/rg`; None for others."""
    return env_id.rsplit("/", 1)[0] if env_id.count("/") == 2 else None


def _matches(spec: "EnvSpec", pattern: str) -> bool:
    pattern = pattern.lower()
    if set(pattern) & set("*?["):
        parts = spec.id.lower().split("/")
        return any(fnmatchcase("/".join(parts[first:]), pattern) for first in range(len(parts)))
    return pattern in spec.id.lower() or pattern in spec.summary.lower()


def _show(specs: "Sequence[EnvSpec]", *, collapse: bool) -> None:
    from itertools import groupby

    from rich.console import Console
    from rich.table import Column, Table

    table = Table(Column("environment", no_wrap=True), "variants", "what it is")
    for name, members in groupby(specs, key=lambda spec: suite(spec.id) if collapse else None):
        if name is None:
            for spec in members:
                table.add_row(spec.id, ", ".join(spec.variants), spec.summary)
        else:
            tasks = list(members)
            variants = ", ".join(dict.fromkeys(v for spec in tasks for v in spec.variants))
            table.add_row(f"{name}/...", variants, f"{len(tasks)} tasks; list them with `palestra envs '{name}/*'`")
    Console().print(table)


def _write_gallery(path: Path) -> None:
    from palestra.cli.gallery import page
    from palestra.envs.errors import UsageError

    text = page()
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write '{path}': {(error.strerror or str(error)).lower()}") from error
    typer.echo(f"gallery: {path}")
