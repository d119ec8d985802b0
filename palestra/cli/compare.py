"""`palestra compare`: what training did, with pass@k of several runs, on screen, as JSON and as a page."""

import json
from pathlib import Path
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("compare")(compare)


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(help="Folders that `palestra eval` wrote, the base first; LABEL=FOLDER names one."),
    ],
    variant: Annotated[list[str] | None, typer.Option(help="Compare this variant only; repeatable.")] = None,
    html: Annotated[Path | None, typer.Option(help="Where to write the page.")] = Path("report.html"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON on stdout instead.")] = False,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples.", min=100)] = 2_000,
    samples: Annotated[
        int | None,
        typer.Option(
            help="Compare the first so many samples of each problem; later ones only confirm what one model can "
            "solve and another cannot. [default: as many as every run has]"
        ),
    ] = None,
    control: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[LABEL=]FOLDER",
            help="Run of the base sampled in another way (`palestra eval --power-alpha 4`, or a low --temperature): "
            "how much of a gain it reaches without training. Repeatable.",
        ),
    ] = None,
    chance: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Run of `--model random` on the same problems: no claim is made where guessing wins.",
        ),
    ] = None,
    likelihood: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="What `palestra likelihood BASE TRAINED --out FILE` wrote: problems that it shows to be within the "
            "base's reach are no discoveries. Repeatable.",
        ),
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL",
            help="Exit 1 unless every verdict has this label; VARIANT:LABEL and RUN:VARIANT:LABEL ask it of fewer "
            "verdicts. Repeatable, for CI.",
        ),
    ] = None,
) -> None:
    """Compare runs on the same problems: base against SFT against RL.

    Prints pass@k with paired bootstrap intervals per variant (`test` is in distribution, the others are not) and a
    verdict on every run but the first, and writes a page with the curves. A verdict is a set of labels: DISCOVER,
    LOSE, SHARPEN, SHRINK, NO EFFECT or NOT DECIDED.

    Examples: `palestra compare runs/base-eval runs/sft-eval runs/rl-eval`,
    `palestra compare base=runs/base-eval rl=runs/rl-eval --require test:SHARPEN --require rl:level-3:no-effect`
    """
    from palestra.eval.compare import compare_runs
    from palestra.eval.report import write_report
    from palestra.eval.tables import print_comparison
    from palestra.eval.verdicts import Requirement

    required = [Requirement.parse(text) for text in require or ()]
    comparison = compare_runs(
        runs,
        variants=variant,
        samples=samples,
        resamples=resamples,
        controls=control or (),
        chance=chance,
        likelihoods=likelihood or (),
    )
    for requirement in required:
        requirement.meant(comparison.verdicts)
    if as_json:
        typer.echo(json.dumps(comparison.to_json()))
    else:
        print_comparison(comparison)
    if html is not None:
        typer.echo(f"report: {write_report(comparison, html)}", err=as_json)
    for requirement in required:
        requirement.check(comparison.verdicts)
