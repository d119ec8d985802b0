"""`palestra likelihood`: what the base thinks of the trained model's solutions, and what that says of its reach."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from palestra.eval.likelihood import VariantLikelihood


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("likelihood")(likelihood)


def likelihood(
    base: Annotated[str, typer.Argument(help="Folder that `palestra eval` wrote of the base.")],
    trained: Annotated[str, typer.Argument(help="The same of the trained model.")],
    variant: Annotated[list[str] | None, typer.Option(help="Score this variant only; repeatable.")] = None,
    samples: Annotated[
        int | None, typer.Option(help="Of the first so many samples of each problem. [default: as many as both have]")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the numbers here, for `palestra compare`.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON on stdout instead.")] = False,
) -> None:
    """Let both models read what either wrote, and bound what the base can do from below.

    Failed samples only say that a success is rare. The base's own probability of the solutions that were found says
    that it is no rarer than a bound: a problem within reach was not discovered by training. Also prints who is
    surprised by whom (perplexity per token), and how unlike the base's own samples the solutions are.

    Example: `palestra likelihood runs/base-eval runs/rl-eval --out reach.json`, then
    `palestra compare runs/base-eval runs/rl-eval --likelihood reach.json`
    """
    from palestra.envs.folders import write_json
    from palestra.eval.likelihood import likelihoods

    found = likelihoods(base, trained, variants=variant, samples=samples)
    if out is not None:
        write_json(out, found.to_json())
    if as_json:
        typer.echo(json.dumps(found.to_json()))
        return
    for scored in found.variants:
        _print(scored)
    if out is not None:
        typer.echo(f"next: palestra compare {base} {trained} --likelihood {out}")


def _print(scored: "VariantLikelihood") -> None:
    from palestra.eval.stats.discovery import DiscoveryRule

    rule = DiscoveryRule()
    alone = [found for found in scored.problems if found.trained_successes and not found.base_successes]
    near = [found for found in alone if found.within_reach(rule)]
    weak = sum(found.bound.weak for found in alone)
    typer.echo(
        f"{scored.name}: of {len(scored.problems)} problems, {len(alone)} were solved by the trained model alone in "
        f"{scored.n} samples; {len(near)} of them are within the base's reach (pass@{rule.budget} over {rule.eta:g})"
        + (f"; the bounds of {weak} are weak (fewer than 20 effective samples)" if weak else "")
    )
    for found in alone:
        typer.echo(
            f"  problem {found.problem}: base p from {found.bound.low:.2g} to {found.high:.2g} "
            f"(effective samples {found.bound.ess:.0f}), trained {found.trained_successes}/{scored.n}, "
            f"novelty {found.novelty:.2f}"
        )
    for reader, row in scored.perplexities.items():
        read = ", ".join(f"{value:.3f} of the {whose}'s samples" for whose, value in row.items())
        typer.echo(f"  perplexity under the {reader}: {read}")
    kl = [found.kl for found in scored.problems if found.kl is not None]
    if kl:
        typer.echo(f"  KL(trained || base): {sum(kl) / len(kl):.3f} nats per trajectory")
