"""Line charts with bands as inline SVG: no script, no external reference, the same bytes every time.

Series differ by colour, dash and marker at once. Colours are the classes `s0`..`s5` of the page's style
sheet, so that a dark page can change them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from palestra.envs.errors import visible
from palestra.eval.comparison import Curve
from palestra.eval.stats.passk import k_grid

DASHES = ("none", "9 4", "9 3 2 3", "5 3", "13 4", "13 3 2 3")
_LEFT, _TOP, _WIDTH, _HEIGHT = 58, 14, 560, 270
_LEGEND_ROW = 20


@dataclass(frozen=True)
class Series:
    """One curve of a chart."""

    curve: Curve
    """Values for k = 1..n; its label, any text, goes into the legend."""
    style: int
    """Which colour, dash and marker; the same run keeps its own in all charts."""


@dataclass(frozen=True)
class Chart:
    """What is drawn: curves over k on a logarithmic axis."""

    ident: str
    """Prefix of element ids, unique in the page, of letters, digits and hyphens."""
    title: str
    """Accessible name."""
    description: str
    """Accessible description."""
    series: tuple[Series, ...]
    """The curves, each over the same k."""
    n: int
    """Greatest k."""
    solid_k: int
    """The curves are dotted beyond this k."""
    signed: bool = False
    """A difference: the vertical axis is symmetric about a zero line, in percentage points."""


def drawn_ks(n: int) -> list[int]:
    """Return the k at which a curve is drawn: all up to 8, then eight to the octave, and n."""
    ks: list[int] = k_grid(n).tolist()
    return ks


def marked_ks(n: int) -> list[int]:
    """Return the powers of two up to n: tick labels and markers."""
    return [2**power for power in range(n.bit_length())]


def line_chart(chart: Chart) -> str:
    """Draw a chart as an `<svg role="img">` element with a title, a description and a legend."""
    top = _signed_limit(chart) if chart.signed else 1.0
    bottom = -top if chart.signed else 0.0
    octaves = math.log2(chart.n) or 1.0

    def x(k: float) -> float:
        return _LEFT + _WIDTH * math.log2(k) / octaves

    def y(value: float) -> float:
        return _TOP + _HEIGHT * (top - min(max(value, bottom), top)) / (top - bottom)

    legend_top = _TOP + _HEIGHT + 48
    height = legend_top + _LEGEND_ROW * len(chart.series)
    parts = [
        f'<svg role="img" aria-labelledby="{chart.ident}-t {chart.ident}-d" viewBox="0 0 640 {height}">',
        f'<title id="{chart.ident}-t">{_text(chart.title)}</title>',
        f'<desc id="{chart.ident}-d">{_text(chart.description)}</desc>',
        *_axes(chart, x, y, top, bottom),
    ]
    for series in chart.series:
        parts += _series(series, chart, x, y)
    for row, series in enumerate(chart.series):
        parts += _legend_entry(series, legend_top + _LEGEND_ROW * row)
    parts.append("</svg>")
    return "\n".join(parts)


def _signed_limit(chart: Chart) -> float:
    """Return the least round limit that holds every band."""
    reach = max(
        max(abs(series.curve.band_at(k).low), abs(series.curve.band_at(k).high))
        for series in chart.series
        for k in drawn_ks(chart.n)
    )
    return next((limit for limit in (0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8) if reach <= limit), 1.0)


def _axes(
    chart: Chart, x: Callable[[float], float], y: Callable[[float], float], top: float, bottom: float
) -> list[str]:
    right, base = _LEFT + _WIDTH, _TOP + _HEIGHT
    parts = []
    if 1 <= chart.solid_k < chart.n:
        edge = x(chart.solid_k)
        parts.append(f'<rect class="thin" x="{edge:.1f}" y="{_TOP}" width="{right - edge:.1f}" height="{_HEIGHT}"/>')
        parts.append(f'<text class="note" x="{right - 4}" y="{base - 6}" text-anchor="end">k &gt; n/2</text>')
    steps = 4 if chart.signed else 5
    for step in range(steps + 1):
        value = bottom + (top - bottom) * step / steps
        sign = "+" if chart.signed and value > 1e-9 else ""
        line = "zero" if chart.signed and abs(value) < 1e-9 else "grid"
        parts.append(f'<line class="{line}" x1="{_LEFT}" x2="{right}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(
            f'<text class="tick" x="{_LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">'
            f"{sign}{100 * value:.4g}</text>"
        )
    for k in marked_ks(chart.n):
        parts.append(f'<line class="grid" x1="{x(k):.1f}" x2="{x(k):.1f}" y1="{_TOP}" y2="{base}"/>')
        parts.append(f'<text class="tick" x="{x(k):.1f}" y="{base + 16}" text-anchor="middle">{k}</text>')
    unit = "difference in percentage points" if chart.signed else "pass@k in %"
    middle = _TOP + _HEIGHT / 2
    parts.append(
        f'<text class="tick" x="{_LEFT + _WIDTH / 2:.1f}" y="{base + 34}" text-anchor="middle">'
        "attempts allowed, k</text>"
    )
    parts.append(
        f'<text class="tick" x="14" y="{middle:.1f}" text-anchor="middle" '
        f'transform="rotate(-90 14 {middle:.1f})">{unit}</text>'
    )
    return parts


def _series(series: Series, chart: Chart, x: Callable[[float], float], y: Callable[[float], float]) -> list[str]:
    ks = drawn_ks(chart.n)
    at = {k: series.curve.band_at(k) for k in ks}
    upper = [f"{x(k):.1f},{y(at[k].high):.1f}" for k in ks]
    lower = [f"{x(k):.1f},{y(at[k].low):.1f}" for k in reversed(ks)]
    style = series.style % len(DASHES)
    parts = [f'<polygon class="band s{style}" points="{" ".join(upper + lower)}"/>']
    # The last solid point starts the dotted part, so that the curve has no hole.
    solid = [k for k in ks if k <= max(chart.solid_k, 1)]
    dotted = [k for k in ks if k >= solid[-1]]
    for part, dash in ((solid, DASHES[style]), (dotted, "1 5")):
        if len(part) > 1:
            points = " ".join(f"{x(k):.1f},{y(at[k].estimate):.1f}" for k in part)
            parts.append(f'<polyline class="line s{style}" stroke-dasharray="{dash}" points="{points}"/>')
    parts += [_marker(style, x(k), y(at[k].estimate)) for k in marked_ks(chart.n)]
    return parts


def _marker(style: int, cx: float, cy: float) -> str:
    shapes: tuple[Sequence[tuple[float, float]], ...] = (
        (),
        ((-4, -4), (4, -4), (4, 4), (-4, 4)),
        ((0, -5), (5, 4), (-5, 4)),
        ((0, -5), (5, 0), (0, 5), (-5, 0)),
        ((0, 5), (5, -4), (-5, -4)),
        ((-5, -1.5), (5, -1.5), (5, 1.5), (-5, 1.5)),
    )
    if not shapes[style]:
        return f'<circle class="mark s{style}" cx="{cx:.1f}" cy="{cy:.1f}" r="4"/>'
    points = " ".join(f"{cx + dx:.1f},{cy + dy:.1f}" for dx, dy in shapes[style])
    return f'<polygon class="mark s{style}" points="{points}"/>'


def _legend_entry(series: Series, top: float) -> list[str]:
    style = series.style % len(DASHES)
    middle = top - 4
    return [
        f'<line class="line s{style}" stroke-dasharray="{DASHES[style]}" x1="{_LEFT}" x2="{_LEFT + 46}" '
        f'y1="{middle}" y2="{middle}"/>',
        _marker(style, _LEFT + 23, middle),
        f'<text class="legend" x="{_LEFT + 56}" y="{top}">{_text(series.curve.label)}</text>',
    ]


def _text(text: str) -> str:
    return escape(visible(text))
