"""Commands whose flags are the fields of a settings model, and whose YAML recipe has the same keys."""

import inspect
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

Settings = TypeVar("Settings", bound=BaseModel)


def settings_command(
    app: typer.Typer, name: str, model: type[Settings], run: Callable[[Settings], None], help: str
) -> None:
    """Add a command to `app` whose flags are the fields of `model`.

    `--config FILE` reads a YAML recipe with the same keys; flags win over it. `run` gets the settings.
    """

    def command(**flags: Any) -> None:
        from palestra.envs.config import COMMAND_LINE, load_yaml, validate  # here, because it loads Gymnasium

        recipe: Path | None = flags.pop("config")
        given = {key: value for key, value in flags.items() if value not in (None, [])}
        if recipe is not None:
            run(load_yaml(recipe, model, given))
        else:
            run(validate(given, model, COMMAND_LINE))

    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            *(_parameter(key, field) for key, field in model.model_fields.items()),
            inspect.Parameter(
                "config",
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[
                    Path | None,
                    typer.Option(help="YAML file with these settings as keys; flags win over it."),
                ],
            ),
        ]
    )
    app.command(name, help=help)(command)


def _parameter(key: str, field: FieldInfo) -> inspect.Parameter:
    flag = "--" + key.replace("_", "-")
    flags = [flag, "-n"] if key == "samples" else [flag]
    default = "" if field.default in (PydanticUndefined, None, ()) else f" [default: {_show(field.default)}]"
    if field.is_required():
        default = " [required]"
    text = f"{field.description}{_choices(field.annotation)}{default}"
    option = typer.Option(*flags, help=text[0].upper() + text[1:], show_default=False)
    return inspect.Parameter(
        key,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[_flag_type(field.annotation), option],
    )


def _flag_type(annotation: Any) -> Any:
    """Return the type a flag is parsed as; the settings model checks bounds and choices."""
    origin = typing.get_origin(annotation)
    if origin is tuple:
        return list[str] | None
    if origin is typing.Literal:
        return str | None
    if isinstance(annotation, types.UnionType) or origin is typing.Union:  # optional: the flag takes the bare type
        annotation = next(part for part in typing.get_args(annotation) if part is not type(None))
        if typing.get_origin(annotation) is Annotated:
            annotation = typing.get_args(annotation)[0]
    return annotation | None


def _choices(annotation: Any) -> str:
    if typing.get_origin(annotation) is typing.Literal:
        return f": {', '.join(map(str, typing.get_args(annotation)))}"
    return ""


def _show(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
