"""QuestionEnv: every row is asked in exactly one split, answers are judged by value, and bad rows are named."""

import json
import random
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palestra.envs import QuestionEnv, register
from palestra.envs.errors import UsageError
from palestra.envs.questions import canonical

_NAMES = count()
SQUARES = [{"question": f"What is {n} squared?", "answer": n * n} for n in range(200)]

Make = Callable[..., type[QuestionEnv]]


def write(file: Path, rows: Iterable[Any]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture
def make_class(tmp_path: Path) -> Make:
    """Register a class over rows."""

    def made(rows: Any = SQUARES, variants: Mapping[str, Any] | None = None, **attributes: Any) -> type[QuestionEnv]:
        number = next(_NAMES)
        if not isinstance(rows, str):
            rows = str(write(tmp_path / f"rows{number}.jsonl", rows))
        variants = {"train": {}, "test": {}} if variants is None else variants
        attributes |= {"rows": rows, "__module__": __name__, "__qualname__": f"Rows{number}"}
        cls = type(f"Rows{number}", (QuestionEnv,), attributes)
        return register(f"tests/Rows{number}-v0", variants=variants)(cls)

    return made


def keys(env: QuestionEnv) -> set[str]:
    return {env.task_at(index).key for index in range(1_000)}


def test_each_row_is_in_one_split(make_class: Make) -> None:
    cls = make_class()
    train, test = keys(cls("train")), keys(cls("test"))
    assert not train & test
    assert train | test == {row["question"] for row in SQUARES}
    assert 70 < len(train) < 130


def test_splits_do_not_depend_on_how_the_file_is_written(make_class: Make) -> None:
    cls = make_class()
    before = [cls(v).task_at(i) for v in ("train", "test") for i in range(200)]
    rows = [{"id": i, **row} for i, row in enumerate(SQUARES)] * 2
    random.Random(1).shuffle(rows)
    other = make_class(rows)
    other.env_id = cls.env_id  # which is hashed with the question
    assert [other(v).task_at(i) for v in ("train", "test") for i in range(200)] == before


def test_a_file_of_its_own_is_a_variants_alone(make_class: Make, tmp_path: Path) -> None:
    test = write(tmp_path / "test.jsonl", [{"question": "How many?", "answer": 7}])
    extra = write(tmp_path / "extra.jsonl", ({"question": f"{n}?", "answer": n} for n in range(100)))
    variants = {"train": {}, "test": {"rows": str(test)}, "one": {"rows": str(extra)}, "other": {"rows": str(extra)}}
    cls = make_class(variants=variants)
    assert len(keys(cls("train"))) == len(SQUARES)
    assert keys(cls("test")) == {"How many?"}
    assert len(keys(cls("one")) | keys(cls("other"))) == 100
    assert not keys(cls("one")) & keys(cls("other"))
    assert 20 < len(keys(cls("one"))) < 80


def test_files_that_share_a_question_are_refused(make_class: Make, tmp_path: Path) -> None:
    again = write(tmp_path / "again.jsonl", [{"question": "What is  3 squared?", "answer": 9}])
    cls = make_class(variants={"train": {}, "train-more": {"rows": str(again)}, "test": {"rows": str(again)}})
    for variant in ("train", "test"):
        with pytest.raises(UsageError, match=r"1 of the questions .* 'What is 3 squared\?'.* must not share"):
            cls(variant)
    both_train = make_class(variants={"train": {}, "train-more": {"rows": str(again)}})
    assert keys(both_train("train-more")) == {"What is 3 squared?"}


def test_an_episode(make_class: Make) -> None:
    env = make_class(attempts=2, max_turns=2)("test")
    prompt, _ = env.reset(options={"index": 3})
    right = str(int(prompt.split()[2]) ** 2)
    assert env.step("<answer>-1</answer>")[1:4] == (0.0, False, False)
    assert env.step(rf"so \boxed{{{right}.0}}")[1:4] == (1.0, True, False)
    assert env.solve(env.task).turns == (f"<answer>{right}</answer>",)


@pytest.mark.parametrize(
    ("answer", "right", "wrong"),
    [
        ("Paris", ["paris", " PARIS "], ["Paris, France", "", "par is"]),
        (
            1000,
            ["1000", "1,000", "1000.0", "$1000$", "1000/1"],
            ["1000.5", "2000/2", "10 00", "one thousand", "01001"],
        ),
        ("0.5", ["1/2", ".5".zfill(3), r"\frac{1}{2}"], ["1/3", "5"]),
        (["UK", "United Kingdom"], ["uk", "united  kingdom"], ["kingdom"]),
        (r"\boxed{7}", ["7"], ["8"]),
        ("`x`", ["x", "X"], ["y"]),
        ("9" * 41, ["9" * 41], ["9" * 40, "9" * 42]),
        (-3, ["-3", "-3.00"], ["3"]),
        (3, ["x = 3", "3"], ["x = 4"]),
        ("x = 3", ["x=3.0", "3", "$X = 3$"], ["y = 3", "x = 4", "x"]),
        (["x = 3", "y = 2"], ["y = 2", "2"], ["y = 3", "x = 2"]),
        (59, ["59"], ["885/15", "885 / 15", r"\frac{885}{15}", "x = 885/15", "(885/15)"]),
        ("3/4", ["0.75", "x = 3/4"], ["6/8", "0.76"]),
        ("6/8", ["3/4", "6/8", "0.75"], ["12/16"]),
        ("-1/2", ["-1/2", "-0.5"], ["1/2", "-2/4"]),
        ("x = y", ["x = y", "X = Y"], ["y = x", "z = y"]),
    ],
)
def test_answers_are_judged_by_value(make_class: Make, answer: Any, right: list[str], wrong: list[str]) -> None:
    env = make_class([{"question": "q", "answer": answer}], variants={"train": {}})()
    env.reset(options={"index": 0})
    assert [env.grade(env.task, text).outcome for text in right] == [1.0] * len(right)
    assert [env.grade(env.task, text).outcome for text in wrong] == [0.0] * len(wrong)
    for turn in env.solve(env.task).turns:
        assert env.step(turn)[1] == 1.0


@given(st.integers(-(10**45), 10**45), st.integers(0, 5), st.integers(0, 3))
@settings(deadline=None)
def test_one_number_has_one_form(value: int, zeros: int, decimals: int) -> None:
    written = ("-" if value < 0 else "") + "0" * zeros + str(abs(value)) + "." * bool(decimals) + "0" * decimals
    if len(str(abs(value))) + zeros <= 40:
        assert canonical(written) == canonical(str(value)) == str(value)


def test_a_class_reads_its_own_fields(make_class: Make) -> None:
    rows = [{"problem": f"{n} + 1?", "solution": f"We add.\n#### {n + 1:,}"} for n in (1, 41, 998, 999_999)]

    def read(cls: type, row: Mapping[str, Any]) -> tuple[str, str]:
        return row["problem"], row["solution"].rpartition("#### ")[2]

    env = make_class(rows, variants={"train": {}}, read=classmethod(read))()
    assert {env.task_at(i).answer for i in range(4)} == {"2", "42", "999", "1,000,000"}
    assert env.grade(next(t for t in map(env.task_at, range(4)) if t.answer == "1,000,000"), "1000000").outcome == 1.0


def test_rows_may_be_csv_beside_the_module(make_class: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('\ufeffquestion,answer\n"Two, or\nthree?",2\nCapital?,Rome\n', encoding="utf-8")
    monkeypatch.setattr("palestra.envs.questions.inspect.getfile", lambda cls: str(tmp_path / "module.py"))
    env = make_class("rows.csv", variants={"train": {}})()
    assert {(t.prompt, t.answer) for t in map(env.task_at, range(2))} == {
        ("Two, or\nthree?", "2"),
        ("Capital?", "Rome"),
    }


BAD = {
    "none.jsonl": (None, "cannot read the rows .*none.jsonl: No such file"),
    "rows.txt": (b"", "read from .jsonl or .csv files, not 'rows.txt'"),
    "latin.jsonl": ("é".encode("latin-1"), "is not UTF-8 text"),
    "cut.jsonl": (b'\n{"question": ', "line 2 of .* is not JSON"),
    "list.jsonl": (b"[1]", "line 1 of .* is not a JSON object"),
    "fields.jsonl": (b'{"q": 1, "a": 2}', "line 1 of .*KeyError: 'question'; its fields are q, a"),
    "number.jsonl": (b'{"question": 1, "answer": 2}', "line 1 of .*: a question is a text, not 1"),
    "none2.jsonl": (
        b'{"question": "q", "answer": null}',
        "an answer is a text, a number, or a list of such, not None",
    ),
    "bool.jsonl": (b'{"question": "q", "answer": true}', "an answer is a text"),
    "no.jsonl": (b'{"question": "q", "answer": []}', "line 1 of .*: no answer is given"),
    "blank.jsonl": (b'{"question": "q", "answer": " "}', "cannot be stated between"),
    "think.jsonl": (b'{"question": "q", "answer": "</think>"}', "cannot be stated between"),
    "call.jsonl": (b'{"question": "q", "answer": "<tool_call>{}</tool_call>"}', "cannot be stated between"),
    "half.jsonl": (b'{"question": "q", "answer": "\\ud800"}', "line 1 of .*: it holds half a character"),
    "nan.jsonl": (b'{"question": "q", "answer": NaN}', "line 1 of .* is not JSON: NaN is no number in JSON"),
    "inf.jsonl": (b'{"question": "q", "answer": 1e400}', "line 1 of .* is not JSON"),
    "breaks.csv": (b"question,answer\na,b\x0bc,d\n", "line 2 of .* has not as many fields as the header"),
    "two.jsonl": (
        b'{"question":"q","answer":1}\n{"question":" q","answer":2}',
        "line 2 .* has the answer '2', and '1' before",
    ),
    "one.jsonl": (b'{"question": "q", "answer": 1}', "no row of .* falls to the variant"),
    "empty.jsonl": (b"", "no row of .* falls to the variant"),
    "short.csv": (b"question,answer\nq\n", "line 2 of .* has not as many fields as the header"),
    "long.csv": (b"question,answer\nq,1,2\n", "line 2 of .* has not as many fields as the header"),
    "twice.csv": (b"question,answer,answer\nq,1,2\n", "the header of .* names the column 'answer' twice"),
    "twice.jsonl": (
        b'{"question": "q", "answer": 1, "answer": 2}',
        "line 1 of .*: the field 'answer' stands in it twice",
    ),
    "quote.csv": (b'question,answer\n"q,1\n', "is not CSV"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_are_named(name: str, make_class: Make, tmp_path: Path) -> None:
    content, message = BAD[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    cls = make_class(str(tmp_path / name))
    with pytest.raises(UsageError, match=message):
        [cls(variant) for variant in cls.variants]


@pytest.mark.parametrize(
    ("number", "written"), [("1e16", "10000000000000000"), ("1e-5", "0.00001"), ("-2.50", "-5/2")]
)
def test_floats_are_numbers_however_they_are_spelled(
    number: str, written: str, make_class: Make, tmp_path: Path
) -> None:
    (tmp_path / "f.jsonl").write_text(f'{{"question": "q", "answer": {number}}}', encoding="utf-8")
    env = make_class(str(tmp_path / "f.jsonl"), variants={"train": {}})()
    assert env.grade(env.task_at(0), written).outcome == 1.0


def test_spellings_of_one_question_are_one_task_in_any_order(make_class: Make) -> None:
    rows = [{"question": "What  is it?", "answer": "PARIS"}, {"question": "What is it?", "answer": "Paris"}]
    one, other = (make_class(order, variants={"train": {}})() for order in (rows, rows[::-1]))
    assert one.task_at(0) == other.task_at(0) == one.task_at(1)


def test_a_relative_file_lies_beside_the_class_that_names_it(
    make_class: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_class("named.jsonl")
    derived = type("Derived", (base,), {"__module__": __name__})
    owners: list[type] = []
    monkeypatch.setattr(
        "palestra.envs.questions.inspect.getfile", lambda cls: owners.append(cls) or "/nowhere/module.py"
    )
    with pytest.raises(UsageError, match="cannot read the rows /nowhere/named.jsonl"):
        derived()
    assert set(owners) == {base}


def test_a_class_without_a_file_reads_from_the_current_folder(
    make_class: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "here.jsonl", [{"question": "q", "answer": 1}])
    monkeypatch.chdir(tmp_path)

    def nowhere(cls: type) -> str:
        raise OSError("source code not available")

    monkeypatch.setattr("palestra.envs.questions.inspect.getfile", nowhere)
    assert make_class("here.jsonl", variants={"train": {}})().task_at(0).answer == "1"


@given(st.binary(max_size=200), st.sampled_from([".jsonl", ".csv"]))
@settings(deadline=None)
def test_any_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str) -> None:
    from palestra.envs.questions import read_rows

    file = tmp_path_factory.mktemp("rows") / f"rows{suffix}"
    file.write_bytes(content)
    try:
        rows = [row for _, row in read_rows(file)]
    except UsageError:
        return
    assert all(isinstance(row, dict) for row in rows)
