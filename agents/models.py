"""Loading a model and its tokenizer from a folder or hub id, with errors that say what to do.

A folder with a LoRA adapter stands for its base model with the adapter merged in.
"""

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from palestra.envs.errors import MissingPrerequisiteError, UsageError, unknown_name

ADAPTER = "adapter_config.json"
"""What makes a folder an adapter."""


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
        UsageError: There is no such folder, and the name cannot be a hub id; or the folder holds no model, or an
            adapter whose base is not there.
        MissingPrerequisiteError: The folder holds an adapter, and peft is not installed.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if is_adapter(name):
            base_of(name)
            return str(path)
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
    siblings = [p.name for p in path.parent.glob("*") if (p / "config.json").is_file() or is_adapter(str(p))]
    if siblings:
        raise unknown_name(f"model folder in '{path.parent}'", path.name, siblings)
    raise UsageError(
        f"there is no model at '{name}'; give a folder with config.json, a hub id (owner/model), "
        "or build one with `palestra organism build`"
    )


def is_adapter(name: str) -> bool:
    """Whether a name stands for a folder with a LoRA adapter."""
    return (Path(name).expanduser() / ADAPTER).is_file()


def base_of(adapter: str) -> str:
    """Return the model that an adapter is of, as `check_model` does.

    Raises:
        UsageError: It is not there, or the adapter's configuration cannot be read.
        MissingPrerequisiteError: peft is not installed.
    """
    if find_spec("peft") is None:
        raise MissingPrerequisiteError(f"'{adapter}' is an adapter; to load it: pip install 'palestra[lora]'")
    path = Path(adapter).expanduser() / ADAPTER
    try:
        base = str(json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"])
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise UsageError(f"'{path}' cannot be read: {error!r}") from error
    try:
        return check_model(base)
    except UsageError as error:
        raise UsageError(f"'{adapter}' is an adapter of '{base}' (base_model_name_or_path): {error}") from error


def weight_files(name: str) -> list[Path]:
    """Return the files that a model's weights are read from, those of an adapter's base last; none of a hub id."""
    folder = Path(check_model(name))
    own = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])
    return own + (weight_files(base_of(name)) if is_adapter(name) else [])


def load_model(name: str, *, to_train: bool = False) -> LoadedModel:
    """Load a model and tokenizer from a folder or hub id.

    Weights are bfloat16 on a GPU that only samples, else float32: small updates would vanish in bfloat16 weights.

    Raises:
        UsageError: As `check_model`, or the files do not load.
        MissingPrerequisiteError: It is an adapter, and peft is not installed.
    """
    source = check_model(name)
    import torch

    cuda = torch.cuda.is_available()
    try:
        model, tokenizer = _load(source, torch.bfloat16 if cuda and not to_train else torch.float32)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"the model '{name}' does not load: {reason}") from error
    tune_threads(model)
    return LoadedModel(model.to(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if cuda else "cpu"), tokenizer)


def load_tokenizer(name: str) -> tuple[str, Any, int | None]:
    """Return where an engine of its own finds a model, its tokenizer, and its context in tokens.

    Raises:
        UsageError: As `check_model`, or it is an adapter, or the files do not load.
    """
    source = check_model(name)
    if is_adapter(name):
        raise UsageError(
            f"'{name}' is an adapter, which needs --engine transformers; the run's folder holds it merged"
        )
    from transformers import AutoConfig, AutoTokenizer

    try:
        config, tokenizer = AutoConfig.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise UsageError(f"the model '{name}' does not load: {str(error).strip().splitlines()[0]}") from error
    limit = getattr(config, "max_position_embeddings", None)
    return source, tokenizer, None if limit is None else int(limit)


def _load(source: str, dtype: Any) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = Path(source)
    if is_adapter(source):
        from peft import PeftModel

        model, tokenizer = _load(base_of(source), dtype)
        if (path / "tokenizer_config.json").is_file():
            tokenizer = AutoTokenizer.from_pretrained(source)
        merged = PeftModel.from_pretrained(model, source).merge_and_unload()
        return merged.requires_grad_(True), tokenizer  # peft has frozen the base
    if path.is_dir():  # an adapter that is trained on this model notes where it is
        source = str(path.resolve())
    return AutoModelForCausalLM.from_pretrained(source, dtype=dtype), AutoTokenizer.from_pretrained(source)


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
