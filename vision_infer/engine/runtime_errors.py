"""Summarizes errors of runtimes in one line; their own texts are pages with positions in the runtimes' sources."""

from __future__ import annotations

import re
from contextlib import suppress

_UNKNOWN_OPERATOR = (
    re.compile(r"No Op registered for (?P<name>\S+) with domain_version of (?P<set>\d+)"),
    re.compile(r"No conversion rule found for operations: (?P<name>[^\n]+)"),
)
_NEWER = re.compile(r"Opset (?P<given>\d+) is under development.*support for domain \S+ is till opset (?P<known>\d+)", re.S)


def summarize_error(error: BaseException) -> str:
    """Return the line that says what is wrong.

    Unknown operators and operator sets that are too new get a fixed sentence; otherwise it is the first line that says more than
    where in the runtime's sources the error was raised.
    """
    text = ""
    with suppress(Exception):  # an error whose own text fails
        text = str(error)
    for pattern in _UNKNOWN_OPERATOR:
        match = pattern.search(text)
        if match is not None:
            return f"the runtime does not support the operator {match['name']}"
    match = _NEWER.search(text)
    if match is not None:
        return f"the operator set {match['given']} is newer than the runtime supports ({match['known']})"
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text.strip())
    text = re.sub(r"^Load model from .*? failed:\s*", "", text)
    text = re.sub(r"^/\S+\.(?:cc|cpp|h):\d+ .*?\) (?=[A-Z])", "", text)  # file, line and signature
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    useful = [line for line in lines if not _is_position(line)]
    return (useful or lines or [type(error).__name__])[0]


def _is_position(line: str) -> bool:
    """Return whether a line says only where an error was raised, or that there was one."""
    starts = ("Exception from", "Check '", "FrontEnd API failed", "While validating", "Model wasn't fully converted", "-- ")
    return line.startswith(starts) or "Exception from" in line
