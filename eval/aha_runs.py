"""Back-tracking in stored episodes: the traces of evaluation runs, measured by `palestra.eval.aha`, as tables."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from palestra.agents.markers import Markers
from palestra.envs.errors import UsageError
from palestra.eval.aha import Aha, Run, Traces, aha, describe
from palestra.eval.loading import LoadedRun, load_control, load_runs, samples_to_compare
from palestra.eval.records import first_difference, read_samples, read_trajectory
from palestra.eval.stats.intervals import Interval

NOTES = (
    "rate: traces with a marker, of what the model wrote; length: in characters; within: how much likelier traces "
    "with a marker are to succeed than those without one of the same problem (over problems that have both).",
    "Neither says what markers do: traces differ in more. For that, sample the last model without them "
    "(`palestra eval --ban WORD`) and give that run as --without.",
)


@dataclass(frozen=True, slots=True)
class Measured:
    """One variant: what each run's traces hold, and how each trained model differs from the base."""

    variant: str
    labels: tuple[str, ...]
    """Of the runs, the base first."""
    traces: tuple[Traces, ...]
    """Of the same runs."""
    changes: tuple[Aha, ...]
    """Of all runs but the base; the last has the ablation, if there is one."""

    def to_json(self) -> dict[str, Any]:
        """Return all numbers."""
        runs = [{"run": label, **_json(found)} for label, found in zip(self.labels, self.traces, strict=True)]
        changes = [{"run": label, **_json(a)} for label, a in zip(self.labels[1:], self.changes, strict=True)]
        return {"variant": self.variant, "runs": runs, "changes": changes}


def measure_runs(
    runs: Sequence[str],
    markers: Markers,
    without: str | None = None,
    variants: Sequence[str] | None = None,
) -> list[Measured]:
    """Measure back-tracking in runs of the same problems.

    Args:
        runs: Run directories, the base first and checkpoints in order; LABEL=PATH names one.
        markers: What counts.
        without: Run of the last one's model, sampled with the markers banned.
        variants: Measure these variants only.

    Raises:
        UsageError: A folder is no run, or the runs cannot be compared; or `without` is no such run.
        PalestraError: A file is damaged.
    """
    loaded = load_runs(runs, variants)
    n = samples_to_compare(loaded)
    traces = [_traces(run, n) for run in loaded]
    banned: dict[str, Run] = {}
    if without is not None:
        if len(loaded) == 1:
            raise UsageError("--without is the control of a trained model: give the base and that model's run before")
        control = load_control(without, loaded[0])
        _check_ablation(loaded[-1], control)
        banned = _traces(control, samples_to_compare([control]))
    labels = tuple(run.info.label for run in loaded)
    found = []
    for variant in sorted(traces[0], key=lambda name: (name != "test", name)):
        base, *others = [run[variant] for run in traces]
        controls = [None] * (len(others) - 1) + [banned.get(variant)]
        changes = [aha(base, run, control, markers=markers) for run, control in zip(others, controls, strict=False)]
        described = tuple(describe(run[variant], markers) for run in traces)
        found.append(Measured(variant, labels, described, tuple(changes)))
    return found


def aha_tables(measured: Sequence[Measured]) -> Iterator[RenderableType]:
    """Yield a table per variant, with what is said of each trained model, and then the notes."""
    for found in measured:
        table = Table(title=Text(f"{found.variant}: back-tracking"), box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for name in (
            "run",
            "rate",
            "rate - base",
            "per 1,000",
            "length",
            "length - base",
            "solved with",
            "without",
            "within",
        ):
            table.add_column(name, justify="left" if name == "run" else "right")
        for label, traces, change in zip(found.labels, found.traces, (None, *found.changes), strict=True):
            table.add_row(
                Text(label),
                _percent(traces.rate),
                "" if change is None else _percent(change.rate_change, "+"),
                f"{traces.density:.2f}",
                f"{traces.characters:.0f}",
                "" if change is None else _interval(change.length_change, "+.1f"),
                _percent(traces.accuracy_with),
                _percent(traces.accuracy_without),
                _percent(traces.within, "+"),
            )
        said = [
            Text.assemble(f"{label}: ", (change.verdict, "bold"), f" ({change.sentence})")
            for label, change in zip(found.labels[1:], found.changes, strict=True)
        ]
        yield Group(table, *said, Text())
    yield from map(Text, NOTES)


def _json(found: Traces | Aha) -> dict[str, Any]:
    values = {field.name: getattr(found, field.name) for field in fields(found)}
    return {name: value.to_json() if isinstance(value, Interval) else value for name, value in values.items()}


def _percent(interval: Interval | None, sign: str = "") -> str:
    if interval is None:
        return ""
    return _interval(Interval(*(100 * x for x in interval)), f"{sign}.1f")


def _interval(interval: Interval, form: str) -> str:
    return f"{interval.estimate:{form}}\n{interval.low:{form}} to {interval.high:{form}}"


def _traces(run: LoadedRun, n: int) -> dict[str, Run]:
    """Read what the model wrote in the first n samples of each problem, by variant."""
    path = run.info.path
    found: dict[str, tuple[list[str], list[float], list[str]]] = {name: ([], [], []) for name in run.outcomes}
    for sample in read_samples(path):
        if sample.variant in found and sample.sample < n:
            texts, outcomes, problems = found[sample.variant]
            messages = read_trajectory(path, sample.part, sample.offset)["messages"]
            texts.append("\n".join(m["content"] for m in messages if m["role"] == "assistant"))
            outcomes.append(sample.outcome)
            problems.append(sample.key)
    return {name: Run(*columns) for name, columns in found.items()}


def _check_ablation(trained: LoadedRun, control: LoadedRun) -> None:
    name, ours, theirs = control.info.label, trained.info.manifest, control.info.manifest
    sampling = dict(theirs["sampling"])
    if not sampling.pop("banned", None):
        raise UsageError(f"{name} was sampled with nothing banned; draw it with `palestra eval --ban WORD`.")
    if found := first_difference(ours["sampling"], sampling, "sampling"):
        raise UsageError(
            f"{found[0]} is {found[1]} in {trained.info.label} and {found[2]} in {name}; but for --ban, evaluate both "
            "with the same settings."
        )
    if _weights(ours) != _weights(theirs):
        raise UsageError(
            f"{name} is of another model than {trained.info.label}; --without takes a run of the last one's model."
        )


def _weights(manifest: dict[str, Any]) -> Any:
    model = manifest.get("model")
    return model.get("weights", model.get("name")) if isinstance(model, dict) else model
