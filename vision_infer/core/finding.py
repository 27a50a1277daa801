"""What a look at this machine, or at a camera, has found: one line each, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["ok", "note", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("ok", "note", "warning", "error")
"""ascending: *note* is worth knowing, *warning* will cost something, *error* does not work"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found."""

    area: str
    """what it is of: ``cpu``, ``memory``, ``gpu``, ``runtime``, ``codec``, ``package``, ``disk``, ``clock``, ``home`` or
    ``camera``"""
    severity: Severity
    text: str
    """one line, without secrets"""
    hint: str = ""
    """what to do; empty where there is nothing to be done"""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """the same for programs; plain values"""


def worst(findings: Iterable[Finding]) -> Severity:
    """The highest severity; ``ok`` of nothing."""
    return max((one.severity for one in findings), key=SEVERITIES.index, default="ok")
