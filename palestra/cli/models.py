"""What `--model` may name: an organism, a folder, or a hub id."""

from collections.abc import Sequence
from pathlib import Path


def resolve_model(name: str, scripted: Sequence[str] = ()) -> str:
    """Return the folder or hub id for a model name.

    The name of a shipped organism stands for its cached build with seed 0; other builds are given by folder.

    Args:
        name: What the user wrote.
        scripted: Policies that the command takes as well, for the hint.

    Raises:
        UsageError: No such model, or an organism that has not been built yet.
    """
    from palestra.agents.models import check_model
    from palestra.envs.errors import UsageError, unknown_name
    from palestra.rl.organisms.recipe import cache_folder, load_recipe, shipped

    if name in shipped() and not Path(name).exists():
        folder = cache_folder(load_recipe(name), 0)
        if not folder.is_dir():
            raise UsageError(f"the organism '{name}' is not built yet; run `palestra organism build {name}`")
        return str(folder)
    if "/" not in name and not Path(name).exists():
        folders = [path.parent.name for path in Path().glob("*/config.json")]
        raise unknown_name("model", name, [*shipped(), *folders, *scripted])
    return check_model(name)
