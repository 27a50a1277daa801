"""What runtimes say when they fail, as a line for people: theirs are pages with places in their own sources."""

from __future__ import annotations

import re
from contextlib import suppress

_UNKNOWN_OPERATOR = (
    re.compile(r"No Op registered for (?P<name>\S+) with domain_version of (?P<set>\d+)"),
    re.compile(r"No conversion rule found for operations: (?P<name>[^\n]+)"),
)
_NEWER = re.compile(r"Opset (?P<given>\d+) is under development.*support for domain \S+ is till opset (?P<known>\d+)", re.S)


def told(error: BaseException) -> str:
    """The line that says what is wrong.

    Operators that the runtime does not know, and operator sets that it is too old for, are told in words of ours; else it is the
    first line that says more than where in the runtime's sources it was noticed.
    """
    text = ""
    with suppress(Exception):  # an error whose own text fails
        text = str(error)
    for pattern in _UNKNOWN_OPERATOR:
        match = pattern.search(text)
        if match is not None:
            return f"it has an operator that the runtime does not know: {match['name']}"
    match = _NEWER.search(text)
    if match is not None:
        return f"its operator set {match['given']} is newer than the runtime knows ({match['known']})"
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text.strip())
    text = re.sub(r"^Load model from .*? failed:\s*", "", text)
    text = re.sub(r"^/\S+\.(?:cc|cpp|h):\d+ .*?\) (?=[A-Z])", "", text)  # file, line and signature
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    useful = [line for line in lines if not _only_where(line)]
    return (useful or lines or [type(error).__name__])[0]


def _only_where(line: str) -> bool:
    """Whether a line tells only where it was noticed, or that something went wrong at all."""
    where = ("Exception from", "Check '", "FrontEnd API failed", "While validating", "Model wasn't fully converted", "-- ")
    return line.startswith(where) or "Exception from" in line
