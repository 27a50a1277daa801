"""Measures a stream from its packets: rate, jitter, key frames, B-frames. Its memory is bounded."""

from __future__ import annotations

from collections import deque

import av
from av.packet import Packet
from av.video.stream import VideoStream

from vision_infer.stream.live.capture_clock import SECOND, PacketTimes

_LATENESS_KEPT = 4096
_MIN_JITTER = 10
"""The minimum number of packets for a measurement of jitter."""
_JITTER_QUANTILE = 0.95
_MIN_RATE = 4


class PacketWatch:
    """Measures the packets of one connection, in order of arrival.

    Args:
        all_key: Whether no frame of this codec references another.
        timed: Whether the packets have valid timestamps.
    """

    def __init__(self, all_key: bool, timed: bool) -> None:
        self.frames = 0
        self.damaged = 0
        self.b_frames = False
        """Whether a frame is presented before one that was sent earlier."""
        self.key_interval_frames: int | None = None
        """The longest interval between two key frames, in frames."""
        self.camera_clock = False
        self.first_read_ns = 0
        self._last_read_ns = 0
        self._all_key = all_key
        self._timed = timed
        self._bytes = 0
        self._first_pts: int | None = None
        self._max_pts = 0
        self._key_at: int | None = None
        self._key_read_ns = 0
        self._lateness: deque[int] = deque(maxlen=_LATENESS_KEPT)

    @property
    def watched_s(self) -> float:
        """The time from the first to the last packet, by our clock, seconds."""
        return (self._last_read_ns - self.first_read_ns) / SECOND

    @property
    def duration_ns(self) -> int:
        """The time from the first to the last frame, by their timestamps, nanoseconds."""
        return 0 if self._first_pts is None else self._max_pts - self._first_pts

    def packet(self, size: int, key: bool, corrupt: bool, times: PacketTimes) -> None:
        """Add the packet of a frame: its size in bytes, whether it is a key frame or marked as damaged, and its times."""
        if not self.frames:
            self.first_read_ns = times.read_ns
        self._last_read_ns = times.read_ns
        self._bytes += size
        self.damaged += corrupt
        self.camera_clock |= times.camera_ns is not None
        if key or self._all_key:
            if self._key_at is not None:
                self.key_interval_frames = max(self.key_interval_frames or 0, self.frames - self._key_at)
            self._key_at, self._key_read_ns = self.frames, times.read_ns
        self.frames += 1
        if times.pts_ns is not None:
            self._presented(times.pts_ns, times)

    def decode(self, packet: Packet[VideoStream]) -> list[av.VideoFrame]:
        """Decode a packet, and count it as damaged if this fails."""
        try:
            return list(packet.decode())
        except EOFError:  # the decoder was flushed already
            return []
        except av.error.FFmpegError:
            self.damaged += 1
            return []

    @property
    def rate(self) -> float | None:
        """The frame rate in frames/s, by the stream's timestamps if it has any; None if too few frames arrived."""
        span_s = self._span_s
        return (self.frames - 1) / span_s if span_s and self.frames >= _MIN_RATE else None

    @property
    def bit_rate(self) -> float | None:
        """The bit rate in bits per second, by the same times."""
        rate = self.rate
        return None if rate is None else self._bytes / self.frames * rate * 8

    @property
    def key_interval_s(self) -> float | None:
        """The longest interval between two key frames in seconds, by the same times."""
        rate = self.rate
        return None if rate is None or self.key_interval_frames is None else self.key_interval_frames / rate

    @property
    def since_key_s(self) -> float | None:
        """The time from the last key frame to the last packet, by our clock, seconds; None if no key frame arrived."""
        return None if self._key_at is None else (self._last_read_ns - self._key_read_ns) / SECOND

    def jitter_ms(self) -> float | None:
        """Return the 95th percentile of the delay relative to the fastest packet, of packets that the reader waited for."""
        if len(self._lateness) < _MIN_JITTER:
            return None
        ordered = sorted(self._lateness)
        return (ordered[int(_JITTER_QUANTILE * (len(ordered) - 1))] - ordered[0]) / 1e6

    def _presented(self, pts_ns: int, times: PacketTimes) -> None:
        if self._first_pts is None:
            self._first_pts = self._max_pts = pts_ns
        elif pts_ns < self._max_pts:
            self.b_frames = True
            return  # its time of sending does not show the network's delay: frames that it references were sent first
        else:
            self._max_pts = pts_ns
        if times.waited:
            self._lateness.append(times.read_ns - pts_ns)

    @property
    def _span_s(self) -> float:
        return (self.duration_ns if self._timed and self.duration_ns else self._last_read_ns - self.first_read_ns) / SECOND
