"""`palestra compare` judges and `--require` gates on it; `palestra plan` says what a claim needs."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from palestra.cli.main import main
from palestra.eval.run import evaluate
from palestra.eval.settings import EvalSettings
from palestra.eval.store import RunStore

ENV = "palestra/StringCompose-v0"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A guesser with samples to spare, and the oracle, on the same few problems."""
    folder = tmp_path_factory.mktemp("runs")
    for model, samples in (("random", 1300), ("oracle", 16)):
        out = folder / model
        evaluate(EvalSettings(model=model, env=ENV, out=out, problems=3, samples=samples, seed=len(model)))
    return [str(folder / model) for model in ("random", "oracle")]


def palestra(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["palestra", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_the_verdict_is_in_the_table_the_page_and_the_json(
    runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "r.html"
    assert palestra("compare", *runs, "--html", str(page), monkeypatch=monkeypatch) == 0
    assert "test, oracle against random: DISCOVER" in capsys.readouterr().out
    assert '<strong class="label discover">DISCOVER</strong>' in page.read_text(encoding="utf-8")
    assert palestra("compare", *runs, "--html", str(page), "--json", monkeypatch=monkeypatch) == 0
    (found,) = json.loads(capsys.readouterr().out)["variants"][0]["verdicts"]
    assert found["labels"] == ["DISCOVER"]
    assert found["discovered"]["confirmed"]
    assert set(found["discovered"]["confirmed"]) <= set(found["discovered"]["candidates"])


def test_a_mistake_in_a_requirement_is_told_before_anything_is_written(
    runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "new" / "r.html"
    wrong = ["--require", "orcale:test:DISCOVER", "--html", str(page)]
    assert palestra("compare", *runs, *wrong, monkeypatch=monkeypatch) == 2
    assert "did you mean 'oracle'" in (said := capsys.readouterr()).err
    assert not said.out
    assert not page.exists()
    assert palestra("compare", *runs, "--html", str(page), monkeypatch=monkeypatch) == 0
    assert page.exists()


def test_an_error_that_quotes_a_model_steers_no_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = EvalSettings(model="oracle", env=ENV, out=tmp_path, problems=1, samples=1)
    evaluate(settings)
    with RunStore.open(tmp_path) as store:
        [held] = store.samples()
        broken = replace(held, sample=1, error="no such name: \x1b]0;owned\x07\u202e")
        store.append(broken, {"messages": []})
    assert palestra("compare", str(tmp_path), monkeypatch=monkeypatch) == 1
    said = capsys.readouterr().err
    assert "no such name: \\x1b]0;owned\\x07\\x202e" in said
    assert not {"\x1b", "\x07", "\u202e"} & set(said)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--require", "DISCOVER", "--require", "oracle:test:discover"], 0, ""),
        (["--require", "test:NO-EFFECT"], 1, "on test, oracle against random is DISCOVER."),
        (["--require", "tset:DISCOVER"], 2, "did you mean 'test'"),
        (["--require", "DISCOVERED"], 2, "did you mean 'DISCOVER'"),
        (["--samples", "17"], 2, "compare 1 to 16, not 17"),
    ],
)
def test_requirements_set_the_exit_code_with_one_sentence(
    runs: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    code: int,
    said: str,
) -> None:
    page = str(tmp_path / "r.html")
    assert palestra("compare", *runs, "--html", page, "--json", *options, monkeypatch=monkeypatch) == code
    error = capsys.readouterr().err
    assert said in error
    if code:
        assert len(error.strip().splitlines()[-1:]) == 1
        assert error.count("palestra: ") == 1


def test_a_pilot_is_planned_from_in_words_and_as_json(
    runs: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert palestra("plan", *runs, "--k", "2", monkeypatch=monkeypatch) == 0
    assert "test: nothing can be planned for a difference of 0.05 in pass@2 from 3 problems" in capsys.readouterr().out
    assert palestra("plan", runs[0], "--delta", "0.2", "--json", monkeypatch=monkeypatch) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["variant"], row["delta"]) == ("test", 0.2)
    assert palestra("plan", *runs, "--k", "9", monkeypatch=monkeypatch) == 2
    assert "palestra: test: the variance of pass@9 needs at least 18 samples" in capsys.readouterr().err
