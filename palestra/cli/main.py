"""The `palestra` command: one module per verb, each thin; heavy imports happen inside the verbs."""

import os
import sys
import traceback
import warnings

import typer

from palestra.cli import (
    aha,
    check,
    checkpoints,
    compare,
    doctor,
    envs,
    evaluate,
    exact,
    export,
    likelihood,
    new,
    organism,
    plan,
    play,
    quickstart,
    runs,
    serve,
    train,
    view,
)

app = typer.Typer(
    name="palestra",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help=(
        "Train tool-using language agents in text environments, and measure whether training sharpened what the "
        "model could do or gave it something new.\n\nStart with `palestra quickstart`."
    ),
)
for module in (
    quickstart,
    doctor,
    envs,
    play,
    new,
    check,
    organism,
    train,
    view,
    evaluate,
    exact,
    runs,
    compare,
    checkpoints,
    likelihood,
    aha,
    plan,
    serve,
    export,
):
    module.add_to(app)


def main() -> None:
    """Run the command line; errors that a user can mend are one sentence and an exit code."""
    _hush_libraries()
    try:
        app()
    except KeyboardInterrupt:
        typer.echo("palestra: interrupted; the same command resumes.", err=True)
        sys.exit(130)
    except Exception as error:
        sys.exit(_report(error))


def _hush_libraries() -> None:
    """Keep other libraries' bars and advice off the screen; a user's own settings stay as they are."""
    for name in ("TRL_EXPERIMENTAL_SILENCE", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(name, "1")
    if not os.environ.get("PALESTRA_TRACEBACK"):
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|trl")


def _report(error: Exception) -> int:
    """Print an error as one sentence and return the exit code."""
    from palestra.envs.errors import PalestraError, visible  # here, because it loads Gymnasium

    if os.environ.get("PALESTRA_TRACEBACK"):
        traceback.print_exception(error)
    if isinstance(error, PalestraError):
        typer.echo(f"palestra: {visible(str(error))}", err=True)
        return error.exit_code
    reason = visible(" ".join(str(error).split())[:500])
    typer.echo(
        f"palestra: unexpected {type(error).__name__}: {reason} (set PALESTRA_TRACEBACK=1 for the traceback)",
        err=True,
    )
    return 1
