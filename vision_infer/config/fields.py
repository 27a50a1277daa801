"""Look up the fields and types of settings classes."""

from __future__ import annotations

from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import AliasChoices, BaseModel
from pydantic.fields import FieldInfo

Location = tuple[str | int, ...]
"""The location of a field: ``("streams", "front", "fps")``."""


def names_of(field_name: str, field: FieldInfo) -> tuple[str, ...]:
    """Return the names by which a field can be written, the usual one first."""
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        return tuple(choice for choice in alias.choices if isinstance(choice, str))
    return (alias,) if isinstance(alias, str) else (field_name,)


def fields_of(annotation: Any) -> dict[str, FieldInfo]:
    """Return the fields of a settings class by each of their names; empty for another type."""
    kind = unwrapped(annotation)
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return {}
    return {alias: field for name, field in kind.model_fields.items() for alias in names_of(name, field)}


def unwrapped(annotation: Any) -> Any:
    """Return a type without ``None`` and without its bounds."""
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin in (Union, UnionType):
            types = [part for part in get_args(annotation) if part is not NoneType]
            if len(types) != 1:
                return annotation
            annotation = types[0]
        else:
            return annotation


def may_be_none(annotation: Any) -> bool:
    """Return whether null is valid."""
    return get_origin(annotation) in (Union, UnionType) and NoneType in get_args(annotation)


def is_mapping(annotation: Any) -> bool:
    """Return whether the type is a mapping of names that the user chooses."""
    return get_origin(unwrapped(annotation)) is dict


def type_at(annotation: Any, location: Sequence[str | int]) -> Any:
    """Return the type of the field at a location; None if there is no such field."""
    for key in location:
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
    """Return the words of a ``Literal`` type; empty for another type."""
    kind = unwrapped(annotation)
    return tuple(str(word) for word in get_args(kind)) if get_origin(kind) is Literal else ()
