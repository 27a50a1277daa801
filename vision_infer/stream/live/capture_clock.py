"""Estimates when each frame of a live stream was captured, from the arrival of its packets and their timestamps (PTS).

*Arrival.* The packet with the shortest delay relates the PTS to our clock: the minimum of (arrival − PTS) is kept, and a frame
was captured at its PTS plus this offset. Queueing in a network, a socket or a decoder therefore shows as age, although only
arrivals are measured. Since the camera's clock drifts against ours, the minimum rises by 200 parts per million, which is more
than the error of any quartz.

Some of FFmpeg's demuxers hold a packet back until the next one begins (RTSP with H.264 or H.265, and MPEG-TS: its parser must see
where a frame ends). There, the arrival of a packet is the time at which the read of the *previous* packet returned, because it
returned when this packet began to arrive.

*Settled or not.* The first packets may be a backlog of the server: they arrive faster than real time, and each lowers the
minimum. Until packets arrive at real-time pace, their age is unknown, but they are known to be old.

*The camera's clock.* If a stream carries the camera's own clock (RTCP sender reports, RFC 3550, section 6.4.1), it is used if it
runs steadily relative to the arrivals, and at most half a second before them.
"""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass
from typing import Literal

MS = 1_000_000
SECOND = 1_000_000_000

LEAK_PER_MILLION = 200
"""The rate at which the minimum rises, parts per million."""
_REAL_TIME_PACE = 0.75
"""The minimum ratio of arrival interval to PTS interval for packets in real time; faster packets are a backlog."""
_AT_PACE_NS = 60 * MS
"""The duration, in presentation time, of packets at that pace that ends a backlog; a backlog may pause once."""
_FELL_NS = 10 * MS
"""The maximum fall of the minimum that counts as jitter."""
_UNSETTLED_NS = 5 * SECOND
"""The maximum duration of a backlog. A stream that is still faster than real time has timestamps that run fast."""
_BACK_NS, _BACK_REORDERED_NS = 100 * MS, SECOND
"""The steps backwards that count as a jump: of the decoding time, and of the PTS, which goes back at each B-frame."""
_BLOCK_NS, _BLOCKS, _BLOCK_PACKETS = SECOND, 5, 3
_STEADY_NS = 10 * MS
_REBASE_NS = 20 * MS
"""A longer network path: if the minimum offsets of five consecutive blocks of one second, of packets that the reader waited for,
lie within ``_STEADY_NS`` of each other and more than ``_REBASE_NS`` above the minimum, they become the minimum. (With a sender
that is too slow, they would keep rising.)"""
_CAMERA_PACKETS, _MIN_CAMERA = 16, 8
_CAMERA_SPREAD_NS = 20 * MS
_CAMERA_PLAUSIBLE_NS = (-5 * MS, 500 * MS)
_PAUSE_INTERVALS, _PAUSE_NS = 3, 200 * MS
_AT_PACE = 2
"""The number of packets in a row at the stream's pace after which it is no longer behind."""
_AVERAGE = 0.05
_WAITED_NS = MS
"""The minimum duration of a read that had to wait for its packet."""

Clocks = Literal["arrival", "camera", "playout"]


@dataclass(frozen=True, slots=True)
class PacketTimes:
    """The times of a video packet."""

    read_ns: int
    """The time at which the read returned, monotonic."""
    waited_ns: int
    """The duration of the read."""
    pts_ns: int | None
    """The presentation time, nanoseconds from the stream's own zero."""
    dts_ns: int | None = None
    """The decoding time, in the same units."""
    camera_ns: int | None = None
    """The capture time by the camera's clock, converted to monotonic nanoseconds with our wall clock."""

    @property
    def waited(self) -> bool:
        """Whether the read had to wait for the packet. If so, no other packet was queued either."""
        return self.waited_ns >= _WAITED_NS


