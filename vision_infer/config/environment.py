"""Settings from the environment: ``VISION_INFER_SERVICE__PORT=9000``, ``VISION_INFER_STREAMS__FRONT__FPS=5``.

Two underscores go one level down. Names are those of the file in capital letters; those of streams, zones and labels are compared
without regard to case, and ``-`` and ``.`` are underscores. A variable that is empty is as if it were not there.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from vision_infer.config.fields import Place, choices, fields_of, is_mapping, may_be_none, type_at, unwrapped
from vision_infer.config.validation_errors import ValidationProblem
from vision_infer.config.yaml_lines import YamlError, compose, plain, shown

PREFIX = "VISION_INFER_"
RESERVED = frozenset({"VISION_INFER_HOME"})
"""variables that are no settings of the file"""

_OF_KUBERNETES = re.compile(PREFIX + r"(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")
"""what Kubernetes, and Docker's links, set where a service is called vision-infer"""


@dataclass(frozen=True, slots=True)
class FromEnvironment:
    """A setting that was found."""

    variable: str
    place: Place
    value: Any

    def __repr__(self) -> str:
        return f"FromEnvironment({self.variable})"


class _UnknownError(Exception):
    """A name that is no setting's; says what was meant."""


def settings_in(
    environ: Mapping[str, str], model: Any, data: Mapping[str, Any]
) -> tuple[list[FromEnvironment], list[ValidationProblem]]:
    """The settings that the environment holds.

    Args:
        environ: the environment.
        model: the class of the whole file.
        data: what the file holds: its streams, zones and labels are those that can be named.

    Returns:
        (settings, mistakes).
    """
    found: list[FromEnvironment] = []
    mistakes: list[ValidationProblem] = []
    for variable in sorted(environ):
        text = environ[variable]
        if not variable.startswith(PREFIX) or variable in RESERVED or _OF_KUBERNETES.fullmatch(variable) or not text:
            continue
        parts = tuple(variable.removeprefix(PREFIX).split("__"))
        try:
            place = _place(parts, model, data)
            found.append(FromEnvironment(variable, place, _value(text, type_at(model, place))))
        except _UnknownError as error:
            mistakes.append(ValidationProblem((), f"is no setting: {error}", variable))
        except YamlError as error:
            mistakes.append(ValidationProblem((), error.message, variable))
    return found, mistakes


def _place(parts: tuple[str, ...], model: Any, data: Any) -> Place:
    place: list[str | int] = []
    annotation = model
    at = 0
    while at < len(parts):
        if is_mapping(annotation):
            names = [str(name) for name in data] if isinstance(data, Mapping) else []
            key, used = _longest(parts[at:], names)
        else:
            names = list(fields_of(annotation))
            key, used = _longest(parts[at : at + 1], names)
        if not key:
            raise _UnknownError(_meant(parts[at], names, parts[:at]))
        place.append(key)
        annotation = type_at(annotation, (key,))
        data = data.get(key) if isinstance(data, Mapping) else None
        at += used
    return tuple(place)


def _meant(part: str, names: list[str], before: tuple[str, ...]) -> str:
    known = {_normal(name): PREFIX + "__".join((*before, _normal(name).upper())) for name in names}
    close = difflib.get_close_matches(_normal(part), list(known), 2, 0.55)
    if close:
        return f"did you mean {' or '.join(known[one] for one in close)}?"
    level = PREFIX + "".join(f"{one}__" for one in before)
    return (
        f"after {level} comes {', '.join(one.upper() for one in list(known)[:12])}" if known else f"nothing comes after {level}"
    )


def _longest(parts: tuple[str, ...], names: list[str]) -> tuple[str, int]:
    """The name that the parts begin with, and how many of them it takes: a name may hold two underscores itself."""
    for used in range(len(parts), 0, -1):
        wanted = _normal("__".join(parts[:used]))
        same = [name for name in names if _normal(name) == wanted]
        if len(same) == 1:
            return same[0], used
        if same:
            raise _UnknownError(f"it could be {' or '.join(map(shown, same))}")
    return "", 0


def _normal(name: str) -> str:
    return re.sub(r"[^\w]", "_", name).lower()


def _value(text: str, annotation: Any) -> Any:
    kind = unwrapped(annotation)
    if kind in (str, SecretStr, Path) or choices(annotation):
        return None if text == "null" and may_be_none(annotation) else text
    node = compose(text)
    return None if node is None else plain(node)
