"""`palestra doctor`: what works on this machine, how fast, and what to do about what does not."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from palestra.envs.sandbox.checkup import Checkup

PACKAGES = (
    "palestra",
    "torch",
    "transformers",
    "trl",
    "gymnasium",
    "numpy",
    "sympy",
    "docker",
    "e2b-code-interpreter",
    "vllm",
)


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("doctor")(doctor)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable, on stdout.")] = False,
    sandbox: Annotated[
        str | None,
        typer.Option(
            help="Check this one only: local, docker, e2b, or unsafe-process, which isolates nothing. "
            "[default: all but the last]"
        ),
    ] = None,
    build_image: Annotated[
        bool, typer.Option("--build-image", help="First build the image of the sandbox 'docker'.")
    ] = False,
) -> None:
    """Say which sandboxes work here and what they enforce, and which versions are installed.

    Each sandbox runs a few trivial programs, one after the other; those of `e2b` run in the cloud, on your account.
    Exit code 5 if the sandbox asked for (or else the default one, `local`) does not work.

    Examples: `palestra doctor`, `palestra doctor --sandbox docker --json`,
    `palestra doctor --build-image --sandbox docker`
    """
    from palestra.envs.errors import MissingPrerequisiteError, unknown_name
    from palestra.envs.sandbox import BACKENDS
    from palestra.envs.sandbox.checkup import examine
    from palestra.envs.sandbox.shared import default_sandbox

    if sandbox is not None and sandbox not in BACKENDS:
        raise unknown_name("sandbox", sandbox, BACKENDS)
    if build_image:
        _build_image()
    names = [sandbox] if sandbox else [name for name in BACKENDS if name != "unsafe-process"]
    found = [examine(name) for name in names]
    needed = sandbox or default_sandbox()
    works = all(checkup.problem is None for checkup in found if checkup.sandbox == needed)
    versions, cuda = _versions(), _cuda()
    if as_json:
        typer.echo(json.dumps(_as_json(found, needed, works, versions, cuda), indent=2))
    else:
        _show(found, versions, cuda)
    if not works:
        if not as_json:
            typer.echo(f"palestra: the sandbox '{needed}' does not work here; see above", err=True)
        raise typer.Exit(MissingPrerequisiteError.exit_code)


def _build_image() -> None:
    from palestra.envs.sandbox.containers import IMAGE, build_image, connect

    typer.echo(f"building {IMAGE} (some minutes the first time)", err=True)
    client = connect()
    try:
        build_image(client)
    finally:
        client.close()


def _versions() -> dict[str, str | None]:
    """Return what is installed; None for what is not."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _cuda() -> list[str]:
    """Return the names of the GPUs that torch can use."""
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def _as_json(
    found: "Sequence[Checkup]", needed: str, works: bool, versions: dict[str, str | None], cuda: list[str]
) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "needed": needed,
        "works": works,
        "sandboxes": [asdict(checkup) for checkup in found],
        "versions": versions,
        "cuda": cuda,
    }


def _show(found: "Sequence[Checkup]", versions: dict[str, str | None], cuda: list[str]) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    from palestra.envs.sandbox.checkup import CELLS, RUNS

    table = Table(
        Column("sandbox", no_wrap=True),
        "works",
        Column("first result", justify="right"),
        Column("one-shot median / p95", justify="right"),
        Column("session cell", justify="right"),
        caption=f"{RUNS} one-shots, {CELLS} cells, one at a time, after a warm-up",
    )
    for checkup in found:
        if (t := checkup.latency) is None:
            table.add_row(checkup.sandbox, "[red]no[/red]", "", "", "")
        else:
            once = f"{t.run_median_ms:.1f} / {t.run_p95_ms:.1f} ms"
            table.add_row(checkup.sandbox, "yes", f"{t.first_s:.2f} s", once, f"{t.cell_median_ms:.2f} ms")
    console = Console()
    console.print(table)
    for checkup in found:
        if checkup.problem is not None:
            typer.echo(f"\n{checkup.sandbox} does not work here: {checkup.problem}")
        else:
            typer.echo(f"\n{checkup.sandbox} enforces:")
            for measure, state in checkup.enforced.items():
                typer.echo(f"  {measure}: {state}")
    typer.echo("\n" + ", ".join(f"{name} {number or '(not installed)'}" for name, number in versions.items()))
    typer.echo(f"GPUs: {', '.join(cuda) or 'none that torch can use; everything runs on the CPU'}")
