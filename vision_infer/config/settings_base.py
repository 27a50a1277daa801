"""The base class of all settings that a user writes."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class SettingsBase(BaseModel):
    """Settings are checked once and do not change. Errors never repeat the input, which may contain a password."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        populate_by_name=True,
        hide_input_in_errors=True,
        protected_namespaces=(),
    )
