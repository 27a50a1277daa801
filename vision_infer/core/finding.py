"""The findings of a check of this machine or of a camera: one line each, with what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["ok", "note", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("ok", "note", "warning", "error")
"""The severities, ascending: *note* is information, *warning* has a cost, *error* does not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The finding of one check."""

    area: str
    """The area: ``cpu``, ``memory``, ``gpu``, ``runtime``, ``codec``, ``package``, ``disk``, ``clock``, ``home``, ``preview``,
    ``network``, ``camera`` or ``sink``."""
    severity: Severity
    text: str
    """One line, without secrets."""
    hint: str = ""
    """What to do; empty if there is nothing to do."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The same for programs, as plain values."""


def worst(findings: Iterable[Finding]) -> Severity:
    """Return the highest severity; ``ok`` if there are no findings."""
    return max((finding.severity for finding in findings), key=SEVERITIES.index, default="ok")
