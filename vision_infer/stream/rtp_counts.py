"""What was received from a camera over RTP, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class RtpCounts:
    """What was received from one source."""

    received: int = 0
    """The packets that were passed on."""
    lost: int = 0
    """The packets that did not arrive in time."""
    late: int = 0
    """The packets that arrived after they had been counted as lost; they are not used."""
    reordered: int = 0
    """The packets that arrived after a later one, and were put in order."""
    duplicates: int = 0
    foreign: int = 0
    """The packets of another source or payload type, which were ignored."""
    damaged: int = 0
    """The packets that are not valid RTP."""
    restarts: int = 0
    """How often the numbers started again, with the same source or another one."""


@dataclass(slots=True)
class PictureCounts:
    """What became of the pictures of a stream."""

    whole: int = 0
    damaged: int = 0
    """The pictures of which a part is missing, including those of which nothing was left to give out."""
    cut: int = 0
    """The pictures that were given out as whole, but continued after their marker."""
    oversize: int = 0
    """The pictures that were dropped because they exceeded a limit."""
