"""QuestionEnv: questions with known answers from a file, for whoever has a dataset already.

Invariants: which variant a row belongs to is decided by its question alone, however often and in whatever order rows
stand in the file; variants that are not both for training share no question, in whatever files they stand.
"""

import csv
import inspect
import io
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from palestra.envs.answers import extract_answer
from palestra.envs.core import Demonstration, Reward, Task, TextEnv
from palestra.envs.errors import UsageError
from palestra.envs.expressions import in_lowest_terms, named_value, parse_fraction
from palestra.envs.splits import Cell, hash64
from palestra.envs.syntax.lenient_json import finite, refuse
from palestra.envs.toolcalls import parse_tool_calls

FORMATS = (".jsonl", ".csv")
_LONG_NUMBER = 40
"""Digits from which on a number is read with more care."""


class QuestionEnv(TextEnv):
    """Questions from a file, one per episode, judged by their answers.

    A subclass names its file, and reads its rows if they have other fields:

        @register("acme/GSM8K-v0", variants={"train": {"rows": "train.jsonl"}, "test": {"rows": "test.jsonl"}})
        class GSM8K(QuestionEnv):
            @classmethod
            def read(cls, row):
                return row["question"], row["answer"].rpartition("#### ")[2]

    A variant whose file no other one uses has all of its rows. Variants that use the same file share its rows by
    hash: those for training have one half, the others equal parts of the other half. Rows are read once for all
    variants, so `read` may not depend on what a variant changes.

    Raises:
        UsageError: When an environment is made: no such file, a row that cannot be read, two answers to one question,
            a variant without rows, or a question that stands in the files of two variants.
    """

    rows: str = ""
    """The file, `.jsonl` (an object per line) or `.csv` (with a header); relative to the module that names it."""
    max_turns = 1

    _shares: ClassVar[dict[str, tuple[Task, ...]]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._shares = {}

    def __init__(self, variant: str = "train", render_mode: str | None = None) -> None:
        super().__init__(variant, render_mode)
        self._cell = Cell.of([name for name in self.variants if self._file(name) == self._file(variant)], variant)
        if variant not in self._shares:
            self._shares[variant] = self._share()
        self._tasks = self._shares[variant]

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> tuple[str, Any]:
        """Return a row's question, and its answer: a text or number, or a list of all that are right."""
        return row["question"], row["answer"]

    def task_at(self, index: int) -> Task:
        """Return the question with the given index; after the last one, the first follows."""
        return self._tasks[index % len(self._tasks)]

    def sample(self, rng: random.Random) -> Task:
        """Draw a question."""
        return rng.choice(self._tasks)

    def grade(self, task: Task, answer: str) -> Reward:
        """Compare numbers by value (fractions in lowest terms), texts but for case and blanks, and what is named."""
        value = canonical(answer)
        right = value in task.data["accepted"]
        if right and "=" in answer:
            named, names = _name(answer), task.data["names"][value]
            right = not named or named in names or "" in names
        return Reward(1.0 if right else 0.0)

    def solve(self, task: Task) -> Demonstration:
        """State the answer."""
        return Demonstration((f"<answer>{task.answer}</answer>",))

    def guess(self, task: Task, rng: random.Random) -> str:
        """The answer to another question: what someone says who knows how answers look, and how often."""
        return self.sample(rng).answer

    def _share(self) -> tuple[Task, ...]:
        file = self._file(self.variant)
        tasks = self._read_tasks(file)
        for other in self.variants:
            both_train = other.startswith("train") and self.variant.startswith("train")
            if both_train or self._file(other) == file:
                continue
            if shared := tasks.keys() & self._read_tasks(self._file(other)).keys():
                raise UsageError(
                    f"{self.env_id}: {len(shared)} of the questions in {file.name} stand in {self._file(other).name}, "
                    f"too (such as '{min(shared)[:60]}'), and '{self.variant}' and '{other}' must not share any; take "
                    "them out of one of the files"
                )
        owned = tuple(task for key, task in tasks.items() if self.owns(key))
        if not owned:
            raise UsageError(f"{self.env_id}: no row of {file} falls to the variant '{self.variant}'; add more rows")
        return owned

    @classmethod
    @cache
    def _read_tasks(cls, file: Path) -> dict[str, Task]:
        return read_tasks(file, cls.read)

    @classmethod
    def _file(cls, variant: str) -> Path:
        stated = cls.variants[variant].get("rows")
        rows = Path(cls.rows if stated is None else stated)
        if rows.is_absolute():
            return rows
        name = "rows" if stated is None else "variants"
        owner = next(one for one in cls.__mro__ if name in vars(one))
        try:
            return Path(inspect.getfile(owner)).parent / rows
        except (OSError, TypeError):  # a notebook, or what was typed at a prompt
            return Path.cwd() / rows


def canonical(answer: str) -> str:
    """Return what equal answers have in common: a number's value, or a text but for case and blanks.

    A fraction that can be reduced is a text: it may be the question, `885/15` or `6/8 in lowest terms`.
    """
    if answer.isdecimal() and answer.isascii() and answer[0] != "0" and len(answer) < _LONG_NUMBER:
        return answer
    return str(parse_fraction(answer)) if in_lowest_terms(answer) else " ".join(answer.split()).casefold()


def _name(answer: str) -> str:
    """Return what an answer says the value of, "" if it does not."""
    return named_value(answer)[0].casefold()


def read_tasks(file: Path, read: Callable[[Mapping[str, Any]], tuple[str, Any]]) -> dict[str, Task]:
    """Return the tasks of a file by key, in an order that does not depend on that of its rows.

    Args:
        file: As `read_rows` takes it.
        read: Returns a row's question and its answer, or the list of its answers.

    Raises:
        UsageError: As `QuestionEnv` does.
    """
    tasks: dict[str, Task] = {}
    for line, row in read_rows(file):
        try:
            task = _task(*read(row))
        except Exception as error:  # of an author's code on somebody's data
            fields = ", ".join(row)
            raise UsageError(
                f"line {line} of {file} cannot be read as a question with an answer: {type(error).__name__}: {error}; "
                f"its fields are {fields}"
            ) from None
        if isinstance(task, str):
            raise UsageError(f"line {line} of {file}: {task}")
        known = tasks.get(task.key, task)
        tasks[task.key] = min(known, task, key=lambda one: one[:2])  # which spelling is kept hangs on no order either
        if known.data["accepted"] != task.data["accepted"]:
            raise UsageError(
                f"line {line} of {file}: the question '{task.key[:60]}' has the answer '{task.answer[:60]}', and "
                f"'{known.answer[:60]}' before; where several answers are right, give them as a list"
            )
    return dict(sorted(tasks.items(), key=lambda item: hash64(item[0])))


def _task(question: Any, answer: Any) -> Task | str:
    """Return a row's task, or what is wrong with it."""
    if not isinstance(question, str) or not question.strip():
        return f"a question is a text, not {question!r:.60}"
    try:
        f"{question}{answer}".encode()
    except UnicodeEncodeError:
        return "it holds half a character (a lone surrogate)"
    accepted = []
    for one in answer if isinstance(answer, list) else [answer]:
        if isinstance(one, bool) or not isinstance(one, str | int | float):
            return f"an answer is a text, a number, or a list of such, not {answer!r:.60}"
        if isinstance(one, float):
            one = format(Decimal(repr(one)), "f")
        turn = f"<answer>{one}</answer>"
        stated = extract_answer(turn)
        if not stated or parse_tool_calls(turn):
            return f"the answer {one!r:.60} cannot be stated between <answer> and </answer>"
        accepted.append(stated)
    if not accepted:
        return "no answer is given"
    names: dict[str, set[str]] = {}
    for one in accepted:
        value = parse_fraction(one)
        for form in {canonical(one), canonical(one) if value is None else str(value)}:
            names.setdefault(form, set()).add(_name(one))
    return Task(question, accepted[0], " ".join(question.split()), {"accepted": frozenset(names), "names": names})


def read_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a file with their line numbers; empty lines are skipped.

    Raises:
        UsageError: No such file, another format than `FORMATS`, text that is not UTF-8, or a line that is no row.
    """
    if file.suffix not in FORMATS:
        raise UsageError(
            f"rows are read from {' or '.join(FORMATS)} files, not '{file.name}'; write it as one of them"
        )
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not UTF-8 text; save it as such") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the rows {file}: {getattr(error, 'strerror', error)}") from None
    yield from _csv_rows(file, text) if file.suffix == ".csv" else _json_rows(file, text)


def _json_rows(file: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            row = json.loads(content, parse_float=finite, parse_constant=refuse, object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"line {line} of {file} is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise UsageError(f"line {line} of {file} is not a JSON object")
        yield line, row


def _csv_rows(file: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        if twice := _twice(reader.fieldnames or ()):
            raise UsageError(f"the header of {file} names the column '{twice}' twice; rename one of them")
        for row in reader:
            if None in row or None in row.values():
                raise UsageError(f"line {reader.line_num} of {file} has not as many fields as the header")
            yield reader.line_num, row
    except csv.Error as error:
        raise UsageError(f"line {reader.reader.line_num} of {file} is not CSV: {error}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if twice := _twice([name for name, _ in pairs]):
        raise ValueError(f"the field '{twice}' stands in it twice")
    return dict(pairs)


def _twice(names: Sequence[str]) -> str | None:
    """Return the first name that stands twice, None if there is none."""
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]
