"""`palestra exact`: pass@k for every k without sampling, where few turns carry the probability."""

import json
import math
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("exact")(exact)


def exact(
    model: Annotated[str, typer.Option(help="Organism name, folder, or hub id.")],
    env: Annotated[str, typer.Option(help="Environment id.")],
    variant: Annotated[str, typer.Option(help="Variant.")] = "test",
    problems: Annotated[int, typer.Option(help="Distinct problems.", min=1)] = 20,
    max_tokens: Annotated[int, typer.Option(help="Most tokens per turn.", min=1)] = 64,
    temperature: Annotated[float, typer.Option(help="Sampling temperature, above 0.")] = 1.0,
    tolerance: Annotated[
        float, typer.Option(help="Stop at a problem once so little of the probability is left.")
    ] = 1e-3,
    budget: Annotated[int, typer.Option(help="Prefixes that the model reads per problem, at most.", min=1)] = 20_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON on stdout instead.")] = False,
) -> None:
    """Bracket the success probability of each problem by enumerating what the model could write.

    Gives a lower and an upper bound that hold for certain: for short answers and forced traces they meet. Where a
    model spreads its probability over many texts, the bracket stays wide, and sampling is the better way.

    Example: `palestra exact --model string-atoms --env palestra/StringCompose-v0 --variant atoms --problems 10`
    """
    from palestra.cli.models import resolve_model
    from palestra.envs import make
    from palestra.envs.errors import UsageError

    if not 0 < temperature < math.inf:
        raise UsageError(f"the temperature must be a number above 0, not {temperature:g}.")
    if not 0 <= tolerance < 1:
        raise UsageError(f"the tolerance must lie in [0, 1), not {tolerance:g}.")
    name = resolve_model(model)

    from palestra.agents.codec import ChatCodec
    from palestra.agents.models import load_model
    from palestra.eval.exact import success_probability
    from palestra.eval.stats.exact import theta_curve

    indices = make(env, variant).distinct_indices(problems, or_all=True)
    loaded = load_model(name)
    codec = ChatCodec(loaded.tokenizer)
    played = make(env, variant, syntax=codec.syntax)
    found = []
    for index in indices:
        bracket = success_probability(
            loaded.model,
            codec,
            played,
            index,
            max_tokens=max_tokens,
            temperature=temperature,
            tolerance=tolerance,
            budget=budget,
            max_length=loaded.max_length,
        )
        found.append(bracket)
        if not as_json:
            typer.echo(
                f"problem {index}: {bracket.low:.6g} to {bracket.high:.6g} "
                f"({bracket.episodes} episodes, {bracket.expansions} prefixes)"
            )
    ks = [1, 4, 16, 64, 256, 1024]
    low = theta_curve([b.low for b in found], ks).mean(axis=0)
    high = theta_curve([b.high for b in found], ks).mean(axis=0)
    if as_json:
        rows = [{"problem": index, **bracket._asdict()} for index, bracket in zip(indices, found, strict=True)]
        curve = [
            {"k": k, "low": round(a, 6), "high": round(b, 6)}
            for k, a, b in zip(ks, low.tolist(), high.tolist(), strict=True)
        ]
        typer.echo(json.dumps({"env": env, "variant": variant, "model": model, "problems": rows, "pass": curve}))
        return
    if any(bracket.high - bracket.low > tolerance for bracket in found):
        typer.echo("the budget ended before the tolerance was reached; raise --budget, or sample with `palestra eval`")
    for k, a, b in zip(ks, low, high, strict=True):
        typer.echo(f"pass@{k}: {a:.4f} to {b:.4f} on these {len(found)} problems")
