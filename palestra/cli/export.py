"""`palestra export`: an environment as a package that another suite installs."""

from pathlib import Path
from typing import Annotated

import typer

FORMATS = ("verifiers",)

_PYPROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "{name}"
version = "{version}"
description = "{env}, an environment of Palestra, for verifiers."
requires-python = ">=3.11"
dependencies = ["palestra", "verifiers>=0.4,<0.5"]

[tool.setuptools]
py-modules = ["{module}"]
"""

_MODULE = '''\
"""{env} for verifiers, as `palestra export verifiers` wrote it: `vf-eval {name} --no-push`."""

import verifiers.v1 as vf
from palestra.envs.adapters.verifiers import PalestraConfig, PalestraEnv, PalestraTask, PalestraTaskset

__all__ = ["PalestraEnv", "Taskset"]


class Config(PalestraConfig):
    """Which tasks; every field is a flag, e.g. `--env.taskset.variant`."""

    env_id: str = "{env}"
    variant: str = "{variant}"
    count: int = {count}


class Taskset(PalestraTaskset, vf.Taskset[PalestraTask, Config]):
    """{summary}"""
'''


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("export")(export)


def export(
    target: Annotated[str, typer.Argument(metavar="FORMAT", help="Whose package: verifiers.")],
    env: Annotated[str, typer.Argument(help="Environment id, e.g. palestra/Dice-v0.")],
    out: Annotated[Path, typer.Option(help="New folder for the package.")],
    variant: Annotated[str, typer.Option(help="Variant that it takes unless told otherwise.")] = "train",
    count: Annotated[int, typer.Option(help="Problems that it loads unless told otherwise.", min=1)] = 100,
) -> None:
    """Write the package under which another suite finds an environment.

    Example: `palestra export verifiers palestra/Dice-v0 --out dice && pip install ./dice`
    """
    import re

    from palestra.envs import make, spec
    from palestra.envs.errors import UsageError, unknown_name

    if target not in FORMATS:
        raise unknown_name("format", target, FORMATS)
    make(env, variant).close()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is there already; give --out a new folder")
    known = spec(env)
    name = re.sub(r"[^a-z0-9]+", "-", env.lower()).strip("-")
    values = {
        "env": env,
        "name": name,
        "module": name.replace("-", "_"),
        "version": f"0.{known.id.rpartition('-v')[2]}.0",
        "variant": variant,
        "count": count,
        "summary": known.summary.replace("\\", "\\\\").replace('"', "'"),
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "pyproject.toml").write_text(_PYPROJECT.format(**values), encoding="utf-8")
    (out / f"{values['module']}.py").write_text(_MODULE.format(**values), encoding="utf-8")
    typer.echo(
        f"wrote {out}: pip install {out}, then vf-eval {name} --no-push (without that, verifiers uploads the run)"
    )
