"""A coded picture ready for RTP, and the line from presentation time to RTP time (RFC 3550, RFC 6184)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

By = Literal["pts", "captured"]
"""what result rows are matched by: their presentation time, or when their picture was taken"""
CLOCK_RATE = 90_000
MASK = 0xFFFFFFFF
_LONGEST_GAP_NS = 10_000_000_000
"""presentation times that are further apart belong to different lines"""


@dataclass(frozen=True, slots=True)
class MediaImage:
    """One picture for all viewers: the payloads are the same for each."""

    bursts: tuple[tuple[bytes, ...], ...]
    """the RTP payloads, by those that are sent together"""
    pts_ns: int
    """presentation time as result rows have it; where there is none, when the picture was taken"""
    captured_ns: int | None
    """when it was taken, monotonic; None where it is not known"""
    key: bool
    by: By
    """what result rows are matched by"""
    size: int
    """bytes of the payloads"""


def ticks_of(pts_ns: int) -> int:
    """Presentation time in units of the RTP clock; not cut to 32 bits."""
    return (pts_ns * 9 + 50_000) // 100_000


class Timeline:
    """Gives the pictures for one viewer RTP times that only go on, whatever presentation times do.

    Args:
        origin: RTP time at which it begins, 32 bits.
    """

    def __init__(self, origin: int) -> None:
        self._next = origin
        self._offset: int | None = None
        self._last_pts: int | None = None
        self.last = origin
        """of the picture that was sent last; may be more than 32 bits"""
        self.turned = False
        """the line has begun, or begun anew, with the last picture"""

    def live(self, image: MediaImage, elapsed_ticks: int = CLOCK_RATE // 30) -> int:
        """The RTP time of a picture that follows the others.

        Args:
            picture: the picture.
            elapsed_ticks: what has passed since the last one, where presentation times do not tell.
        """
        pts = image.pts_ns
        before = self._last_pts
        self.turned = self._offset is None or before is None or not -1 < pts - before < _LONGEST_GAP_NS
        if self.turned:
            self._offset = self.last + max(1, elapsed_ticks) - ticks_of(pts)
        assert self._offset is not None
        self.last = max(self.last + 1, self._offset + ticks_of(pts))
        self._last_pts = pts
        return self.last & MASK

    def compressed(self, pictures: int, interval_ticks: int) -> list[int]:
        """RTP times for a group that is sent (again) at once, so that what is live goes on behind it.

        Args:
            pictures: how many they are, without the newest.
            interval_ticks: between two pictures of the stream.
        """
        step = max(1, min(CLOCK_RATE // 1000, interval_ticks * 3 // 4 // (pictures + 1)))
        times = [(self.last + step * (number + 1)) & MASK for number in range(pictures)]
        self.last += step * pictures
        return times
