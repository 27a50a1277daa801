"""Memory that is free goes back to the system.

The C library (glibc) gives each thread a heap of its own, up to eight for each core, and keeps what was freed there. Every burst,
reconnect and snapshot leaves another of them larger than before: the memory of a service that runs for months grows for long,
though it uses no more. So threads share few heaps here, and what is free in them is given back now and then.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from vision_infer.core.clock import SYSTEM_CLOCK, Clock

EVERY_NS = 20_000_000_000
MIN_HEAPS = 2
_M_ARENA_MAX = -8
"""of glibc's malloc.h"""


def system_function(name: str) -> Callable[..., Any] | None:
    """A function of the C library; None where it has none of this name, as others than glibc."""
    try:
        found: Callable[..., Any] | None = getattr(ctypes.CDLL(None), name, None)
    except (OSError, TypeError):  # no C library that could be asked
        return None
    return found


def share_heaps(cores: int, mallopt: Callable[[int, int], object] | None) -> None:
    """Let the threads share a heap for each core, from now on.

    Args:
        cores: that may be used.
        mallopt: sets a parameter of the C library's; None: nothing is done.
    """
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, max(MIN_HEAPS, cores))


class Heap:
    """Gives memory back when it is time to. It is asked now and then; it has no thread.

    Args:
        trim: gives back all free memory but so many bytes at the top of the heap (``malloc_trim``); None: nothing is done.
        clock: tells the time.
    """

    def __init__(self, trim: Callable[[int], object] | None, clock: Clock = SYSTEM_CLOCK) -> None:
        self._trim = trim
        self._clock = clock
        self._trimmed_ns = clock.monotonic_ns()

    def look(self) -> None:
        """Give memory back, where that was not done for a while; it takes some milliseconds then."""
        now = self._clock.monotonic_ns()
        if self._trim is not None and now - self._trimmed_ns >= EVERY_NS:
            self._trimmed_ns = now
            self._trim(0)
