"""`palestra new`: a package with one environment, to be made one's own."""

import builtins
import keyword
import re
import shlex
import shutil
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_LONGEST = 40
_IMPORTED = {"Any", "Demonstration", "Mapping", "ProcessTerm", "QuestionEnv", "Reward", "Task", "TextEnv"}
"""What the templates import."""
_COMMON = {
    "pyproject.toml": "pyproject.toml.j2",
    "README.md": "README.md.j2",
    "tests/test_{module}.py": "test_environment.py.j2",
}
FILES = _COMMON | {"src/{module}.py": "environment.py.j2"}
"""What is written -> its template."""
FILES_WITH_ROWS = _COMMON | {"src/{module}/__init__.py": "questions.py.j2"}
_FIELDS = ("question", "answer")
_MOST_LUCK = 0.08
"""Share of guesses that may be right before an environment is flagged; `palestra check` allows 0.1, but for luck."""


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("new")(new)


def new(
    name: Annotated[str, typer.Argument(help="Name of the package, e.g. letter-order.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the package; must not hold anything. [default: ./NAME]")
    ] = None,
    rows: Annotated[
        Path | None,
        typer.Option(help="Questions with answers, .jsonl or .csv, that the environment asks; it is copied."),
    ] = None,
    question: Annotated[str, typer.Option(help="With --rows: the field with the question.")] = _FIELDS[0],
    answer: Annotated[
        str, typer.Option(help="With --rows: the field with the answer, or a list of all right ones.")
    ] = _FIELDS[1],
) -> None:
    """Write an installable package with one environment, which works and is full of comments on what to change.

    It has the environment with oracle, guess, a process term and variants, its entry point, and its tests.

    Example: `palestra new letter-order && pip install -e letter-order && palestra check letter-order/LetterOrder-v0`

    With questions of your own: `palestra new capitals --rows capitals.jsonl`
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from palestra.envs.errors import UsageError

    module, class_name = _names(name)
    env_id = f"{name}/{class_name}-v0"
    if rows is None and (question, answer) != _FIELDS:
        raise UsageError("--question and --answer name fields of --rows, which is not given")
    flags = {} if rows is None else _flags_of(rows, question, answer, env_id)
    values = {
        "name": name,
        "module": module,
        "class_name": class_name,
        "env_id": env_id,
        "rows": f"{module}{rows.suffix}" if rows else "",
        "question": repr(question),
        "answer": repr(answer),
        "flags": tuple(flags),
        "reasons": "; ".join(flags.values()),
    }
    templates = Environment(
        loader=PackageLoader("palestra.cli"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        autoescape=False,
    )
    files = {
        path.format(module=module): templates.get_template(template).render(values).encode()
        for path, template in (FILES_WITH_ROWS if rows else FILES).items()
    }
    environment = next(path for path in files if path.startswith("src/"))
    if rows is not None:
        files[f"src/{module}/{values['rows']}"] = rows.read_bytes()
    folder = out or Path(name)
    _write(folder, files)
    typer.echo(f"written: {folder} (the environment is {folder / environment})")
    for flag, reason in flags.items():
        typer.echo(f"flagged {flag}: {reason}")
    typer.echo(f"next: pip install -e {shlex.quote(str(folder))} && palestra check {env_id}")


def _write(folder: Path, files: dict[str, bytes]) -> None:
    """Write all files, or none.

    Raises:
        UsageError: The folder holds something, or cannot be written to.
    """
    from palestra.envs.errors import UsageError
    from palestra.envs.folders import writable_folder

    try:
        was_there = folder.is_dir()
        if was_there and any(folder.iterdir()):
            raise UsageError(
                f"the folder '{folder}' is not empty, and nothing in it is overwritten; choose another --out"
            )
        writable_folder(folder)
        try:
            for path, content in files.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(content)
        except OSError:
            for left in list(folder.iterdir()) if was_there else [folder]:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            raise
    except OSError as error:
        raise UsageError(f"cannot write the package to '{folder}': {error.strerror}; choose another --out") from None


def _flags_of(rows: Path, question: str, answer: str, env_id: str) -> dict[str, str]:
    """Read the rows as the environment will; returns the flags that it needs, with the reason of each.

    Raises:
        UsageError: A row that cannot be read, or that lacks a field; too few rows.
    """
    from palestra.envs.checks.base import FEW_TASKS, GUESSABLE
    from palestra.envs.checks.splits import FEWEST
    from palestra.envs.errors import UsageError
    from palestra.envs.questions import canonical, read_rows, read_tasks
    from palestra.envs.splits import hash64

    for line, row in read_rows(rows):
        for option, field in (("--question", question), ("--answer", answer)):
            if field not in row:
                raise UsageError(
                    f"line {line} of {rows} has no field '{field}' but {', '.join(row)}; "
                    f"name the right one with {option}"
                )
    halves: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    for task in read_tasks(rows, lambda row: (row[question], row[answer])).values():
        halves[hash64(f"{env_id}|{task.key}") >> 63][canonical(task.answer)] += 1
    sizes = [half.total() for half in halves]
    if not all(sizes):
        raise UsageError(
            f"{rows} has {sum(sizes)} different questions, which all fall to {'training' if sizes[0] else 'the test'} "
            "(their texts decide that); add more of them"
        )
    flags = {}
    if min(sizes) < FEWEST:
        flags[FEW_TASKS] = f"there are only {sizes[0]} questions for training and {sizes[1]} to test"
    luck = max(sum(n * n for n in half.values()) / half.total() ** 2 for half in halves)
    if luck > _MOST_LUCK:
        flags[GUESSABLE] = f"an answer drawn from all of them is right in {luck:.0%} of all cases"
    return flags


def _names(name: str) -> tuple[str, str]:
    """Return the module that a package of that name holds, and the class of its environment.

    Raises:
        UsageError: No usable name, or one that something else has.
    """
    from palestra.envs.errors import UsageError

    module = name.replace("-", "_")
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise UsageError(
            f"'{name}' is no name for a package; use up to {_LONGEST} small letters, digits and single dashes, "
            "beginning with a letter, such as letter-order"
        )
    class_name = "".join(part.capitalize() for part in module.split("_"))
    if keyword.iskeyword(module) or keyword.iskeyword(class_name):
        raise UsageError(f"'{name}' is a word of Python's own, which no module or class can have as its name")
    if class_name in _IMPORTED or hasattr(builtins, class_name):
        raise UsageError(
            f"its class '{class_name}' would hide one of the same name that is needed; choose another name"
        )
    if module in sys.stdlib_module_names or find_spec(module) is not None:
        raise UsageError(f"there is a Python module '{module}' already, which the new one would hide; choose another")
    return module, class_name
