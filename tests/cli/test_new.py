"""`palestra new`: what it writes works as it stands, and it overwrites nothing."""

import importlib
import json
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from palestra.cli.main import app
from palestra.envs import make
from palestra.envs.checks import Settings
from palestra.envs.checks.base import Subject
from palestra.envs.checks.families import CHECKS, found_by
from palestra.envs.checks.limits import TimeLimits
from palestra.envs.checks.splits import splits_are_disjoint
from palestra.envs.errors import UsageError

SMALL = Settings(episodes=60, fuzz=500, draws=200, probed=20, replayed=4)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["new", *map(str, arguments)])


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new package whose module can be imported."""
    assert run("word-order2", "--out", tmp_path / "p").exit_code == 0
    monkeypatch.syspath_prepend(tmp_path / "p" / "src")
    importlib.invalidate_caches()
    importlib.import_module("word_order2")
    yield tmp_path / "p"
    del sys.modules["word_order2"]


def test_it_writes_a_package_with_an_entry_point(package: Path) -> None:
    project = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["name"] == "word-order2"
    assert project["project"]["entry-points"]["palestra.envs"] == {"word-order2": "word_order2"}
    assert sorted(str(p.relative_to(package)) for p in package.rglob("*") if p.is_file() and p.suffix != ".pyc") == [
        "README.md",
        "pyproject.toml",
        "src/word_order2.py",
        "tests/test_word_order2.py",
    ]
    for path in package.rglob("*"):
        if path.suffix in {".py", ".md", ".toml"}:
            text = path.read_text(encoding="utf-8")
            assert "{{" not in text
            assert max(map(len, text.splitlines())) <= 119
            assert text.endswith("\n")
            assert not text.endswith("\n\n")


def test_its_environment_passes_every_check_as_written(package: Path) -> None:
    env_id = "word-order2/WordOrder2-v0"
    with TimeLimits() as limits:
        subjects = {v: Subject(env_id, v, SMALL, limits) for v in ("train", "test", "longer", "descending")}
        assert list(splits_are_disjoint(subjects)) == []
        assert [p for v in ("test", "descending") for name in CHECKS for p in found_by(name, subjects[v])] == []


def test_its_environment_shows_what_an_environment_has(package: Path) -> None:
    env = make("word-order2/WordOrder2-v0", "descending")
    task = env.task_at(0)
    assert list(task.answer) == sorted(task.answer, reverse=True)
    assert env.guess(task, __import__("random").Random(0)) is not None
    assert env.grade(task, task.answer).process == {"begins": 1.0}


def test_the_default_folder_has_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("abacus_")
    assert isinstance(result.exception, UsageError)
    result = run("abacus")
    assert "palestra check abacus/Abacus-v0" in result.stdout
    assert (tmp_path / "abacus" / "src" / "abacus.py").is_file()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "thesis.txt").write_text("mine", encoding="utf-8")
    error = run("abacus", "--out", tmp_path / "p").exception
    assert isinstance(error, UsageError)
    assert "is not empty, and nothing in it is overwritten" in str(error)
    assert [path.name for path in (tmp_path / "p").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("name", ["", "Abacus", "2d", "a--b", "a-", "a b", "ab/cd", "../ab", "a" * 41, "é"])
def test_names_that_are_no_package_names_are_refused(name: str, tmp_path: Path) -> None:
    error = run("--out", tmp_path / "p", "--", name).exception
    assert isinstance(error, UsageError)
    assert "is no name for a package" in str(error)
    assert not (tmp_path / "p").exists()


TAKEN = ["json", "numpy", "palestra", "typing-extensions", "class", "none", "true", "task", "text-env", "exception"]


@pytest.mark.parametrize("name", TAKEN)
def test_names_of_other_modules_and_keywords_are_refused(name: str, tmp_path: Path) -> None:
    error = run(name, "--out", tmp_path / "p").exception
    assert isinstance(error, UsageError)
    assert not (tmp_path / "p").exists()


def test_a_file_in_the_way_is_said(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("", encoding="utf-8")
    error = run("abacus", "--out", tmp_path / "p").exception
    assert isinstance(error, UsageError)
    assert "cannot write to the folder" in str(error)


@pytest.fixture
def capitals(tmp_path: Path) -> Path:
    """Rows with fields of their own."""
    file = tmp_path / "capitals.jsonl"
    rows = ({"country": f"Capital of country {n}?", "capital": [f"City {n}", f"Town {n}"]} for n in range(300))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_rows_become_an_environment_that_passes(
    capitals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = run(
        "capital-city", "--rows", capitals, "--question", "country", "--answer", "capital", "--out", tmp_path / "p"
    )
    assert made.exit_code == 0
    project = tomllib.loads((tmp_path / "p" / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["setuptools"]["packages"] == ["capital_city"]
    assert project["tool"]["setuptools"]["package-data"] == {"capital_city": ["*.jsonl", "*.csv"]}
    monkeypatch.syspath_prepend(tmp_path / "p" / "src")
    importlib.invalidate_caches()
    importlib.import_module("capital_city")
    try:
        env_id = "capital-city/CapitalCity-v0"
        env = make(env_id, "test")
        assert env.grade(env.task_at(0), env.task_at(0).answer.replace("City", "town")).outcome == 1.0
        with TimeLimits() as limits:
            subjects = {v: Subject(env_id, v, SMALL, limits) for v in ("train", "test")}
            problems = [str(p) for s in subjects.values() for c in CHECKS for p in found_by(c, s)]
            problems += [f"{v}: {p}" for v, p in splits_are_disjoint(subjects)]
        assert problems == []
    finally:
        del sys.modules["capital_city"]


def test_flags_say_what_the_rows_lack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = ({"question \U0001f600": f"Is {n} even?", "a": "yes" if n % 2 else "no"} for n in range(60))
    Path("yes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    result = run("yes-or-no", "--rows", "yes.jsonl", "--question", "question \U0001f600", "--answer", "a")
    assert result.exit_code == 0
    assert "flagged few-tasks: there are only" in result.stdout
    assert "flagged guessable: an answer drawn from all of them is right in 5" in result.stdout
    monkeypatch.syspath_prepend(tmp_path / "yes-or-no" / "src")
    importlib.invalidate_caches()
    importlib.import_module("yes_or_no")
    try:
        with TimeLimits() as limits:
            subjects = {v: Subject("yes-or-no/YesOrNo-v0", v, SMALL, limits) for v in ("train", "test")}
            problems = [str(p) for s in subjects.values() for c in CHECKS for p in found_by(c, s)]
            problems += [f"{v}: {p}" for v, p in splits_are_disjoint(subjects)]
        assert problems == []
    finally:
        del sys.modules["yes_or_no"]


def test_a_package_that_cannot_be_written_whole_is_not_written(
    capitals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.suffix == ".jsonl":
            written(path, content[:10])
            raise OSError(28, "No space left on device")
        return written(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    for there in (False, True):
        out = tmp_path / f"p{there}"
        if there:
            out.mkdir()
        error = run(
            "asked", "--rows", capitals, "--question", "country", "--answer", "capital", "--out", out
        ).exception
        assert isinstance(error, UsageError)
        assert "No space left on device" in str(error)
        assert out.exists() == there
        assert not (there and any(out.iterdir()))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rows", "rows.jsonl"], "has no field 'question' but country, capital; name the right one with --question"),
        (["--rows", "rows.jsonl", "--question", "country"], "has no field 'answer'"),
        (["--rows", "one.jsonl"], "has 1 different questions, which all fall to "),
        (["--rows", "nowhere.csv"], "No such file"),
        (["--answer", "capital"], "--rows, which is not given"),
    ],
)
def test_rows_that_cannot_be_used_leave_nothing_behind(
    options: list[str], said: str, capitals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    capitals.rename("rows.jsonl")
    Path("one.jsonl").write_text('{"question": "q", "answer": "a"}\n' * 2, encoding="utf-8")
    error = run("asked", *options).exception
    assert isinstance(error, UsageError)
    assert said in str(error)
    assert not Path("asked").exists()
