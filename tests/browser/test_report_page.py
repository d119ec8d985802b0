"""The report in a real browser: nothing is fetched, nothing fails, axe finds nothing, hostile text does nothing.

Needs playwright and axe-playwright-python (extra `browser`) and a Chromium, found on the PATH or named by CHROMIUM.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from palestra.eval.compare import compare_runs
from palestra.eval.records import SampleRecord
from palestra.eval.report import write_report
from palestra.eval.store import RunStore

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore")]

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
REQUIRED = bool(os.environ.get("PALESTRA_REQUIRE_BROWSER"))
HOSTILE = (
    "<script>document.title = 'owned'</script></script></pre></details><img src=https://a.example/x onerror=alert(1)>"
    "<svg onload=alert(2)> {{ 7 * 7 }} \x00\x07\x1b[31m \u202e \ud800 &lt; ${document.title = 'owned'}"
)
N, VARIANTS = 64, {"test": 40, "harder": 30, "train": 20}
SCALES = {"base": 1.0, "sft": 0.5, "rl": 0.33}


def messages(sample: SampleRecord) -> list[dict[str, str]]:
    if sample.problem < 10:
        return [{"role": "user", "content": HOSTILE}, {"role": "assistant", "content": HOSTILE + "y" * 1_000_000}]
    return [
        {"role": "user", "content": f"What is {sample.problem} and {sample.problem}?"},
        {
            "role": "assistant",
            "content": f'<tool_call>{{"name": "add", "arguments": {{"a": {sample.problem}}}}}</tool_call>',
        },
        {"role": "tool", "content": str(2 * sample.problem)},
        {"role": "assistant", "content": f"<answer>{2 * sample.problem}</answer>"},
    ]


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of three checkpoints on three variants."""
    root = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    for seed, (label, power) in enumerate(SCALES.items()):
        manifest = {
            "env": "palestra/Toy-v0",
            "model": {"name": HOSTILE},
            "sampling": {"temperature": 1.0},
            "seed": seed,
        }
        with RunStore.create(root / label, manifest) as store:
            for variant, problems in VARIANTS.items():
                p = np.random.default_rng(1).beta(0.5, 2.0, problems) ** power
                for problem in range(problems):
                    for number, solved in enumerate(rng.random(N) < p[problem]):
                        sample = SampleRecord(
                            "palestra/Toy-v0", variant, problem, f"{variant}-{problem}", number, 1, float(solved),
                            {"steps": 0.5}, 2, 9, 9, 0.1, "answer",
                        )  # fmt: skip
                        # Long texts once: a run holds every sample, the page a few.
                        shown = (
                            messages(sample) if number in (0, int(np.argmax(rng.random(N)))) else messages(sample)[-1:]
                        )
                        short = [{**m, "content": m["content"][: 2_000_000 if number == 0 else 2_000]} for m in shown]
                        store.append(
                            sample, {"messages": short, "outcome": float(solved), "process": {}, "stop": "answer"}
                        )
            store.finish()
    runs = [f"{label}={root / label}" for label in SCALES]
    return write_report(compare_runs(runs, resamples=300), root / "report.html")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        if REQUIRED:
            raise
        pytest.skip("playwright is not installed: pip install -e '.[browser]'")
    if CHROMIUM is None:
        if REQUIRED:
            pytest.fail("there is no chromium")
        pytest.skip("there is no chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(params=["light", "dark", "phone"])
def page(request: pytest.FixtureRequest, chromium: Any, page_path: Path) -> Iterator[Any]:
    size = {"width": 390, "height": 844} if request.param == "phone" else {"width": 1200, "height": 900}
    scheme = "dark" if request.param == "dark" else "light"
    context = chromium.new_context(viewport=size, color_scheme=scheme)
    page = context.new_page()
    page.requests, page.problems = [], []
    page.on("request", lambda r: page.requests.append(r.url))
    page.on("console", lambda m: page.problems.append(m.text))
    page.on("pageerror", lambda e: page.problems.append(str(e)))
    page.on("dialog", lambda d: (page.problems.append(d.message), d.dismiss()))
    page.goto(f"file://{page_path}")
    yield page
    context.close()


def test_nothing_is_fetched_nothing_fails_and_axe_is_content(page: Any, page_path: Path) -> None:
    from axe_playwright_python.sync_playwright import Axe

    assert page_path.stat().st_size < 2_000_000
    for stage in ("folded", "unfolded"):
        found = Axe().run(page).response["violations"]
        assert [(v["id"], v["nodes"][0]["html"][:200]) for v in found] == [], stage
        page.click("#unfold")
        page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
    assert [url for url in page.requests if not url.startswith("file:")] == []
    assert page.problems == []
    assert page.title() == "palestra/Toy-v0: base, sft, rl"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing to scroll sideways"


def test_the_verdicts_are_on_the_first_screen(page: Any) -> None:
    table = page.locator("table.verdicts").bounding_box()
    assert table["y"] < 300
    labels = page.locator("table.verdicts .label")
    assert labels.count() >= 6
    assert labels.first.bounding_box()["y"] < 400


def test_trajectories_are_filtered_sorted_and_read_turn_by_turn(page: Any) -> None:
    rows = page.locator("details.trajectory")
    total = rows.count()
    visible = page.locator("details.trajectory:visible")
    page.select_option("select[name=run]", "rl")
    assert 0 < visible.count() < total
    assert all("rl, " in text for text in visible.locator("summary").all_inner_texts())
    page.select_option("select[name=outcome]", "failure")
    assert all(text.startswith("failure") for text in visible.locator("summary").all_inner_texts())
    page.select_option("select[name=run]", "")
    page.select_option("select[name=outcome]", "")
    page.select_option("select[name=sort]", "hardest")
    solved = [int(row.get_attribute("data-successes")) for row in visible.all()]
    assert solved == sorted(solved)
    page.fill("input[name=text]", "tool_call")
    assert 0 < visible.count() < total
    assert page.inner_text("#shown") == f"{visible.count()} of {total} shown"
    first = visible.first
    first.locator("summary").click()
    assert first.locator(".turn h3").all_inner_texts() == ["user", "assistant, turn 1", "tool", "assistant, turn 2"]
    page.fill("input[name=text]", "no such text")
    assert visible.count() == 0


def test_the_page_reads_without_scripts(chromium: Any, page_path: Path) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"file://{page_path}")
    assert not page.locator("#filters").is_visible()
    first = page.locator("details.trajectory").first
    first.locator("summary").click()
    assert first.locator("pre").first.is_visible()
    context.close()
