"""The first problem of data that pydantic rejected, in the words of this package."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

_WORDS = {"missing": "is missing", "extra_forbidden": "is unknown"}


def field_problem(error: ValidationError, whole: str) -> str:
    """Return the first wrong field and its problem; ``whole`` names the data if the problem concerns no field."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or whole
    problem = first["msg"].removeprefix("Value error, ").replace("Input should ", "must ")
    return f"field '{field}': {_WORDS.get(first['type'], problem)}"
