"""Return free memory to the operating system.

The C library (glibc) gives each thread its own heap, up to eight for each core, and keeps freed memory there. Every burst,
reconnection and snapshot enlarges another heap, so that the memory of a long-running service grows although it uses no more.
Therefore threads share few heaps here, and free memory is returned periodically.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from vision_infer.core.clock import SYSTEM_CLOCK, Clock

EVERY_NS = 20_000_000_000
MIN_HEAPS = 2
_M_ARENA_MAX = -8
"""The parameter number in glibc's malloc.h."""


def system_function(name: str) -> Callable[..., Any] | None:
    """Return a function of the C library; None if it does not exist, as in libraries other than glibc."""
    try:
        found: Callable[..., Any] | None = getattr(ctypes.CDLL(None), name, None)
    except (OSError, TypeError):  # no C library is available
        return None
    return found


def share_heaps(cores: int, mallopt: Callable[[int, int], object] | None) -> None:
    """Limit the number of heaps to one for each core; do nothing without the C library's ``mallopt``."""
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, max(MIN_HEAPS, cores))


class Heap:
    """Returns free memory with the C library's ``malloc_trim``, if there is one. The caller polls :meth:`trim_if_due`."""

    def __init__(self, trim: Callable[[int], object] | None, clock: Clock = SYSTEM_CLOCK) -> None:
        self._trim = trim
        self._clock = clock
        self._trimmed_ns = clock.monotonic_ns()

    def trim_if_due(self) -> None:
        """Return free memory if the last time is long enough ago; this takes a few milliseconds."""
        now = self._clock.monotonic_ns()
        if self._trim is not None and now - self._trimmed_ns >= EVERY_NS:
            self._trimmed_ns = now
            self._trim(0)
