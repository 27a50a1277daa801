"""What settings may hold at a place, asked of their classes."""

from __future__ import annotations

from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import AliasChoices, BaseModel
from pydantic.fields import FieldInfo

Place = tuple[str | int, ...]
"""the way to a field: ``("streams", "front", "fps")``"""


def names_of(field_name: str, field: FieldInfo) -> tuple[str, ...]:
    """The names by which a field can be written, the usual one first."""
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        return tuple(choice for choice in alias.choices if isinstance(choice, str))
    return (alias,) if isinstance(alias, str) else (field_name,)


def fields_of(annotation: Any) -> dict[str, FieldInfo]:
    """The fields of a class of settings, under each of their names; empty for what is none."""
    kind = unwrapped(annotation)
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return {}
    return {alias: field for name, field in kind.model_fields.items() for alias in names_of(name, field)}


def unwrapped(annotation: Any) -> Any:
    """A type without what may be None beside it, and without its limits."""
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin in (Union, UnionType):
            some = [one for one in get_args(annotation) if one is not NoneType]
            if len(some) != 1:
                return annotation
            annotation = some[0]
        else:
            return annotation


def may_be_none(annotation: Any) -> bool:
    """Whether null can stand there."""
    return get_origin(annotation) in (Union, UnionType) and NoneType in get_args(annotation)


def is_mapping(annotation: Any) -> bool:
    """Whether names of the user's own stand below it."""
    return get_origin(unwrapped(annotation)) is dict


def type_at(annotation: Any, place: Sequence[str | int]) -> Any:
    """The type of what stands at a place; None where nothing can."""
    for key in place:
        kind = unwrapped(annotation)
        if is_mapping(kind):
            annotation = get_args(kind)[1]
        elif get_origin(kind) is tuple:
            annotation = get_args(kind)[0]
        else:
            field = fields_of(kind).get(str(key))
            if field is None:
                return None
            annotation = field.annotation
    return annotation


def choices(annotation: Any) -> tuple[str, ...]:
    """The words that can stand there; empty where it is not a matter of words."""
    kind = unwrapped(annotation)
    return tuple(str(one) for one in get_args(kind)) if get_origin(kind) is Literal else ()
