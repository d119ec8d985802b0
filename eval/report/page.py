"""Renders a comparison as one self-contained HTML file.

The page loads nothing (its content security policy forbids it), runs no script but the one that filters trajectories
(the policy names its hash), reads well without it and without colour, and has the same bytes every time. Everything a
model wrote is escaped: it is hostile input.
"""

import json
import math
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from palestra.envs.errors import UsageError, visible
from palestra.eval.comparison import TRAINING_NOTE, Comparison, Curve, Difference
from palestra.eval.report.examples import Example, choose_examples
from palestra.eval.report.svg import Chart, Series, line_chart
from palestra.eval.stats.chance import chance_curve
from palestra.eval.stats.intervals import Interval
from palestra.eval.stats.verdict import Label
from palestra.eval.verdicts import RunVerdict

MAX_TRAJECTORY_CHARS = 40_000
"""Text shown of one trajectory; the rest is cut, with a note saying so."""
MAX_TEXT_BYTES = 1_200_000
"""What the texts of all trajectories may take in the page, escaped."""
EXAMPLES = 40
"""Trajectories shown unless asked otherwise."""


def render_report(comparison: Comparison, *, examples: int = EXAMPLES) -> str:
    """Render a comparison as an HTML page.

    Args:
        comparison: The result of `compare_runs`; the run directories must still be there.
        examples: Trajectories to show at most.

    Raises:
        PalestraError: A trajectory file is missing or damaged.
    """
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_without_controls,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    template = environment.from_string(
        files("palestra.eval.report").joinpath("report.html.j2").read_text(encoding="utf-8")
    )
    script = files("palestra.eval.report").joinpath("trajectories.js").read_text(encoding="utf-8")
    shown = choose_examples(comparison, examples)
    html = template.render(
        script=Markup(script),  # ours, and without markup
        script_hash="sha256-" + b64encode(sha256(script.encode()).digest()).decode(),
        filters=_filters(shown),
        matrix=_matrix(comparison),
        chance=_chance(comparison),
        comparison=comparison,
        training_note=TRAINING_NOTE,
        headline=headline(comparison),
        verdicts=[_verdict(found) for found in comparison.verdicts],
        variants=[_variant(comparison, index) for index in range(len(comparison.variants))],
        summary=_summary(comparison),
        examples=[_example(example, MAX_TEXT_BYTES // len(shown)) for example in shown],
        manifests=[(run.label, _pretty(run.manifest)) for run in comparison.runs],
    )
    # Lone surrogates, which a model's text may hold, have no UTF-8 form.
    return html.encode("utf-8", "replace").decode("utf-8")


def write_report(comparison: Comparison, path: str | Path, *, examples: int = EXAMPLES) -> Path:
    """Write `render_report` to a file and return its path.

    Raises:
        UsageError: The file cannot be written.
        PalestraError: As for `render_report`.
    """
    html = render_report(comparison, examples=examples)
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(html.encode("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot write {target} ({error.strerror}); choose another file.") from error
    return target


def _without_controls(value: Any) -> Any:
    return visible(value) if type(value) is str else value  # not of our own markup


def _matrix(comparison: Comparison) -> list[dict[str, Any]]:
    """Lay out the verdicts: a row per variant, a cell per run but the first."""
    return [
        {
            "name": variant.name,
            "distribution": variant.distribution,
            "problems": len(variant.problems),
            "cells": [_cell(found) for found in variant.verdicts],
        }
        for variant in comparison.variants
        if variant.verdicts
    ]


def _cell(found: RunVerdict) -> dict[str, Any]:
    curves = found.verdict.curves
    numbers = "guessing allows no claim about curves"
    if curves:
        numbers = f"pass@1 {_points_text(curves.delta.band(0))}"
        if len(curves.ks) > 1:
            numbers += f", pass@{curves.ks[-1]} {_points_text(curves.delta.band(-1))}"
    labels = [{"name": str(label), "kind": label.lower().replace(" ", "-")} for label in found.verdict.labels]
    meaning = found.meaning
    if Label.NOT_DECIDED in found.verdict.labels and found.verdict.needs:
        meaning += f"; to decide {found.verdict.needs[0]}"
    return {"labels": labels, "meaning": meaning, "numbers": numbers}


def _chance(comparison: Comparison) -> str:
    """Say what a guesser reaches, where that was measured."""
    parts = []
    for variant in comparison.variants:
        if variant.chance is not None:
            rates = chance_curve(variant.chance, comparison.shown_ks)
            shares = [f"{100 * rate:.2g} % in {_tries(k)}" for k, rate in zip(comparison.shown_ks, rates, strict=True)]
            parts.append(f"{variant.name}: {', '.join(shares)}")
    return "; ".join(parts)


def _filters(examples: Sequence[Example]) -> list[tuple[str, str, list[str]]]:
    """List the choices of each filter: name, title, values."""
    columns = {
        "run": ("run", [example.run for example in examples]),
        "variant": ("variant", [example.variant for example in examples]),
        "outcome": ("outcome", [_outcome(example) for example in examples]),
        "stratum": ("problem", [example.stratum for example in examples]),
    }
    return [(name, title, list(dict.fromkeys(values))) for name, (title, values) in columns.items()]


def _outcome(example: Example) -> str:
    return "success" if example.trajectory.get("outcome") == 1.0 else "failure"


def _verdict(found: RunVerdict) -> dict[str, Any]:
    """Lay out a verdict: its words, and the numbers it rests on as text."""
    judged = found.verdict
    curves = judged.curves
    numbers = ["no claim"] * 5
    if curves:
        end = len(curves.ks) - 1
        numbers = [
            str(curves.ks[end]),
            _points_text(curves.delta.band(0)),
            _points_text(curves.delta.band(end)),
            _points_text(curves.excess),
            _crossover_text(curves.crossover),
        ]
    for outcome in (judged.discovered, judged.lost):
        numbers.append(f"{int(outcome.confirmed.sum())} of {int(outcome.candidates.sum())}")
    others = [f"not {label}: {why}" for label, why in judged.reasons.items() if label not in judged.labels]
    return {
        "about": found,
        "numbers": numbers,
        "sentences": [*found.why, *others, *(f"to decide {need}" for need in judged.needs)],
    }


def _points_text(interval: Interval) -> str:
    estimate, low, high = (100 * value for value in interval)
    return f"{estimate:+.1f} [{low:+.1f}, {high:+.1f}]"


def _crossover_text(interval: Interval) -> str:
    estimate, low, high = ("none" if math.isinf(k) else f"{k:.1f}" for k in interval)
    return f"{estimate} [{low}, {high}]"


def headline(comparison: Comparison) -> str:
    """State what was measured in one sentence or two, without a verdict."""
    variant = comparison.variants[0]
    k = comparison.shown_ks[-1]
    where = f"On new {variant.name} problems of {comparison.env}"
    if len(comparison.runs) == 1:
        run = variant.runs[0]
        return f"{where}, {run.label} solves {_text(run, 1)} % in one try and {_text(run, k)} % in {_tries(k)}."
    first, last = variant.runs[0], variant.runs[-1]
    difference = variant.differences[len(comparison.runs) - 2]
    sentence = (
        f"{where}, {last.label} solves {_text(last, 1)} % in one try and {first.label} {_text(first, 1)} %: "
        f"a difference of {_text(difference, 1)} points"
    )
    if k == 1:
        return sentence + "."
    return (
        f"{sentence}. In {_tries(k)} they solve {_text(last, k)} % and {_text(first, k)} %: a difference of "
        f"{_text(difference, k)} points."
    )


def _tries(k: int) -> str:
    return "one try" if k == 1 else f"{k} tries"


def _text(curve: Curve, k: int) -> str:
    at = curve.at(k)
    sign = "+" if isinstance(curve, Difference) else ""
    return f"{100 * at.estimate:{sign}.1f} [{100 * at.low:{sign}.1f}, {100 * at.high:{sign}.1f}]"


def _variant(comparison: Comparison, index: int) -> dict[str, Any]:
    variant = comparison.variants[index]
    ident = f"v{index}"
    runs = [Series(run, style) for style, run in enumerate(variant.runs)]
    # From 1: "rl - base" then has the colour of "rl".
    differences = [Series(d, style) for style, d in enumerate(variant.differences, start=1)]
    coverage = f"{1 - comparison.alpha:.0%}"
    about = (
        f"One curve per run with its {coverage} simultaneous band, for 1 to {comparison.n} attempts on a "
        f"logarithmic axis, dotted beyond {comparison.solid_k}. The table below holds the same numbers."
    )
    charts = [
        (
            Chart(
                f"{ident}-p",
                f"pass@k on {variant.name}",
                about,
                tuple(runs),
                comparison.n,
                comparison.solid_k,
            ),
            _points(comparison, variant.runs),
        )
    ]
    if differences:
        title = f"Difference in pass@k on {variant.name}"
        charts.append(
            (
                Chart(
                    f"{ident}-d",
                    title,
                    about.replace("per run", "per pair of runs"),
                    tuple(differences),
                    comparison.n,
                    comparison.solid_k,
                    signed=True,
                ),
                _points(comparison, variant.differences),
            )
        )
    return {
        "name": variant.name,
        "distribution": variant.distribution,
        "problems": len(variant.problems),
        "figures": [
            # Markup: the chart escapes every text it is given.
            {"title": chart.title, "svg": Markup(line_chart(chart)), "table": table}
            for chart, table in charts
        ],
    }


def _points(comparison: Comparison, curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """List the table rows of a figure: one per curve and k, as text."""
    rows = []
    for curve in curves:
        sign = "+" if isinstance(curve, Difference) else ""
        for k in comparison.ks:
            at, band = curve.at(k), curve.band_at(k)
            values = [100 * value for value in (at.estimate, at.low, at.high, band.low, band.high)]
            estimate, low, high, band_low, band_high = (f"{value:{sign}.1f}" for value in values)
            rows.append(
                {
                    "label": curve.label,
                    "k": k,
                    "estimate": estimate,
                    "interval": f"{low} to {high}",
                    "band": f"{band_low} to {band_high}",
                    "dotted": k > comparison.solid_k,
                }
            )
    return rows


def _summary(comparison: Comparison) -> list[dict[str, Any]]:
    """List the rows of the in- and out-of-distribution table."""
    return [
        {
            "variant": variant.name,
            "distribution": variant.distribution,
            "problems": len(variant.problems),
            "k": k,
            "cells": [_text(curve, k) for curve in (*variant.runs, *variant.differences)],
            "marks": [_mark(None, k) for _ in variant.runs] + [_mark(d, k) for d in variant.differences],
        }
        for variant in comparison.variants
        for k in dict.fromkeys((1, comparison.shown_ks[-1]))
    ]


def _mark(difference: Difference | None, k: int) -> str:
    if difference is None or not difference.excludes_zero(k):
        return ""
    return "**" if difference.band_excludes_zero(k) else "*"


def _example(example: Example, room: int) -> dict[str, Any]:
    """Lay out a trajectory turn by turn in at most `room` bytes of escaped text."""
    trajectory = example.trajectory
    left, turn = min(MAX_TRAJECTORY_CHARS, room), 0
    messages = []
    for message in trajectory.get("messages", []):
        role = str(message.get("role", ""))
        turn += role == "assistant"
        text = _content(message.get("content"))
        shown = _fitting(text, left)
        left -= _size(shown)
        messages.append(
            {
                "role": f"assistant, turn {turn}" if role == "assistant" else role,
                "kind": role if role in ("assistant", "tool", "user") else "other",
                "text": shown,
                "cut": len(text) - len(shown),
            }
        )
    return {
        "about": example,
        "outcome": _outcome(example),
        "solved": trajectory.get("outcome") == 1.0,
        "stop": str(trajectory.get("stop", "")),
        "process": ", ".join(f"{k} {v}" for k, v in sorted((trajectory.get("process") or {}).items())),
        "turns": turn,
        "messages": messages,
    }


def _fitting(text: str, room: int) -> str:
    """Return the longest beginning of a text that takes at most `room` bytes in the page, to within a few."""
    text = text[: max(room, 0)]
    while text and (size := _size(text)) > room:
        text = text[: min(len(text) - 1, int(len(text) * room / size))]
    return text


def _size(text: str) -> int:
    return len(escape(text).encode("utf-8", "replace"))


def _content(content: object) -> str:
    if isinstance(content, str):
        return visible(content)
    return "" if content is None else _pretty(content)


def _pretty(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