class CaptureClock:
    """Returns the capture time of each frame of one connection.

    Args:
        choice: The clock to use; ``auto`` uses the camera's clock if it is steady and plausible.
        held: The number of packets by which the demuxer delays its output.
        interval_ns: The frame interval that the stream announces; 0 if unknown. It is used for the first packets only.
    """

    def __init__(self, choice: Literal["auto", "arrival", "camera"] = "auto", held: int = 0, interval_ns: int = 0) -> None:
        self.clock_offset_ms: float | None = None
        """How far the camera's clock is behind the arrivals, milliseconds; None while it is unknown."""
        self._choice = choice
        self._held = held
        self._interval_ns = interval_ns
        self._earlier: deque[PacketTimes] = deque(maxlen=held)
        self._latest_dts: int | None = None
        self._offset_ns: int | None = None
        self._offset_is_provisional = False
        self._camera_offsets: deque[int] = deque(maxlen=_CAMERA_PACKETS)
        self._restart()

    @property
    def clock(self) -> Clocks:
        """The clock in use."""
        return "camera" if self._by_camera else "arrival"

    @property
    def settled(self) -> bool:
        """Whether ages are known. Until they are, packets arrive faster than real time and are old."""
        return self._settled or self._by_camera

    def packet(self, times: PacketTimes) -> None:
        """Add a packet, in order of arrival."""
        known = len(self._earlier) == self._held
        reads = (*self._earlier, times)
        self._earlier.append(times)
        if times.pts_ns is None:
            return
        # The camera restarted, or its stream did: nothing that was learned still holds.
        if self._jumped_back(times, times.pts_ns):
            self._restart()
        if times.dts_ns is not None:
            self._latest_dts = times.dts_ns
        # With `held` packets delayed, the first of these reads returned when this packet began to arrive, and the second when the
        # next one did. For the first packets, the arrival is computed from the frame interval, and replaced once it is known.
        begun_ns = reads[0].read_ns if known else times.read_ns - self._held * self._interval_ns
        pace_ns = reads[min(1, self._held) if known else 0].read_ns
        if known and self._offset_is_provisional:
            self._offset_ns = begun_ns - times.pts_ns
        self._offset_is_provisional = not known
        self._watch_arrival(times.pts_ns, begun_ns, pace_ns, known and reads[0].waited)
        self._watch_camera(times.pts_ns, times.camera_ns)

    def captured(self, pts_ns: int | None, read_ns: int) -> int:
        """Return when a frame was captured, monotonic nanoseconds; never after its packet was read.

        Args:
            pts_ns: The frame's PTS; None if it has none, in which case the frame counts as old as its packet.
            read_ns: The time at which its packet was read.
        """
        if pts_ns is None or self._offset_ns is None:
            return read_ns - self._held * self._interval_ns
        base = self._camera_ns if self._by_camera and self._camera_ns is not None else self._offset_ns
        return min(pts_ns + base, read_ns)

    def _restart(self) -> None:
        self._settled = False
        self._unsettled_since = 0
        self._at_pace_ns = 0
        self._runs_fast = False
        self._offset_ns = None
        self._offset_is_provisional = False
        self._seen_ns = 0  # the arrival up to which the rise of the offset is computed
        self._latest_pts = 0
        self._latest_read = 0
        self._latest_dts = None
        self._by_camera = False
        self._camera_ns: int | None = None
        self._camera_offsets.clear()
        self._blocks: deque[int] = deque(maxlen=_BLOCKS)
        self._block_since: int | None = None
        self._block_min = 0
        self._block_packets = 0

    def _jumped_back(self, times: PacketTimes, pts_ns: int) -> bool:
        """Return whether the stream's timestamps restarted."""
        if times.dts_ns is not None and self._latest_dts is not None:
            return times.dts_ns < self._latest_dts - _BACK_NS
        return self._offset_ns is not None and pts_ns < self._latest_pts - _BACK_REORDERED_NS

    def _watch_arrival(self, pts_ns: int, begun_ns: int, pace_ns: int, waited: bool) -> None:
        sample, offset = begun_ns - pts_ns, self._offset_ns
        if offset is None:
            self._offset_ns, self._seen_ns = sample, begun_ns
            self._latest_pts, self._latest_read, self._unsettled_since = pts_ns, pace_ns, pace_ns
            return
        # Let the minimum rise with the possible drift of the clocks, then take the new sample into account.
        offset += max(0, begun_ns - self._seen_ns) * LEAK_PER_MILLION // 1_000_000
        self._seen_ns = max(self._seen_ns, begun_ns)
        self._offset_ns = min(offset, sample)
        if pts_ns > self._latest_pts:  # B-frames go back in time and do not indicate the pace
            self._check_pace(pace_ns, pts_ns - self._latest_pts, offset - sample)
            self._latest_pts, self._latest_read = pts_ns, pace_ns
        self._check_path(begun_ns, sample, waited)

    def _check_pace(self, read_ns: int, advance_ns: int, fell_ns: int) -> None:
        """Update whether packets arrive in real time.

        Args:
            read_ns: The time at which a packet was read.
            advance_ns: Its distance from the previous packet, in presentation time.
            fell_ns: The amount by which it lowers the minimum; negative if it does not.
        """
        if self._runs_fast:
            return
        # In real time, until a packet lowers the minimum by more than jitter: then a backlog is arriving.
        if self._settled:
            if fell_ns > max((1 - _REAL_TIME_PACE) * advance_ns, _FELL_NS):
                self._settled, self._unsettled_since, self._at_pace_ns = False, read_ns, 0
        # In a backlog, until packets arrive at real-time pace for long enough.
        elif read_ns - self._latest_read >= _REAL_TIME_PACE * advance_ns:
            self._at_pace_ns += advance_ns
            self._settled = self._at_pace_ns >= _AT_PACE_NS
        # No backlog lasts this long: the timestamps run fast.
        elif read_ns - self._unsettled_since > _UNSETTLED_NS:
            self._settled = self._runs_fast = True
        else:
            self._at_pace_ns = 0

    def _check_path(self, now_ns: int, sample: int, waited: bool) -> None:
        """Raise the minimum if the network path has become longer: see ``_REBASE_NS``."""
        if self._block_since is None:
            self._block_since, self._block_packets = now_ns, 0
        if waited:
            self._block_min = min(self._block_min, sample) if self._block_packets else sample
            self._block_packets += 1
        lasted = now_ns - self._block_since
        if lasted < _BLOCK_NS or (self._block_packets < _BLOCK_PACKETS and lasted < _BLOCKS * _BLOCK_NS):
            return
        self._block_since = None
        if self._block_packets < _BLOCK_PACKETS:
            self._blocks.clear()  # the reader does not wait for packets: this is not the live edge
            return
        self._blocks.append(self._block_min)
        minimum = min(self._blocks)
        steady = len(self._blocks) == _BLOCKS and max(self._blocks) - minimum <= _STEADY_NS
        if steady and self._offset_ns is not None and minimum - self._offset_ns > _REBASE_NS:
            self._offset_ns = minimum
            self._camera_offsets.clear()

    def _watch_camera(self, pts_ns: int, camera_ns: int | None) -> None:
        if camera_ns is None or self._offset_ns is None:
            return
        self._camera_ns = camera_ns - pts_ns
        if self._settled:
            self._camera_offsets.append(self._offset_ns - self._camera_ns)
        steady = plausible = False
        if len(self._camera_offsets) >= _MIN_CAMERA:
            offset = statistics.median(self._camera_offsets)
            self.clock_offset_ms = offset / MS
            steady = max(self._camera_offsets) - min(self._camera_offsets) <= _CAMERA_SPREAD_NS
            plausible = _CAMERA_PLAUSIBLE_NS[0] <= offset <= _CAMERA_PLAUSIBLE_NS[1]
        self._by_camera = self._choice == "camera" or (self._choice == "auto" and steady and plausible)


