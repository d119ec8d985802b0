"""`palestra check`: play an environment in every way that goes wrong elsewhere, and say what does."""

import math
import os
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from palestra.envs.checks import Report, Settings

_WIDTH = 130
"""Columns that the table needs; a narrower terminal breaks its lines."""


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("check")(check)


def check(
    env: Annotated[
        list[str] | None,
        typer.Argument(
            help="Environment ids; a pattern such as 'palestra/*' stands for all that match.", metavar="ID"
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Check every environment that is installed.")] = False,
    variant: Annotated[
        list[str] | None, typer.Option(help="Report on this variant only; repeatable. [default: all of them]")
    ] = None,
    episodes: Annotated[
        int, typer.Option(help="Episodes of the oracle, and as many random ones, per variant.", min=1)
    ] = 200,
    fuzz: Annotated[
        int | None,
        typer.Option(
            help="Malformed turns in all, spread evenly, but a tenth of a share where steps wait for another process. "
            "[default: 2000 per share]",
            min=0,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seeds random and malformed turns.", min=0)] = 0,
    budget: Annotated[
        float, typer.Option(help="Seconds after which one check on one variant is cut short.", min=0.1)
    ] = 30.0,
    jobs: Annotated[
        int | None, typer.Option(help="Variants checked at the same time. [default: one per core]", min=1)
    ] = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="Write everything measured to this file.")] = None,
    allow_not_run: Annotated[
        bool, typer.Option("--allow-not-run", help="Exit 0 although some could not be checked for want of a package.")
    ] = False,
    sandbox: Annotated[
        str, typer.Option(help="Where tools run code: local, docker, e2b or unsafe-process (no isolation).")
    ] = "local",
) -> None:
    """Play environments in every way that goes wrong, and say what does.

    Played are the oracle, random turns, tens of reward hacks, copiers and malformed turns, in processes of their own.
    Checked are: equal episodes in every process, splits without a common task, an oracle that always solves, chance
    that hardly does, bounds of process terms, hacks and copies that are not paid, turns of any kind that neither raise
    nor hang, and instances that know nothing of each other. Exit code 1 if something is wrong or could not be checked.

    Examples: `palestra check acme/Echo-v0`, `palestra check --all --episodes 50 --fuzz 200000 --json checks.json`
    """
    from palestra.agents.progress import ProgressReport
    from palestra.envs import specs
    from palestra.envs.checks import Settings
    from palestra.envs.checks import check as run_checks
    from palestra.envs.errors import UsageError
    from palestra.envs.sandbox.shared import use_sandbox

    use_sandbox(sandbox)
    if bool(env) == everything:
        raise UsageError("name environments, such as `palestra check palestra/Dice-v0`, or give --all")
    ids = [spec.id for spec in specs()] if everything else _resolve(env or [])
    chosen = _variants(ids, variant, strict=not everything)
    if as_json is not None:
        _check_writable(as_json)
    settings = Settings(
        episodes=episodes,
        fuzz=2_000 if fuzz is None else _share(fuzz, chosen),
        seed=seed,
        budget_s=budget,
        sandbox=sandbox,
    )
    with ProgressReport("checking", "steps", len(chosen) + len({env_id for env_id, _ in chosen})) as progress:
        reports = run_checks(
            list(dict.fromkeys(env_id for env_id, _ in chosen)),
            variants=variant,
            settings=settings,
            jobs=jobs or os.cpu_count() or 1,
            on_progress=lambda step: progress.update(step.done, step.text),
        )
    _show(reports, settings)
    if as_json is not None:
        _write(as_json, reports, settings)
    if any(report.problems or (report.not_run and not allow_not_run) for report in reports):
        raise typer.Exit(1)


def _resolve(patterns: "Sequence[str]") -> list[str]:
    """Return the ids that patterns and ids stand for, each once."""
    from palestra.envs import spec, specs
    from palestra.envs.errors import UsageError

    found: list[str] = []
    for pattern in patterns:
        if not set(pattern) & set("*?["):
            found.append(spec(pattern).id)
            continue
        matching = [known.id for known in specs() if fnmatchcase(known.id, pattern)]
        if not matching:
            raise UsageError(f"no environment matches '{pattern}'; `palestra envs --all` lists them")
        found += matching
    return list(dict.fromkeys(found))


def _variants(ids: "Sequence[str]", wanted: "Sequence[str] | None", *, strict: bool) -> list[tuple[str, str]]:
    """Return the pairs to be checked; with `strict`, every environment must have every variant asked for."""
    from palestra.envs import spec
    from palestra.envs.errors import unknown_name

    known = {env_id: spec(env_id).variants for env_id in ids}
    for name in wanted or ():
        for env_id, variants in known.items():
            if name not in variants and (strict or all(name not in names for names in known.values())):
                raise unknown_name(f"variant of {env_id}", name, variants)
    return [(env_id, v) for env_id, variants in known.items() for v in variants if not wanted or v in wanted]


def _share(total: int, chosen: "Sequence[tuple[str, str]]") -> int:
    """Return the malformed turns of one variant, so that all together get about `total`."""
    from palestra.envs import spec
    from palestra.envs.checks.base import BLOCKING_SHARE

    shares = 0.0
    for env_id, variant in chosen:
        cls = spec(env_id).cls
        tools = cls.variants[variant].get("tools", cls.tools)
        shares += 1 / BLOCKING_SHARE if cls.blocking or any(tool.blocking for tool in tools) else 1
    return math.ceil(total / shares)


def _show(reports: "Sequence[Report]", settings: "Settings") -> None:
    from rich.console import Console
    from rich.table import Column, Table

    table = Table(
        Column("environment", no_wrap=True),
        Column("variant", no_wrap=True),
        Column("oracle", justify="right", no_wrap=True),
        Column("chance [95 %]", justify="right", no_wrap=True),
        Column("step p50 / p95", justify="right", no_wrap=True),
        Column("tokens", justify="right", no_wrap=True),
        Column("tasks", justify="right", no_wrap=True),
        Column("result", min_width=15),
        caption=(
            f"up to {settings.episodes} episodes each of the oracle and at random, {settings.fuzz} malformed turns; "
            "steps in microseconds; tokens: characters / 4 of an oracle episode, its prompts included; tasks: "
            f"different ones in {settings.draws} draws"
        ),
    )
    for report in reports:
        table.add_row(report.env, report.variant, *_cells(report))
    Console(width=max(Console().width, _WIDTH)).print(table)
    said: dict[tuple[str, str], list[str]] = {}  # one mistake shows in many variants
    for report in reports:
        lines = [str(problem) for problem in report.problems]
        if report.not_run:
            lines.append(f"not run: {report.not_run}")
        if cut := report.measures.get("cut"):
            done = ", ".join(f"{what} (of which {count} were done)" for what, count in cut.items())
            lines.append(f"note: --budget {settings.budget_s:g} s was used up by {done}")
        for line in lines:
            said.setdefault((report.env, line), []).append(report.variant)
    for (env, line), variants in said.items():
        typer.echo(f"{env} {', '.join(variants)}: {line}")


def _cells(report: "Report") -> list[str]:
    m = report.measures
    result = {"passed": "[green]passed[/green]", "not run": "[yellow]not run[/yellow]"}.get(report.status)
    oracle = f"{m['oracle_rate']:.1%}" if "oracle_rate" in m else "-"
    chance = "-"
    if "chance_rate" in m:
        low, high = m["chance_interval"]
        chance = f"{m['chance_rate']:.1%} [{low:.1%}, {high:.1%}]".replace("[", r"\[")
    steps = f"{m['step_us']['p50']:,.0f} / {m['step_us']['p95']:,.0f}" if "step_us" in m else "-"
    tokens = f"{m['tokens']:,.0f}" if "tokens" in m else "-"
    failed = "[red]FAILED: " + ", ".join(dict.fromkeys(p.check for p in report.problems)) + "[/red]"
    return [oracle, chance, steps, tokens, str(m.get("distinct", "-")), result or failed]


def _write(path: Path, reports: "Sequence[Report]", settings: "Settings") -> None:
    from dataclasses import asdict

    from palestra.envs.folders import write_json

    rows = [{**asdict(report), "status": report.status} for report in reports]
    write_json(path, {"settings": asdict(settings), "reports": rows})


def _check_writable(path: Path) -> None:
    """Find out before the work is done, not after it."""
    from palestra.envs.errors import UsageError

    try:
        path.open("a", encoding="utf-8").close()
    except OSError as error:
        raise UsageError(f"cannot write '{path}': {(error.strerror or str(error)).lower()}") from error
