"""`palestra new`: a package with one environment, to be made one's own."""

import keyword
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_LONGEST = 40
FILES = {
    "pyproject.toml": "pyproject.toml.j2",
    "README.md": "README.md.j2",
    "src/{module}.py": "environment.py.j2",
    "tests/test_{module}.py": "test_environment.py.j2",
}
"""What is written -> its template."""


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("new")(new)


def new(
    name: Annotated[str, typer.Argument(help="Name of the package, e.g. letter-order.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the package; must not hold anything. [default: ./NAME]")
    ] = None,
) -> None:
    """Write an installable package with one environment, which works and is full of comments on what to change.

    It has the environment with oracle, guess, a process term and variants, its entry point, and its tests.

    Example: `palestra new letter-order && pip install -e letter-order && palestra check letter-order/LetterOrder-v0`
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from palestra.envs.errors import UsageError
    from palestra.envs.folders import writable_folder

    module = _module(name)
    folder = out or Path(name)
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"the folder '{folder}' is not empty, and nothing in it is overwritten; choose another --out")
    for inside in ("src", "tests"):
        writable_folder(folder / inside)
    class_name = "".join(part.capitalize() for part in module.split("_"))
    values = {
        "name": name,
        "module": module,
        "class_name": class_name,
        "env_id": f"{name}/{class_name}-v0",
    }
    templates = Environment(
        loader=PackageLoader("palestra.cli"), undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    for path, template in FILES.items():
        text = templates.get_template(template).render(values)
        (folder / path.format(module=module)).write_text(text, encoding="utf-8")
    typer.echo(f"written: {folder} (the environment is {folder / 'src' / f'{module}.py'})")
    typer.echo(f"next: pip install -e {folder} && palestra check {values['env_id']}")


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
