"""Configuration files: YAML into strict pydantic models, with errors that name the nearest valid key."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from palestra.envs.errors import UsageError

COMMAND_LINE = "the command line"

Config = TypeVar("Config", bound=BaseModel)


def load_yaml(path: Path, model: type[Config], overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a YAML file into `model`; `overrides` (command-line flags) win over the file.

    Keys may be written with dashes, as flags are.

    Raises:
        UsageError: The file is missing or not a mapping, or a key or value in it is not valid.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read '{path}': {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"'{path}' is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UsageError(f"'{path}' must hold keys and values, such as `steps: 100`")
    values = {str(key).replace("-", "_"): value for key, value in values.items()}
    return validate({**values, **(overrides or {})}, model, f"'{path}'")


def validate(values: Mapping[str, Any], model: type[Config], where: str) -> Config:
    """Build `model` from `values`.

    Raises:
        UsageError: One sentence about the first thing that is wrong; `where` says where it stands.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise UsageError(_sentence(error, model, where)) from error


def _sentence(error: ValidationError, model: type[BaseModel], where: str) -> str:
    # A misspelt key is also a missing one: the misspelling is the better hint.
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    said = first["msg"].removeprefix("Value error, ")
    key = ".".join(str(part) for part in first["loc"])
    if not key:  # nothing is wrong with one value alone
        return f"{where} asks for what does not go together: {said}"
    if first["type"] == "extra_forbidden":
        known = _keys(model, first["loc"][:-1])
        close = get_close_matches(str(first["loc"][-1]), known, n=1, cutoff=0.4)
        hint = f"did you mean '{close[0]}'?" if close else f"valid keys are: {', '.join(sorted(known))}."
        return f"unknown key '{key}' in {where}; {hint}"
    if first["type"] == "missing" and where == COMMAND_LINE:
        return f"--{key.replace('_', '-')} is missing; --help shows an example"
    if first["type"] == "missing":
        return f"{where} lacks the key '{key}'"
    return f"'{key}' in {where} is wrong: {said[0].lower()}{said[1:]} (got {first['input']!r})"


def _keys(model: type[BaseModel], location: Iterable[int | str]) -> list[str]:
    """Return the valid keys of the (possibly nested) model that `location` points into."""
    for part in location:
        if isinstance(part, int):
            continue
        annotation: Any = model.model_fields[part].annotation
        nested = [a for a in (annotation, *getattr(annotation, "__args__", ())) if isinstance(a, type)]
        model = next((a for a in nested if issubclass(a, BaseModel)), model)
    return list(model.model_fields)
