"""`palestra new`: a package with one environment, to be made one's own."""

import json
import keyword
import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_LONGEST = 40
_COMMON = {
    "pyproject.toml": "pyproject.toml.j2",
    "README.md": "README.md.j2",
    "tests/test_{module}.py": "test_environment.py.j2",
}
FILES = _COMMON | {"src/{module}.py": "environment.py.j2"}
"""What is written -> its template."""
FILES_WITH_ROWS = _COMMON | {"src/{module}/__init__.py": "questions.py.j2"}
_FIELDS = ("question", "answer")


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
    from palestra.envs.folders import writable_folder

    module = _module(name)
    if rows is None and (question, answer) != _FIELDS:
        raise UsageError("--question and --answer name fields of --rows, which is not given")
    if rows is not None:
        _check_rows(rows, question, answer)
    folder = out or Path(name)
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"the folder '{folder}' is not empty, and nothing in it is overwritten; choose another --out")
    files = {path.format(module=module): template for path, template in (FILES_WITH_ROWS if rows else FILES).items()}
    for path in files:
        writable_folder((folder / path).parent)
    class_name = "".join(part.capitalize() for part in module.split("_"))
    values = {
        "name": name,
        "module": module,
        "class_name": class_name,
        "env_id": f"{name}/{class_name}-v0",
        "rows": f"{module}{rows.suffix}" if rows else "",
        "question": json.dumps(question),
        "answer": json.dumps(answer),
    }
    templates = Environment(
        loader=PackageLoader("palestra.cli"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        autoescape=False,
    )
    for path, template in files.items():
        (folder / path).write_text(templates.get_template(template).render(values), encoding="utf-8")
    if rows is not None:
        shutil.copyfile(rows, folder / "src" / module / values["rows"])
    environment = next(path for path in files if path.startswith("src/"))
    typer.echo(f"written: {folder} (the environment is {folder / environment})")
    typer.echo(f"next: pip install -e {folder} && palestra check {values['env_id']}")


def _check_rows(rows: Path, question: str, answer: str) -> None:
    """Read the rows as the environment will.

    Raises:
        UsageError: A row that cannot be read, or that lacks a field.
    """
    from palestra.envs.errors import UsageError
    from palestra.envs.questions import read_rows, read_tasks

    for line, row in read_rows(rows):
        for option, field in (("--question", question), ("--answer", answer)):
            if field not in row:
                raise UsageError(
                    f"line {line} of {rows} has no field '{field}' but {', '.join(row)}; "
                    f"name the right one with {option}"
                )
    found = len(read_tasks(rows, lambda row: (row[question], row[answer])))
    if found < 2:
        raise UsageError(f"{rows} has {found} different questions; training and measuring need some of their own each")


def _module(name: str) -> str:
    """Return the module that a package of that name holds.

    Raises:
        UsageError: No usable name, or one that another module has.
    """
    from palestra.envs.errors import UsageError

    module = name.replace("-", "_")
    if not _NAME.fullmatch(name) or len(name) > _LONGEST or keyword.iskeyword(module):
        raise UsageError(
            f"'{name}' is no name for a package; use up to {_LONGEST} small letters, digits and single dashes, "
            "beginning with a letter, such as letter-order"
        )
    if module in sys.stdlib_module_names or find_spec(module) is not None:
        raise UsageError(f"there is a Python module '{module}' already, which the new one would hide; choose another")
    return module