class UntimedClock:
    """Returns capture times for a stream whose packets have no valid timestamps, such as MJPEG over HTTP.

    A packet that the reader waited for has just arrived. One that was already there followed the previous one at the stream's
    own pace. After a pause much longer than that, or if this process was too slow for as long, packets follow that pace too,
    until the reader waits for two in a row as long as the pace demands: a burst comes in pieces, with short waits between them.
    """

    settled = True
    clock: Clocks = "arrival"
    clock_offset_ms: float | None = None

    def __init__(self) -> None:
        self._read_ns: int | None = None
        self._captured_ns = 0
        self._interval_ns = 0.0
        """The average interval between packets that the reader waited for, nanoseconds; 0 until it is known."""
        self._at_pace = 0
        """The number of successive packets that arrived at the stream's pace or slower although they are behind it."""

    def packet(self, times: PacketTimes) -> None:
        """Add a packet, in order of arrival."""
        last, self._read_ns = self._read_ns, times.read_ns
        interval = self._interval_ns
        due = min(times.read_ns, self._captured_ns + round(interval))
        behind = interval and times.read_ns - due > _PAUSE_INTERVALS * interval + _PAUSE_NS
        self._at_pace = self._at_pace + 1 if behind and times.waited_ns >= _REAL_TIME_PACE * interval else 0
        if last is None or not interval or (times.waited and (not behind or self._at_pace >= _AT_PACE)):
            self._captured_ns = times.read_ns
            if last is not None and times.waited:
                gap = times.read_ns - last
                self._interval_ns += (gap - interval) * (_AVERAGE if interval else 1.0)
        else:
            self._captured_ns = due

    def captured(self, pts_ns: int | None, read_ns: int) -> int:  # noqa: ARG002 - the timestamps are not valid
        """Return when the frame of the last packet was captured, monotonic nanoseconds."""
        return min(self._captured_ns, read_ns)
