"""`palestra organism`: small models trained from scratch on data we state."""

from pathlib import Path
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Add the verbs."""
    group = typer.Typer(
        no_args_is_help=True, help="Small models trained from scratch, so that what they could do is known."
    )
    group.command("list")(list_recipes)
    group.command("build")(build)
    app.add_typer(group, name="organism")


def list_recipes() -> None:
    """List the recipes that come with Palestra."""
    from palestra.rl.organisms.recipe import load_recipe, shipped

    for name in shipped():
        typer.echo(f"{name}: {load_recipe(name).description}")


def build(
    name: Annotated[str, typer.Argument(help="A shipped recipe, or a YAML file.")],
    seed: Annotated[int, typer.Option(help="Seeds the data and the initial weights.", min=0)] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder to build in, instead of the cache.")] = None,
) -> None:
    """Build an organism, or find it in the cache; prints its folder.

    Example: `palestra organism build string-atoms`
    """
    typer.echo(build_cached(name, seed, out))


def build_cached(name: str, seed: int, out: Path | None = None) -> Path:
    """Return the folder of an organism, building it if it is not there."""
    from palestra.envs.errors import UsageError
    from palestra.envs.folders import writable_folder
    from palestra.rl.organisms.recipe import cache_folder, load_recipe

    recipe = load_recipe(name)
    folder = out or cache_folder(recipe, seed)
    if (folder / "organism.json").is_file():
        if out is None:
            return folder
        raise UsageError(f"'{out}' already holds an organism; choose another --out")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"'{folder}' exists and is not empty; choose another --out")
    writable_folder(folder)
    from palestra.rl.organisms.build import build

    build(recipe, seed, folder)
    return folder
