"""`palestra export`: an environment as a package that another suite installs, or a run for another tool."""

from pathlib import Path
from typing import Annotated

import typer

FORMATS = ("verifiers", "inspect", "parquet", "trackio")

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
    target: Annotated[
        str,
        typer.Argument(
            metavar="FORMAT", help="verifiers (an environment's package); inspect, parquet, trackio (a run)."
        ),
    ],
    what: Annotated[str, typer.Argument(help="Environment id, e.g. palestra/Dice-v0; or folder of a run.")],
    out: Annotated[
        Path, typer.Option(help="New folder for the package; file for inspect and parquet; name of a trackio project.")
    ],
    variant: Annotated[str, typer.Option(help="verifiers: variant that it takes unless told otherwise.")] = "train",
    count: Annotated[int, typer.Option(help="verifiers: problems that it loads unless told otherwise.", min=1)] = 100,
) -> None:
    """Write the package under which another suite finds an environment, or a run as another tool reads it.

    Examples: `palestra export verifiers palestra/Dice-v0 --out dice && pip install ./dice`,
    `palestra export inspect runs/rl-eval --out logs/rl.eval && inspect view --log-dir logs`,
    `palestra export parquet runs/rl-eval --out rl.parquet`
    """
    from palestra.envs.errors import unknown_name

    if target not in FORMATS:
        raise unknown_name("format", target, FORMATS)
    if target == "verifiers":
        _export_package(what, out, variant, count)
        return
    from palestra.eval.export import to_inspect, to_parquet, to_trackio

    if target == "trackio":
        typer.echo(f"logged {to_trackio(what, str(out))} points: trackio show --project {out}")
    else:
        written = to_inspect(what, out) if target == "inspect" else to_parquet(what, out)
        typer.echo(f"wrote {out}: {written} samples")


def _export_package(env: str, out: Path, variant: str, count: int) -> None:
    import re

    from palestra.envs import make, spec
    from palestra.envs.errors import UsageError

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
