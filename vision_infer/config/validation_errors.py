"""Describe invalid settings: the location, the problem and a suggestion. All problems are reported, not just the first.

Messages contain numbers that are out of bounds, but never text, because any text may be a password.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from vision_infer.config.fields import Location, choices, fields_of, type_at
from vision_infer.config.yaml_lines import shown
from vision_infer.core.errors import UsageError

MAX_REPORTED = 10


@dataclass(frozen=True, slots=True)
class ValidationProblem:
    """One problem of the settings."""

    location: Location
    """The field; empty if it concerns no field."""
    message: str
    """The problem; contains no secret."""
    origin: str = ""
    """The origin of the value: ``cameras.yaml: line 12``, a variable or an option; may be empty."""
    line: int = 0
    """The line in its file, from 1; 0 if there is none."""

    @property
    def field(self) -> str:
        """The field as it is displayed: ``streams.front.fps``."""
        return ".".join(map(shown, self.location))

    def __str__(self) -> str:
        if self.origin.startswith("URL ") and self.location[-1:] == ("detect",):  # an argument of the command line has no field
            return f"{self.origin} {self.message}"
        return ": ".join(part for part in (self.origin, self.field, self.message) if part)


class SettingsError(UsageError):
    """The settings are invalid.

    Args:
        problems: At least one; the message lists the first ten.
        hint: What to do next.
    """

    def __init__(
        self, problems: Sequence[ValidationProblem], hint: str = "Run 'vision-infer schema config' for the valid fields."
    ) -> None:
        self.problems = tuple(problems)
        texts = [str(problem) for problem in self.problems[:MAX_REPORTED]]
        if len(self.problems) > MAX_REPORTED:
            texts.append(f"and {len(self.problems) - MAX_REPORTED} more")
        super().__init__(texts[0] if len(texts) == 1 else f"{len(self.problems)} problems: {'; '.join(texts)}", hint)


def problems_of(error: ValidationError, model: Any, hidden: Iterable[Location] = ()) -> list[ValidationProblem]:
    """Convert the errors of a validation to problems, without their origin.

    Args:
        error: The error of pydantic.
        model: The class that was validated, for suggestions.
        hidden: The locations whose value came from a reference and is never displayed.
    """
    secret = set(hidden)
    found: list[ValidationProblem] = []
    for item in error.errors(include_url=False):
        location: Location = tuple(item["loc"])
        if location[-1:] == ("[key]",):
            found.append(ValidationProblem(location[:-1], _NAME_RULE))
            continue
        if item["type"] == "extra_forbidden" and item["input"] is None and not _close(location, model):
            # {url: rtsp://user:pass,word@host}: the comma ends the URL, and half a password becomes a name.
            found.append(ValidationProblem(location[:-1], "contains an unknown field; a URL with a comma needs quotes"))
            continue
        message = _words(dict(item), model, location, any(location[:length] in secret for length in range(1, len(location) + 1)))
        if item["type"] == "value_error":  # concerns several fields: the message starts with the field
            word, colon, rest = message.partition(": ")
            parts = word.split(".")
            if colon and type_at(model, (*location, *parts)) is not None:
                location, message = (*location, *(int(part) if part.isdecimal() else part for part in parts)), rest
        found.append(ValidationProblem(location, message))
    return found


_NAME_RULE = "is not a valid name; use letters, digits, '.', '_', '-', at most 64, the first a letter or digit"


def _close(location: Location, model: Any) -> bool:
    return ": did you mean" in near(str(location[-1]), fields_of(type_at(model, location[:-1])))


def near(name: str, known: Iterable[str]) -> str:
    """Return a suggestion for an unknown name, ``: did you mean …?``, or the list of valid names."""
    names = list(dict.fromkeys(known))
    lower = {known_name.lower(): known_name for known_name in names}
    close = [lower[match] for match in difflib.get_close_matches(name.lower(), list(lower), 2, 0.55)]
    if close:
        return f": did you mean {' or '.join(close)}?"
    return f"; the valid names are {', '.join(map(shown, names[:12]))}{' …' if len(names) > 12 else ''}" if names else ""


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
    "string_type": "must be text; quote a number or a word such as true",
    "path_type": "must be the name of a file or folder",
    "string_pattern_mismatch": "has an invalid format",
}


def _words(item: dict[str, Any], model: Any, location: Location, hidden: bool) -> str:
    kind, context, value = item["type"], item.get("ctx", {}), item.get("input")
    if kind == "extra_forbidden":
        return "is unknown" + near(str(location[-1]), fields_of(type_at(model, location[:-1])))
    if kind == "missing":
        return "is missing"
    if kind == "literal_error":
        words = choices(type_at(model, location))
        close = difflib.get_close_matches(value.lower(), words, 1, 0.6) if isinstance(value, str) else []
        return f"must be {' or '.join(words)}" + (f": did you mean {close[0]}?" if close else "")
    if kind in ("too_short", "string_too_short") and "min_length" in context:
        minimum = context["min_length"]
        return "must not be empty" if minimum == 1 else f"must have at least {minimum} {_units(kind, item['msg'])}"
    if kind in ("too_long", "string_too_long") and "max_length" in context:
        return f"must have at most {context['max_length']} {_units(kind, item['msg'])}"
    message = _WORDS.get(kind) or item["msg"].removeprefix("Value error, ").replace("Input should ", "must ")
    if kind.startswith(("greater_than", "less_than")) and not hidden and _is_short_number(value):
        message += f", got {value}"
    return message


def _units(kind: str, message: str) -> str:
    # Pydantic counts the characters of a secret as items.
    return "characters" if kind.startswith("string") or message.startswith("Value should") else "items"


def _is_short_number(value: object) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**18)
