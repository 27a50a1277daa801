"""Command-line options that are generated from a settings class: name, type, bounds, default and help text."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from annotated_types import Ge, Gt, Le
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from vision_infer.cli.options import COMPLETIONS
from vision_infer.config.fields import may_be_none, unwrapped
from vision_infer.config.validation_errors import SettingsError
from vision_infer.core.errors import UsageError


def command_with_settings(
    settings: type[BaseModel],
    command: Callable[..., int],
    *,
    argument: str = "sources",
    repeatable: tuple[str, ...] = ("out",),
    once: tuple[str, ...] = ("secondary",),
    metavars: Mapping[str, str] | None = None,
) -> Callable[..., int]:
    """Return a command whose options are the fields of a settings class, followed by its own keyword parameters.

    Args:
        settings: The class that describes the options. Its own fields come before inherited ones.
        command: Called with the values of the fields by name, as a dictionary, and with its own options.
        argument: The field that is a positional argument.
        repeatable: List options that are given several times; other lists are comma-separated.
        once: Options with one value that are refused when they are given twice. Of other options, the last value counts.
        metavars: The placeholders of values in the help text, by field name.
    """
    own = [name for name in settings.model_fields if name in inspect.get_annotations(settings)]
    fields = {name: settings.model_fields[name] for name in dict.fromkeys([*own, *settings.model_fields])}
    several = (argument, *repeatable, *once)
    options = [
        _parameter(name, field, _help(field, fields), (metavars or {}).get(name), name == argument, name in several)
        for name, field in fields.items()
    ]
    _, *extra = inspect.signature(command, eval_str=True).parameters.values()

    def run(**values: Any) -> int:
        for name in once:
            values[name] = _only(name, values[name])
        given = {name: _value(name, values.pop(name), field, name in (argument, *repeatable)) for name, field in fields.items()}
        try:
            return command(given, **values)
        except SettingsError as error:
            problems = [(problem.location, problem.message) for problem in error.problems]
            texts = [" ".join((_option(str(where[0])), *map(str, where[1:]))) + f": {what}" for where, what in problems if where]
            hint = _named(error.hint, fields) or "See 'vision-infer run --help'."
            raise UsageError("; ".join(texts) or _named(error.message, fields), hint) from error

    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*options, *extra)]
    run.__doc__ = command.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _help(field: FieldInfo, names: Collection[str]) -> str:
    """Return the description of a field, in which the names of fields become those of options, but not its own values."""
    return _named(field.description or "", set(names) - set(get_args(unwrapped(field.annotation))))


def _named(text: str, names: Collection[str]) -> str:
    """Return a text in which the names of fields become those of options."""
    return re.sub("`([^`]*)`", lambda word: _option(word[1]) if word[1] in names else word[1], text)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _parameter(name: str, field: FieldInfo, text: str, metavar: str | None, positional: bool, several: bool) -> inspect.Parameter:
    if positional:
        return _keyword(name, Annotated[list[str], typer.Argument(metavar=metavar, help=text, show_default=False)], ...)
    kind = unwrapped(field.annotation)
    default = field.get_default(call_default_factory=True)
    if (
        several or get_origin(kind) in (tuple, dict) or (isinstance(kind, type) and issubclass(kind, BaseModel))
    ):  # written as text on the command line
        kind, default = (list[str] if several else str) | None, None
    elif may_be_none(field.annotation):
        kind = kind | None
    if kind is bool:
        return _keyword(name, Annotated[bool, typer.Option(_option(name), help=text)], default)
    if metavar is None and get_origin(unwrapped(kind)) is Literal:
        metavar = "|".join(get_args(unwrapped(kind)))
    low = next((bound.ge for bound in field.metadata if isinstance(bound, Ge)), None)
    high = next((bound.le for bound in field.metadata if isinstance(bound, Le)), None)
    text += "".join(f" Greater than {bound.gt}." for bound in field.metadata if isinstance(bound, Gt))
    option: Any = typer.Option(
        min=low,  # type: ignore[arg-type]
        max=high,  # type: ignore[arg-type]
        metavar=metavar or _unit(name),
        help=text,
        autocompletion=COMPLETIONS.get(name),
    )
    return _keyword(name, Annotated[kind, option], default)


def _keyword(name: str, annotation: Any, default: object) -> inspect.Parameter:
    empty = inspect.Parameter.empty
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=empty if default is ... else default, annotation=annotation
    )


def _unit(name: str) -> str | None:
    return {"s": "SECONDS", "mb": "MB", "fps": "FPS", "dir": "DIR"}.get(name.rpartition("_")[2])


def _value(name: str, value: Any, field: FieldInfo, several: bool) -> Any:
    kind = get_origin(unwrapped(field.annotation))
    if several:
        return tuple(value or ())
    if kind is tuple:
        return _split(name, value)
    return _numbers(name, value) if kind is dict else value


def _only(name: str, values: list[str] | None) -> str | None:
    if values and len(values) > 1:
        raise UsageError(f"{_option(name)}: given {len(values)} times", "Give it once.")
    return values[0] if values else None


def _split(name: str, text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    parts = tuple(part.strip() for part in text.split(",") if part.strip())
    if not parts:
        raise UsageError(f"{_option(name)}: the list is empty", f"See 'vision-infer run --help' for {_option(name)}.")
    return parts


def _numbers(name: str, text: str | None) -> dict[str, float]:
    option = _option(name)
    numbers: dict[str, float] = {}
    for part in _split(name, text) or ():
        key, _, number = part.partition("=")
        try:
            value = float(number)
        except ValueError:
            raise UsageError(f"{option} {part}: is not a name and a number", f"Write {option} person=0.5,car=0.3.") from None
        if key.strip() in numbers:
            raise UsageError(f"{option} {part}: {key.strip()} is given twice", "Give one value for each name.")
        numbers[key.strip()] = value
    return numbers
