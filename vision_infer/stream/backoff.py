"""The wait before a source is opened again: exponential back-off with full jitter.

Many cameras that disconnect together, because of a switch or a power cut, must not reconnect at the same time. Each wait is drawn
uniformly between zero and a ceiling that doubles:
https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
"""

from __future__ import annotations

import random
from collections.abc import Callable

FIRST_S, MAX_S = 0.5, 30.0
"""The first and the maximum ceiling after a disconnection, seconds."""
REFUSED_FIRST_S, REFUSED_MAX_S = 60.0, 300.0
"""The same after a refusal: repeated attempts with a wrong password would lock the camera's account."""


class Backoff:
    """Returns the next wait, and counts the attempts.

    Args:
        first_s: The ceiling of the first wait, seconds.
        max_s: The maximum ceiling, seconds.
        min_s: The minimum wait, seconds; at most ``first_s``.
        draw: Returns uniformly distributed numbers from 0 to 1.
    """

    def __init__(
        self,
        first_s: float = FIRST_S,
        max_s: float = MAX_S,
        min_s: float = 0.0,
        draw: Callable[[], float] = random.random,
    ) -> None:
        if not 0 <= min_s <= first_s <= max_s or first_s <= 0:
            raise ValueError(f"a back-off needs 0 <= min_s <= first_s <= max_s, got {min_s}, {first_s}, {max_s} s")
        self._first_s = first_s
        self._max_s = max_s
        self._min_s = min_s
        self._draw = draw
        self._ceiling_s = first_s

    def next_s(self) -> float:
        """Return the next wait in seconds, and double the ceiling."""
        ceiling = self._ceiling_s
        self._ceiling_s = min(2 * ceiling, self._max_s)
        return self._min_s + (ceiling - self._min_s) * self._draw()

    def reset(self) -> None:
        """Start again with the first ceiling, after a success."""
        self._ceiling_s = self._first_s


def after_refusals(
    first_s: float = REFUSED_FIRST_S, max_s: float = REFUSED_MAX_S, draw: Callable[[], float] = random.random
) -> Backoff:
    """Return the back-off for a source that refused the connection: each wait is at least the first one."""
    return Backoff(first_s, max_s, first_s, draw)
