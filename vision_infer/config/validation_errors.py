"""What is wrong with settings, in words: where, what, and what was meant. All of it is told, not the first only.

A value is shown where it is a number that is out of bounds. Text never is: any text may hold a password.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from vision_infer.config.fields import Place, choices, fields_of, type_at
from vision_infer.config.yaml_lines import shown
from vision_infer.core.errors import UsageError

MAX_REPORTED = 10


@dataclass(frozen=True, slots=True)
class ValidationProblem:
    """One thing that is wrong."""

    place: Place
    """the field; empty where it is none"""
    message: str
    """what is wrong with it; holds no secret"""
    origin: str = ""
    """where it was written: ``cameras.yaml: line 12``, a variable, an option; may be empty"""
    line: int = 0
    """in its file, from 1; 0 where there is none"""

    @property
    def field(self) -> str:
        """The field as it is shown: ``streams.front.fps``."""
        return ".".join(map(shown, self.place))

    def __str__(self) -> str:
        return ": ".join(part for part in (self.origin, self.field, self.message) if part)


class SettingsError(UsageError):
    """Settings are wrong.

    Args:
        mistakes: at least one; the first ten are told.
        hint: what to do next.
    """

    def __init__(
        self, mistakes: Sequence[ValidationProblem], hint: str = "'vision-infer schema config' says what may stand where"
    ) -> None:
        self.mistakes = tuple(mistakes)
        told = [str(one) for one in self.mistakes[:MAX_REPORTED]]
        if len(self.mistakes) > MAX_REPORTED:
            told.append(f"and {len(self.mistakes) - MAX_REPORTED} more")
        super().__init__(told[0] if len(told) == 1 else f"{len(self.mistakes)} mistakes: {'; '.join(told)}", hint)


def mistakes_of(error: ValidationError, model: Any, hidden: Iterable[Place] = ()) -> list[ValidationProblem]:
    """The mistakes that validation has found, without their origin.

    Args:
        error: of pydantic.
        model: the class that was validated, for the names that were meant.
        hidden: places whose value came from elsewhere, and is not shown even where it is a number.
    """
    secret = set(hidden)
    found: list[ValidationProblem] = []
    for one in error.errors(include_url=False):
        place: Place = tuple(one["loc"])
        if place[-1:] == ("[key]",):
            found.append(ValidationProblem(place[:-1], _NAME_RULE))
            continue
        if one["type"] == "extra_forbidden" and one["input"] is None and not _close(place, model):
            # {url: rtsp://user:pass,word@host}: the comma ends the URL, and half a password becomes a name.
            found.append(ValidationProblem(place[:-1], "a field is unknown: a URL with a comma needs quotes"))
            continue
        message = _words(dict(one), model, place, any(place[:length] in secret for length in range(1, len(place) + 1)))
        if one["type"] == "value_error":  # of several fields together: the message begins with the one that it concerns
            word, colon, rest = message.partition(": ")
            parts = word.split(".")
            if colon and type_at(model, (*place, *parts)) is not None:
                place, message = (*place, *(int(part) if part.isdecimal() else part for part in parts)), rest
        found.append(ValidationProblem(place, message))
    return found


_NAME_RULE = "is no name: letters, digits, '.', '_', '-', at most 64, the first a letter or digit"


def _close(place: Place, model: Any) -> bool:
    return ": did you mean" in near(str(place[-1]), fields_of(type_at(model, place[:-1])))


def near(name: str, known: Iterable[str]) -> str:
    """`` : did you mean …?`` for a name that is not known; or the names there are."""
    there = list(dict.fromkeys(known))
    lower = {one.lower(): one for one in there}
    close = [lower[one] for one in difflib.get_close_matches(name.lower(), list(lower), 2, 0.55)]
    if close:
        return f": did you mean {' or '.join(close)}?"
    return f": there are {', '.join(map(shown, there[:12]))}{' …' if len(there) > 12 else ''}" if there else ""


_WORDS = {
    "missing": "is missing",
    "model_type": "must be a mapping of fields",
    "model_attributes_type": "must be a mapping of fields",
    "dict_type": "must be a mapping of names",
    "tuple_type": "must be a list",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "is too large",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text: a number or a word such as true needs quotes",
    "path_type": "must be the name of a file or folder",
    "string_pattern_mismatch": "has a form that cannot be meant",
}


def _words(one: dict[str, Any], model: Any, place: Place, hidden: bool) -> str:
    kind, context, value = one["type"], one.get("ctx", {}), one.get("input")
    if kind == "extra_forbidden":
        return "is unknown" + near(str(place[-1]), fields_of(type_at(model, place[:-1])))
    if kind == "missing":
        return "is missing"
    if kind == "literal_error":
        words = choices(type_at(model, place))
        close = difflib.get_close_matches(value.lower(), words, 1, 0.6) if isinstance(value, str) else []
        return f"must be {' or '.join(words)}" + (f": did you mean {close[0]}?" if close else "")
    if kind in ("too_short", "string_too_short") and "min_length" in context:
        least = context["min_length"]
        return "must not be empty" if least == 1 else f"must have at least {least} {_units(kind, one['msg'])}"
    if kind in ("too_long", "string_too_long") and "max_length" in context:
        return f"must have at most {context['max_length']} {_units(kind, one['msg'])}"
    message = _WORDS.get(kind) or one["msg"].removeprefix("Value error, ").replace("Input should ", "must ")
    if kind.startswith(("greater_than", "less_than")) and not hidden and _is_short_number(value):
        message += f", got {value}"
    return message


def _units(kind: str, message: str) -> str:
    # Pydantic counts the characters of a secret as items.
    return "characters" if kind.startswith("string") or message.startswith("Value should") else "items"


def _is_short_number(value: object) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**18)
