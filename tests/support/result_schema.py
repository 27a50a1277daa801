"""A row is what the schema says. The schema is looked at once: with each row that would take fifty times as long."""

from __future__ import annotations

from typing import Any

import jsonschema

from vision_infer.core.result import RESULT_SCHEMA

_VALIDATOR = jsonschema.Draft202012Validator(RESULT_SCHEMA)


def validate_row(row: Any) -> None:
    """Raise a ValidationError where a row is not as :data:`RESULT_SCHEMA` says."""
    _VALIDATOR.validate(row)
