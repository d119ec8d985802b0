import json
import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toyruns import MakeRun, trajectory_of

from palestra.envs.errors import PalestraError, UsageError
from palestra.eval.compare import compare_runs
from palestra.eval.report import render_report, write_report
from palestra.eval.report.examples import choose_examples
from palestra.eval.report.page import MAX_TRAJECTORY_CHARS, headline
from palestra.eval.report.svg import DASHES, drawn_ks
from palestra.eval.stats import pass_at_k
from palestra.eval.store import SampleRecord, read_samples

BASE = [0, 1, 2, 4, 8, 16, 0, 0, 3, 5, 16, 1, 0, 2, 7, 0, 9, 4, 1, 0, 6, 2]
RL = [2, 0, *[min(16, 2 * c) for c in BASE[2:]]]
VOID = {"meta", "link", "br", "input", "rect", "line", "polygon", "polyline", "circle"}


class Page(HTMLParser):
    """Collects elements, and the cells of each table row; fails on tags that do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.stack: list[str] = []
        self.feed(html)
        self.close()
        assert not self.stack

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] in ("td", "th"):
            self.rows[-1][-1] += data

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def runs(make_run: MakeRun) -> list[str | Path]:
    """A base and an RL run of two variants."""
    return [
        make_run(label, {"test": counts, "harder": counts[::-1]}) for label, counts in (("base", BASE), ("rl", RL))
    ]


@pytest.fixture
def html(runs: list[str | Path]) -> str:
    return render_report(compare_runs(runs, resamples=100))


def test_page_is_well_formed_and_has_a_language_and_a_title(html: str) -> None:
    page = Page(html)
    assert page.attributes("html") == [{"lang": "en"}]
    assert "<title>palestra/Toy-v0: base, rl</title>" in html
    assert len(page.attributes("h1")) == 1


def test_page_loads_nothing_and_forbids_loading(html: str) -> None:
    page = Page(html)
    (policy,) = [m["content"] for m in page.attributes("meta") if "http-equiv" in m]
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-")
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = b64encode(sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy, "this script and no other"
    assert page.attributes("script") == [{}]
    assert not re.search(r"https?:|//[a-z]", html)
    references = [v for _, attributes in page.elements for k, v in attributes.items() if k in ("src", "href")]
    assert references == ["data:,"]


def test_text_of_a_model_is_escaped(make_run: MakeRun) -> None:
    hostile = "</pre></details><script>alert(1)</script><img src=x onerror=alert(2)>&lt; {{ 7 * 7 }}"

    def trajectory(sample: SampleRecord) -> dict[str, Any]:
        message = {"role": hostile, "content": hostile}
        return {
            **trajectory_of(sample),
            "task": hostile,
            "messages": [message],
            "stop": hostile,
            "process": {hostile: 1},
        }

    run = make_run("base", {"test": BASE}, manifest={"model": hostile}, trajectory=trajectory)
    html = render_report(compare_runs([f"{hostile[:40]}={run}"], resamples=20))
    page = Page(html)
    assert page.attributes("script") == [{}], "ours"
    assert not page.attributes("img")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "{{ 7 * 7 }}" in html


def test_control_characters_in_names_are_shown(make_run: MakeRun) -> None:
    odd = "a\x1b[31m\u202eb\x00"
    fields = {"stop": odd, "process": {odd: 1.0}}
    run = make_run(
        "base",
        {odd: BASE},
        fields=fields,
        trajectory=lambda s: {**trajectory_of(s), **fields, "task": odd, "messages": [{"role": odd, "content": odd}]},
    )
    html = render_report(compare_runs([run], resamples=20))
    assert "a\\x1b[31m\\x202eb\\x00" in html
    assert not {"\x1b", "\u202e", "\x00"} & set(html)


def test_labels_in_figures_are_escaped(runs: list[str | Path]) -> None:
    html = render_report(compare_runs([f"<b>&={runs[0]}", runs[1]], resamples=20), examples=0)
    assert '">&lt;b&gt;&amp;</text>' in html
    assert not Page(html).attributes("b")


@pytest.mark.parametrize("content", ["lone \ud800", "\x00\x1b[31m", None, ["part"], {"a": 1}])
def test_odd_content_is_shown_and_not_fatal(make_run: MakeRun, tmp_path: Path, content: Any) -> None:
    run = make_run(
        "base",
        {"test": BASE},
        trajectory=lambda s: {
            **trajectory_of(s),
            "messages": [{"role": "assistant", "content": content}],
        },
    )
    path = write_report(compare_runs([run], resamples=20), tmp_path / "report.html")
    text = path.read_text(encoding="utf-8")
    assert "\x00" not in text
    assert "\x1b" not in text


def test_same_comparison_gives_the_same_bytes(runs: list[str | Path], tmp_path: Path) -> None:
    first, second = (
        write_report(compare_runs(runs, resamples=50), tmp_path / name).read_bytes() for name in ("a", "b")
    )
    assert first == second


def test_tables_equal_the_numbers_recomputed_from_the_samples(runs: list[str | Path], html: str) -> None:
    rows = Page(html).rows
    table = {(row[0], int(row[1].lstrip("~"))): row[2] for row in rows if len(row) == 5 and row[0] != "curve"}
    # The figure of "harder" comes last, and its rows replace those of "test".
    estimates = {}
    for path, label in zip(runs, ("base", "rl"), strict=True):
        stored = [s for s in read_samples(path) if s.variant == "harder"]
        counts = [int(sum(s.outcome for s in stored if s.problem == p)) for p in range(len(BASE))]
        for k in (1, 2, 4, 8, 16):
            estimates[label, k] = float(np.mean(pass_at_k(16, counts, k)))
            assert table[label, k] == f"{100 * estimates[label, k]:.1f}"
    for k in (1, 2, 4, 8, 16):
        assert table["rl - base", k] == f"{100 * (estimates['rl', k] - estimates['base', k]):+.1f}"


def test_every_figure_has_a_name_a_description_and_a_table(html: str) -> None:
    page = Page(html)
    figures = page.attributes("svg")
    assert len(figures) == 4
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for figure in figures:
        assert figure["role"] == "img"
        labelled = figure["aria-labelledby"]
        assert labelled is not None
        assert set(labelled.split()) <= set(ids)
    for title in re.findall(r"<figcaption>(.*?)</figcaption>", html):
        assert f"<summary>{title}: the numbers</summary>" in html


def test_series_differ_by_colour_dash_and_marker(html: str) -> None:
    figure = html[html.index("<svg") : html.index("</svg>")]
    for style, shape in ((0, "circle"), (1, "polygon")):
        assert f'class="line s{style}" stroke-dasharray="{DASHES[style]}"' in figure
        assert f'<{shape} class="mark s{style}"' in figure
    assert figure.count('stroke-dasharray="1 5"') == 2


def test_dark_mode_changes_colours_only(html: str) -> None:
    assert "@media (prefers-color-scheme: dark)" in html


def test_headline_states_numbers_and_no_verdict(runs: list[str | Path]) -> None:
    comparison = compare_runs(runs, resamples=100)
    test = comparison.variants[0]
    text = headline(comparison)
    assert text.startswith("On new test problems of palestra/Toy-v0, rl solves ")
    for curve in (*test.runs, *test.differences):
        assert f"{100 * curve.at(8).estimate:.1f}" in text
    assert not re.search("better|worse|discover|sharpen", text)


def test_examples_show_every_stratum_of_both_runs(runs: list[str | Path]) -> None:
    comparison = compare_runs(runs, resamples=20)
    examples = choose_examples(comparison, 20)
    assert len(examples) == 20
    assert {e.stratum for e in examples} == {
        "solved by rl only",
        "solved by base only",
        "solved by both",
        "solved by neither",
    }
    assert {e.run for e in examples} == {"base", "rl"}
    assert {e.variant for e in examples} == {"test", "harder"}
    for example in examples:
        solved = example.trajectory["outcome"] == 1.0
        assert solved == (example.successes > 0)
        assert example.trajectory["messages"][1]["content"] == f"sample {example.sample}"


@pytest.mark.parametrize("limit", [0, 1, 5, 1000])
def test_examples_keep_to_their_limit(runs: list[str | Path], limit: int) -> None:
    examples = choose_examples(compare_runs(runs, resamples=20), limit)
    assert len(examples) == min(limit // 2 * 2, 2 * 2 * len(BASE))
    assert len({(e.run, e.variant, e.problem) for e in examples}) == len(examples)


def test_long_trajectories_are_cut_and_say_so(make_run: MakeRun) -> None:
    run = make_run(
        "base",
        {"test": [1] * 20},
        2,
        trajectory=lambda s: {
            **trajectory_of(s),
            "messages": [{"role": "user", "content": "x" * (MAX_TRAJECTORY_CHARS + 7)}],
        },
    )
    html = render_report(compare_runs([run], resamples=20), examples=1)
    assert "x" * MAX_TRAJECTORY_CHARS in html
    assert "x" * (MAX_TRAJECTORY_CHARS + 1) not in html
    assert "7 more characters are not shown" in html


def test_page_stays_under_two_megabytes(make_run: MakeRun) -> None:
    counts = [int(c) for c in np.random.default_rng(0).integers(0, 5, 24)]
    run = make_run(
        "base",
        {"test": [*counts, *counts]},
        4,
        trajectory=lambda s: {**trajectory_of(s), "messages": [{"role": "user", "content": "<&日\x00" * 12_000}]},
    )
    page = render_report(compare_runs([run], resamples=100)).encode()
    assert 1_000_000 < len(page) < 2_000_000, "and much of what was written is there"


def test_manifests_are_shown(html: str, runs: list[str | Path]) -> None:
    assert "manifest of rl" in html
    shown = json.dumps({"temperature": 1.0}, indent=2)[2:-2].strip()
    assert shown.replace('"', "&#34;") in html


def test_drawn_points_thin_out_on_the_logarithmic_axis() -> None:
    ks = drawn_ks(1024)
    assert ks[:8] == list(range(1, 9))
    assert ks[-1] == 1024
    assert len(ks) < 80
    assert drawn_ks(1) == [1]


def test_unwritable_report_is_a_sentence(runs: list[str | Path], tmp_path: Path) -> None:
    comparison = compare_runs(runs, resamples=20)
    page = write_report(comparison, tmp_path / "new" / "report.html")
    with pytest.raises(UsageError, match="cannot write .*; choose another file"):
        write_report(comparison, page / "report.html")


def test_missing_trajectories_are_a_sentence(runs: list[str | Path]) -> None:
    comparison = compare_runs(runs, resamples=20)
    (Path(runs[0]) / "trajectories/part-00000.jsonl").unlink()
    with pytest.raises(PalestraError, match="has no trajectory at byte"):
        render_report(comparison)
