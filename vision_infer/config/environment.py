"""Settings from the environment: ``VISION_INFER_SERVICE__PORT=9000``, ``VISION_INFER_STREAMS__FRONT__FPS=5``.

Two underscores separate levels. Names are those of the file in upper case. Names of streams, zones and labels are compared
case-insensitively, and ``-`` and ``.`` become underscores. Empty variables are ignored.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from vision_infer.config.fields import Location, choices, fields_of, is_mapping, may_be_none, type_at, unwrapped
from vision_infer.config.validation_errors import ValidationProblem
from vision_infer.config.yaml_lines import YamlError, compose, plain, shown

PREFIX = "VISION_INFER_"
RESERVED = frozenset({"VISION_INFER_HOME"})
"""Variables that are not settings of the file."""

_OF_KUBERNETES = re.compile(PREFIX + r"(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")
"""Variables that Kubernetes and Docker links set for a service named vision-infer."""


@dataclass(frozen=True, slots=True)
class FromEnvironment:
    """A setting from an environment variable."""

    variable: str
    location: Location
    value: Any

    def __repr__(self) -> str:
        return f"FromEnvironment({self.variable})"


class _UnknownError(Exception):
    """A name is not a setting; the message suggests one."""


def settings_in(
    environ: Mapping[str, str], model: Any, data: Mapping[str, Any]
) -> tuple[list[FromEnvironment], list[ValidationProblem]]:
    """Read the settings in the environment.

    Returns:
        (settings, problems).
    """
    found: list[FromEnvironment] = []
    problems: list[ValidationProblem] = []
    for variable in sorted(environ):
        text = environ[variable]
        if not variable.startswith(PREFIX) or variable in RESERVED or _OF_KUBERNETES.fullmatch(variable) or not text:
            continue
        parts = tuple(variable.removeprefix(PREFIX).split("__"))
        try:
            location = _location(parts, model, data)
            found.append(FromEnvironment(variable, location, _value(text, type_at(model, location))))
        except _UnknownError as error:
            problems.append(ValidationProblem((), f"is not a setting: {error}", variable))
        except YamlError as error:
            problems.append(ValidationProblem((), error.message, variable))
    return found, problems


def _location(parts: tuple[str, ...], model: Any, data: Any) -> Location:
    location: list[str | int] = []
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
            raise _UnknownError(_suggestion(parts[at], names, parts[:at]))
        location.append(key)
        annotation = type_at(annotation, (key,))
        data = data.get(key) if isinstance(data, Mapping) else None
        at += used
    return tuple(location)


def _suggestion(part: str, names: list[str], before: tuple[str, ...]) -> str:
    known = {_normal(name): PREFIX + "__".join((*before, _normal(name).upper())) for name in names}
    close = difflib.get_close_matches(_normal(part), list(known), 2, 0.55)
    if close:
        return f"did you mean {' or '.join(known[name] for name in close)}?"
    level = PREFIX + "".join(f"{name}__" for name in before)
    return (
        f"valid names after {level} are {', '.join(name.upper() for name in list(known)[:12])}"
        if known
        else f"{level} has no fields"
    )


def _longest(parts: tuple[str, ...], names: list[str]) -> tuple[str, int]:
    """Return the name at the start of the parts, and its number of parts: a name may itself contain two underscores."""
    for used in range(len(parts), 0, -1):
        wanted = _normal("__".join(parts[:used]))
        same = [name for name in names if _normal(name) == wanted]
        if len(same) == 1:
            return same[0], used
        if same:
            raise _UnknownError(f"is ambiguous: it could be {' or '.join(map(shown, same))}")
    return "", 0


def _normal(name: str) -> str:
    return re.sub(r"[^\w]", "_", name).lower()


def _value(text: str, annotation: Any) -> Any:
    kind = unwrapped(annotation)
    if kind in (str, SecretStr, Path) or choices(annotation):
        return None if text == "null" and may_be_none(annotation) else text
    node = compose(text)
    return None if node is None else plain(node)
