"""Waiting for what another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable

LIMIT_S = 60.0
"""The longest wait, on a busy machine, in seconds."""


def wait_until(
    condition: Callable[[], object], what: Callable[[], str] | str = "the condition", limit_s: float = LIMIT_S
) -> None:
    """Return as soon as the condition holds.

    Args:
        condition: Asked every few milliseconds.
        what: The condition in words, or a function that describes the state when time is up.
        limit_s: The longest wait in seconds.

    Raises:
        AssertionError: The condition did not hold within the limit.
    """
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit_s:g} s: {what if isinstance(what, str) else what()}"
        time.sleep(0.002)
