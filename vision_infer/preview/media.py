"""An encoded frame packed for RTP, and the mapping from presentation time to RTP time (RFC 3550, RFC 6184)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

By = Literal["pts", "captured"]
"""The time that result rows are matched by: presentation time or capture time."""
CLOCK_RATE = 90_000
MASK = 0xFFFFFFFF
_LONGEST_GAP_NS = 10_000_000_000
"""A larger gap between presentation times starts a new mapping."""


@dataclass(frozen=True, slots=True)
class MediaImage:
    """One encoded frame; all viewers share its payloads."""

    bursts: tuple[tuple[bytes, ...], ...]
    """The RTP payloads, grouped by system call."""
    pts_ns: int
    """The presentation time as in result rows, in nanoseconds; the capture time if the stream has no presentation times."""
    captured_ns: int | None
    """The capture time, monotonic, in nanoseconds; None if unknown."""
    key: bool
    by: By
    """The time that result rows are matched by."""
    size: int
    """The size of all payloads in bytes."""


def ticks_of(pts_ns: int) -> int:
    """Return a presentation time in units of the 90 kHz RTP clock, not reduced to 32 bits."""
    return (pts_ns * 9 + 50_000) // 100_000


class Timeline:
    """Assigns RTP times that always increase, from a 32-bit origin, to the frames of one viewer."""

    def __init__(self, origin: int) -> None:
        self._next = origin
        self._offset: int | None = None
        self._last_pts: int | None = None
        self.last = origin
        """The RTP time of the last frame; it may exceed 32 bits."""
        self.restarted = False
        """Whether a new mapping began with the last frame."""

    def live(self, image: MediaImage, elapsed_ticks: int = CLOCK_RATE // 30) -> int:
        """Return the RTP time of the next live frame.

        Args:
            elapsed_ticks: The time since the previous frame, used if presentation times do not show it.
        """
        pts = image.pts_ns
        before = self._last_pts
        self.restarted = self._offset is None or before is None or not -1 < pts - before < _LONGEST_GAP_NS
        if self.restarted:
            self._offset = self.last + max(1, elapsed_ticks) - ticks_of(pts)
        assert self._offset is not None
        self.last = max(self.last + 1, self._offset + ticks_of(pts))
        self._last_pts = pts
        return self.last & MASK

    def compressed(self, pictures: int, interval_ticks: int) -> list[int]:
        """Return RTP times for a group of pictures that is sent at once, dense enough for live frames to continue after it.

        Args:
            pictures: The number of frames in the group, without the newest.
        """
        step = max(1, min(CLOCK_RATE // 1000, interval_ticks * 3 // 4 // (pictures + 1)))
        times = [(self.last + step * (number + 1)) & MASK for number in range(pictures)]
        self.last += step * pictures
        return times
