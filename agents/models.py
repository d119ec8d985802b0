"""Loading a model and its tokenizer from a folder or hub id, with errors that say what to do."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from palestra.envs.errors import UsageError, unknown_name


class LoadedModel(NamedTuple):
    """A causal language model with its tokenizer."""

    model: Any
    tokenizer: Any

    @property
    def max_length(self) -> int | None:
        """Context in tokens, if the configuration states one."""
        limit = getattr(self.model.config, "max_position_embeddings", None)
        return int(limit) if limit is not None else None


def check_model(name: str) -> str:
    """Return the folder or hub id to load for `name`, without loading it (no torch import).

    A folder is taken as it is; so is a name of the form `owner/model` if no such folder exists.

    Raises:
        UsageError: There is no such folder, and the name cannot be a hub id; or the folder holds no model.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UsageError(f"'{name}' holds no model (no config.json); {_inside(path)}")
        try:
            json.loads((path / "config.json").read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise UsageError(f"'{name}/config.json' cannot be read: {error}") from error
        return str(path)
    if path.exists():
        raise UsageError(f"'{name}' is a file; --model takes the folder that holds config.json")
    if name.count("/") == 1 and not name.startswith((".", "/", "~")) and not path.parent.exists():
        return name
    siblings = [p.name for p in path.parent.glob("*") if p.is_dir()] if path.parent.is_dir() else []
    if siblings:
        raise unknown_name(f"model folder in '{path.parent}'", path.name, siblings)
    raise UsageError(
        f"there is no model at '{name}'; give a folder with config.json, a hub id (owner/model), "
        "or build one with `palestra organism build`"
    )


def load_model(name: str, *, to_train: bool = False) -> LoadedModel:
    """Load a model and tokenizer from a folder or hub id.

    Weights are bfloat16 on a GPU that only samples, else float32: small updates would vanish in bfloat16 weights.

    Raises:
        UsageError: As `check_model`, or the files do not load.
    """
    source = check_model(name)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    cuda = torch.cuda.is_available()
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model: Any = AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.bfloat16 if cuda and not to_train else torch.float32
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"the model '{name}' does not load: {reason}") from error
    tune_threads(model)
    return LoadedModel(model.to("cuda" if cuda else "cpu"), tokenizer)


def tune_threads(model: Any) -> None:
    """Give a small model one CPU thread: below some 50M parameters, more threads wait more than they work.

    OMP_NUM_THREADS, where set, decides instead.
    """
    import torch

    if "OMP_NUM_THREADS" not in os.environ and sum(p.numel() for p in model.parameters()) < 50_000_000:
        torch.set_num_threads(1)


def _inside(path: Path) -> str:
    models = sorted(p.parent.name for p in path.glob("*/config.json"))
    return f"the folders inside that do are: {', '.join(models[:5])}" if models else "give the folder that does"
