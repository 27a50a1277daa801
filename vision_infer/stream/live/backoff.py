"""How long to wait before a source is tried again: exponential back-off with full jitter.

Many cameras that were lost together (a switch, a power cut) shall not come back in step: each wait is drawn evenly from nothing
to a ceiling that doubles (`Exponential Backoff And Jitter`, AWS Architecture Blog, 2015).
"""

from __future__ import annotations

import random
from collections.abc import Callable

FIRST_S, LONGEST_S = 0.5, 30.0
"""after a disconnect"""
REFUSED_FIRST_S, REFUSED_LONGEST_S = 60.0, 300.0
"""after a refusal: a wrong password that is tried again and again locks the camera's account"""


class Backoff:
    """The next wait, and the one after it.

    Args:
        first_s: ceiling of the first wait, seconds.
        longest_s: no ceiling is higher, seconds.
        least_s: no wait is shorter, seconds; at most ``first_s``.
        draw: gives numbers from 0 to 1, evenly.
    """

    def __init__(
        self,
        first_s: float = FIRST_S,
        longest_s: float = LONGEST_S,
        least_s: float = 0.0,
        draw: Callable[[], float] = random.random,
    ) -> None:
        if not 0 <= least_s <= first_s <= longest_s or first_s <= 0:
            raise ValueError(f"a back-off needs 0 <= least <= first <= longest, got {least_s}, {first_s}, {longest_s} s")
        self._first_s = first_s
        self._longest_s = longest_s
        self._least_s = least_s
        self._draw = draw
        self._ceiling_s = first_s

    def next_s(self) -> float:
        """How long to wait now, seconds; the ceiling of the next wait is twice as high."""
        ceiling = self._ceiling_s
        self._ceiling_s = min(2 * ceiling, self._longest_s)
        return self._least_s + (ceiling - self._least_s) * self._draw()

    def reset(self) -> None:
        """It went well: the next wait is a first one."""
        self._ceiling_s = self._first_s


def after_refusals(
    first_s: float = REFUSED_FIRST_S, longest_s: float = REFUSED_LONGEST_S, draw: Callable[[], float] = random.random
) -> Backoff:
    """The long one, for a source that said no: never less than the first wait."""
    return Backoff(first_s, longest_s, first_s, draw)
