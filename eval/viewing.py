"""Stored episodes as text for the terminal."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.text import Text

from palestra.envs.errors import UsageError, unknown_name, visible
from palestra.eval.records import SampleRecord, read_manifest, read_samples, read_trajectory

STYLES = {"assistant": "bold cyan", "tool": "yellow", "user": "green"}
"""Colour of a role's heading."""


class Wanted(NamedTuple):
    """Which episodes to show; None for any."""

    variant: str | None = None
    problem: int | None = None
    sample: int | None = None
    solved: bool | None = None


def episodes_to_view(run: str | Path, wanted: Wanted, limit: int) -> Iterator[RenderableType]:
    """Yield the first `limit` episodes that are wanted, by variant, problem and sample.

    Raises:
        UsageError: `run` is no run, it lacks the variant, or none of its episodes is wanted.
        PalestraError: A line or a trajectory is damaged.
    """
    read_manifest(run)
    held = read_samples(run)
    variants = {s.variant for s in held}
    if wanted.variant is not None and wanted.variant not in variants:
        raise unknown_name(f"variant of run {run}", wanted.variant, variants)
    samples = sorted((s for s in held if _fits(s, wanted)), key=lambda s: s.id)
    if not samples:
        raise UsageError(f"{run} has no such episode.")
    for sample in samples[:limit]:
        yield episode_text(sample, read_trajectory(run, sample.part, sample.offset))
    if len(samples) > limit:
        yield Text(f"{len(samples) - limit} more; see --limit, --problem, --sample and --outcome", style="dim")


def episode_text(sample: SampleRecord, trajectory: dict[str, object]) -> RenderableType:
    """Lay out an episode turn by turn; what a model wrote is shown as characters and changes no terminal."""
    outcome = "error" if sample.error else "success" if sample.outcome == 1.0 else "failure"
    title = Text(f"{visible(sample.variant)} problem {sample.problem}, sample {sample.sample}: {outcome}")
    title.stylize({"success": "bold green", "failure": "bold red"}.get(outcome, "bold magenta"))
    facts = [f"stopped: {visible(sample.stop)}", f"{sample.turns} turns"]
    if sample.tokens_out is not None:
        facts.append(f"{sample.tokens_out} tokens")
    facts += [f"{visible(name)} {value:g}" for name, value in sorted(sample.process.items())]
    parts: list[RenderableType] = [Rule(title, align="left"), Text(", ".join(facts), style="dim")]
    if sample.error:
        parts.append(Text(visible(sample.error), style="magenta"))
    messages = trajectory.get("messages")
    for message in messages if isinstance(messages, list) else []:
        role = str(message.get("role", ""))
        parts.append(Text(visible(role), style=STYLES.get(role, "bold")))
        parts.append(Text(visible(str(message.get("content", ""))) + "\n"))
    return Group(*parts)


def _fits(sample: SampleRecord, wanted: Wanted) -> bool:
    return (
        wanted.variant in (None, sample.variant)
        and wanted.problem in (None, sample.problem)
        and wanted.sample in (None, sample.sample)
        and wanted.solved in (None, sample.outcome == 1.0)
    )
