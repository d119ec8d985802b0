"""Verbs that make runs of what is there: `palestra score`, `merge` and `import`; and `confirm`, which extends two."""

from pathlib import Path
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command("score")(score)
    app.command("merge")(merge)
    app.command("import")(import_)
    app.command("confirm")(confirm)


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


def import_(
    files: Annotated[list[Path], typer.Argument(help="Result files of one model: .jsonl or .jsonl.gz.")],
    out: Annotated[Path, typer.Option(help="New folder for the run.")],
    name: Annotated[str, typer.Option(help="Name of the benchmark; runs of one name are comparable.")],
    model: Annotated[str, typer.Option(help="Name of the model.")],
    variant: Annotated[
        str, typer.Option(help="test: in distribution; train...: trained on; else out of it.")
    ] = "test",
    temperature: Annotated[float | None, typer.Option(help="Sampling temperature, where it is known.", min=0)] = None,
    top_p: Annotated[float | None, typer.Option(help="Nucleus mass, where it is known.", min=0, max=1)] = None,
) -> None:
    """Make a run of another project's result files, for `palestra compare`.

    Reads results of human-eval (`task_id`, `passed`) and score lists (`idx` or `question`, `score`: [true, ...]) as
    limit-of-RLVR writes them; files of several seeds add up. Numbers of attempts may differ: a comparison uses as many
    as every problem has.

    Example: `palestra import aime24_seed*.jsonl --name aime24 --model base --temperature 0.6 --out runs/base-aime24`
    """
    from palestra.eval.importing import import_scores

    known = {"temperature": temperature, "top_p": top_p}
    sampling = {key: value for key, value in known.items() if value is not None}
    found = import_scores(files, out, name=name, model=model, sampling=sampling, variant=variant)
    typer.echo(f"{out}: {found.samples} samples of {found.problems} problems, at least {found.fewest} of each")
    typer.echo(f"next: palestra compare {out}")


def confirm(
    base: Annotated[Path, typer.Argument(help="Run of the base.")],
    trained: Annotated[Path, typer.Argument(help="Run of the trained model, on the same problems.")],
    samples: Annotated[
        int | None, typer.Option(help="As for `palestra compare`: choose the problems by the first so many samples.")
    ] = None,
    base_url: Annotated[str | None, typer.Option(help="Address of the server of `openai:` models.")] = None,
) -> None:
    """Draw the fresh samples that a discovery or a loss needs, of the problems it may be found in alone.

    A problem that one model solves and the other did not is a candidate. `palestra compare` counts it once enough
    fresh samples of the other model fail, too: this draws as many as one candidate needs if all of them fail.

    Example: `palestra confirm runs/base-eval runs/rl-eval && palestra compare runs/base-eval runs/rl-eval`
    """
    from palestra.eval.confirming import confirm as draw

    for found in draw(base, trained, samples=samples, base_url=base_url):
        if found.candidates:
            typer.echo(
                f"{found.run} {found.variant}: {found.samples} fresh samples of each of {found.candidates} candidates"
            )
        else:
            typer.echo(f"{found.run} {found.variant}: no candidate")
    typer.echo(f"next: palestra compare {base} {trained}" + (f" --samples {samples}" if samples else ""))
