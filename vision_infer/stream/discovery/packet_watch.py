"""What packets tell of a stream while it is watched: rate, jitter, key frames, B-frames. What is kept of them is bounded."""

from __future__ import annotations

from collections import deque

from vision_infer.stream.live.capture_clock import SECOND, PacketTimes

_LATENESS_KEPT = 4096
_MIN_JITTER = 10
"""packets; fewer tell nothing of jitter"""
_PART_OF_JITTER = 0.95
_MIN_RATE = 4


class PacketWatch:
    """Looks at the packets of one connection, in the order in which they come.

    Args:
        all_key: no picture of this codec needs another.
        timed: packets carry times that mean something.
    """

    def __init__(self, all_key: bool, timed: bool) -> None:
        self.pictures = 0
        self.damaged = 0
        self.b_frames = False
        """whether a picture is shown before one that was sent earlier"""
        self.key_interval_frames: int | None = None
        """the longest between two key frames"""
        self.camera_clock = False
        self.first_read_ns = 0
        self._last_read_ns = 0
        self._all_key = all_key
        self._timed = timed
        self._bytes = 0
        self._first_pts: int | None = None
        self._most_pts = 0
        self._key_at: int | None = None
        self._key_read_ns = 0
        self._lateness: deque[int] = deque(maxlen=_LATENESS_KEPT)

    @property
    def watched_s(self) -> float:
        """From the first packet to the last, by our clock."""
        return (self._last_read_ns - self.first_read_ns) / SECOND

    @property
    def shown_ns(self) -> int:
        """From the first picture to the last, by their own times."""
        return 0 if self._first_pts is None else self._most_pts - self._first_pts

    def packet(self, size: int, key: bool, corrupt: bool, times: PacketTimes) -> None:
        """Take note of a packet of one picture.

        Args:
            size: bytes.
            key: whether it is a key frame.
            corrupt: whether it is marked as damaged.
            times: when it was read.
        """
        if not self.pictures:
            self.first_read_ns = times.read_ns
        self._last_read_ns = times.read_ns
        self._bytes += size
        self.damaged += corrupt
        self.camera_clock |= times.camera_ns is not None
        if key or self._all_key:
            if self._key_at is not None:
                self.key_interval_frames = max(self.key_interval_frames or 0, self.pictures - self._key_at)
            self._key_at, self._key_read_ns = self.pictures, times.read_ns
        self.pictures += 1
        if times.pts_ns is not None:
            self._presented(times.pts_ns, times)

    @property
    def rate(self) -> float | None:
        """Pictures a second, by the stream's times where it has any; None where too few came."""
        span_s = self._span_s
        return (self.pictures - 1) / span_s if span_s and self.pictures >= _MIN_RATE else None

    @property
    def bit_rate(self) -> float | None:
        """Bits a second, by the same times."""
        rate = self.rate
        return None if rate is None else self._bytes / self.pictures * rate * 8

    @property
    def key_interval_s(self) -> float | None:
        """The longest between two key frames, by the same times."""
        rate = self.rate
        return None if rate is None or self.key_interval_frames is None else self.key_interval_frames / rate

    @property
    def since_key_s(self) -> float | None:
        """From the last key frame to the last packet, by our clock; None where no key frame came."""
        return None if self._key_at is None else (self._last_read_ns - self._key_read_ns) / SECOND

    def jitter_ms(self) -> float | None:
        """How much later than the quickest most packets come; those that had waited before we asked are left out."""
        if len(self._lateness) < _MIN_JITTER:
            return None
        ordered = sorted(self._lateness)
        return (ordered[int(_PART_OF_JITTER * (len(ordered) - 1))] - ordered[0]) / 1e6

    def _presented(self, pts_ns: int, times: PacketTimes) -> None:
        if self._first_pts is None:
            self._first_pts = self._most_pts = pts_ns
        elif pts_ns < self._most_pts:
            self.b_frames = True
            return  # when it was sent says nothing of the network: others needed to be before it
        else:
            self._most_pts = pts_ns
        if times.waited:
            self._lateness.append(times.read_ns - pts_ns)

    @property
    def _span_s(self) -> float:
        return (self.shown_ns if self._timed and self.shown_ns else self._last_read_ns - self.first_read_ns) / SECOND
