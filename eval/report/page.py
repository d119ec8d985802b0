"""Renders a comparison as one self-contained HTML file.

The page loads nothing (its content security policy forbids it), runs no script, reads well without
colour, and has the same bytes every time. Everything a model wrote is escaped: it is hostile input.
"""

import json
import math
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from palestra.envs.errors import UsageError
from palestra.eval.comparison import TRAINING_NOTE, Comparison, Curve, Difference
from palestra.eval.report.examples import Example, choose_examples
from palestra.eval.report.svg import Chart, Series, line_chart
from palestra.eval.stats.intervals import Interval
from palestra.eval.verdicts import RunVerdict

MAX_TRAJECTORY_CHARS = 40_000
"""Text shown of one trajectory; the rest is cut, with a note saying so."""


def render_report(comparison: Comparison, *, examples: int = 20) -> str:
    """Render a comparison as an HTML page.

    Args:
        comparison: The result of `compare_runs`; the run directories must still be there.
        examples: Trajectories to show at most.

    Raises:
        PalestraError: A trajectory file is missing or damaged.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, auto_reload=False
    )
    template = environment.from_string(
        files("palestra.eval.report").joinpath("report.html.j2").read_text(encoding="utf-8")
    )
    html = template.render(
        comparison=comparison,
        training_note=TRAINING_NOTE,
        headline=headline(comparison),
        verdicts=[_verdict(found) for found in comparison.verdicts],
        variants=[_variant(comparison, index) for index in range(len(comparison.variants))],
        summary=_summary(comparison),
        examples=[_example(example) for example in choose_examples(comparison, examples)],
        manifests=[(run.label, _pretty(run.manifest)) for run in comparison.runs],
    )
    # Lone surrogates, which a model's text may hold, have no UTF-8 form.
    return html.encode("utf-8", "replace").decode("utf-8")


def write_report(comparison: Comparison, path: str | Path, *, examples: int = 20) -> Path:
    """Write `render_report` to a file and return its path.

    Raises:
        UsageError: The file cannot be written.
        PalestraError: As for `render_report`.
    """
    html = render_report(comparison, examples=examples)
    target = Path(path)
    try:
        target.write_bytes(html.encode("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot write {target} ({error.strerror}); choose another file.") from error
    return target


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


def _example(example: Example) -> dict[str, Any]:
    trajectory = example.trajectory
    left = MAX_TRAJECTORY_CHARS
    messages = []
    for message in [{"role": "task", "content": trajectory.get("task", "")}, *trajectory.get("messages", [])]:
        text = _content(message.get("content"))
        cut = max(0, len(text) - left)
        messages.append({"role": str(message.get("role", "")), "text": text[:left], "cut": cut})
        left -= len(text) - cut
    return {
        "about": example,
        "solved": trajectory.get("outcome") == 1.0,
        "stop": str(trajectory.get("stop", "")),
        "process": ", ".join(f"{k} {v}" for k, v in sorted((trajectory.get("process") or {}).items())),
        "messages": messages,
    }


def _content(content: object) -> str:
    if isinstance(content, str):
        # Control characters are not allowed in HTML, and could hide what was written.
        return "".join(c if c >= " " or c in "\n\t" else chr(0x2400 + ord(c)) for c in content)
    return "" if content is None else _pretty(content)


def _pretty(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
