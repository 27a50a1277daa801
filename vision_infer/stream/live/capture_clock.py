"""When was a picture taken? Of a live stream we see the arrival of its packets and their timestamps (PTS).

*Arrival.* The packet that came through fastest says how PTS and our clock belong together: the least of (arrival − PTS) is kept,
and a picture was taken at its PTS plus that. What waited before us, in a network, a socket or a decoder, so shows as age, though
we only ever see arrivals. Since a camera's clock is not ours, the minimum leaks upwards by 200 parts in a million, which is
more than any quartz is off.

Some demuxers hold a packet back until the next one begins (RTSP with H.264 or H.265, MPEG-TS: libavformat's parser has to see
where a picture ends). There a packet's own arrival is taken from the read of the packet *before* it, which returned when this
one began to arrive.

*Settled or not.* The first packets may be a backlog that the server had kept: they come faster than real time, and each lowers
the minimum. Until packets come at real-time pace nothing is known of their age, but that they are old.

*The camera.* Where a stream carries the camera's own clock (RTCP sender reports), it counts if it runs steadily beside the
arrivals, and no more than half a second before them.
"""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass
from typing import Literal

MS = 1_000_000
SECOND = 1_000_000_000

LEAK_PER_MILLION = 200
"""so fast may the minimum rise"""
_REAL_TIME_PACE = 0.75
"""packets that come at this part of the pace of their PTS, or slower, are no backlog"""
_AT_PACE_NS = 60 * MS
"""so long, in presentation time, they have to come at that pace: a backlog may falter once"""
_FELL_NS = 10 * MS
"""a minimum that falls by less is jitter"""
_UNSETTLED_NS = 5 * SECOND
"""no backlog lasts longer: a stream that is still faster than real time has timestamps that run fast"""
_BACK_NS, _BACK_REORDERED_NS = 100 * MS, SECOND
"""timestamps that go back so far have jumped: in decoding order; in presentation order, where B-frames go back all the time"""
_BLOCK_NS, _BLOCKS, _BLOCK_PACKETS = SECOND, 5, 3
_STEADY_NS = 10 * MS
_REBASE_NS = 20 * MS
"""where the least offsets of so many blocks of a second, each of packets that we had to wait for, are so close together and all
so far above the minimum, the way has become longer: that is the new minimum. A sender that is too slow gets later and later"""
_CAMERA_PACKETS, _MIN_CAMERA = 16, 8
_CAMERA_SPREAD_NS = 20 * MS
_CAMERA_PLAUSIBLE_NS = (-5 * MS, 500 * MS)
_PAUSE_INTERVALS, _PAUSE_NS = 3, 200 * MS
_AVERAGE = 0.05
_WAITED_NS = MS
"""a read that took so long found nothing there"""

Clocks = Literal["arrival", "camera", "playout"]


@dataclass(frozen=True, slots=True)
class PacketTimes:
    """A packet of video as it was read."""

    read_ns: int
    """when the read returned, monotonic"""
    waited_ns: int
    """how long the read took"""
    pts_ns: int | None
    """presentation time, nanoseconds from the stream's own zero"""
    dts_ns: int | None = None
    """decoding time"""
    camera_ns: int | None = None
    """when it was taken by the camera's clock, set over into monotonic nanoseconds by our own wall clock"""

    @property
    def waited(self) -> bool:
        """Whether it was not there yet when we asked: then nothing else waited before us either."""
        return self.waited_ns >= _WAITED_NS


class CaptureClock:
    """Tells for each picture of one connection when it was taken.

    Args:
        choice: which clock counts; ``auto`` takes the camera's where it is steady and plausible.
        held: a packet comes out when the packet so many after it begins to arrive; 0: when it has arrived itself.
        interval_ns: between two frames, as the stream says; 0 if unknown. It is needed for the first packets only.
    """

    def __init__(self, choice: Literal["auto", "arrival", "camera"] = "auto", held: int = 0, interval_ns: int = 0) -> None:
        self.clock_offset_ms: float | None = None
        """how far the camera's clock is behind the arrivals; None where it tells none yet"""
        self._choice = choice
        self._held = held
        self._interval_ns = interval_ns
        self._earlier: deque[PacketTimes] = deque(maxlen=held)
        self._latest_dts: int | None = None
        self._offset_ns: int | None = None
        self._offset_is_guessed = False
        self._camera_offsets: deque[int] = deque(maxlen=_CAMERA_PACKETS)
        self._restart()

    @property
    def clock(self) -> Clocks:
        """Which clock counts now."""
        return "camera" if self._by_camera else "arrival"

    @property
    def settled(self) -> bool:
        """Whether ages are known; while they are not, packets come faster than real time and are old."""
        return self._settled or self._by_camera

    def packet(self, times: PacketTimes) -> None:
        """A packet was read; in the order in which they come."""
        known = len(self._earlier) == self._held
        reads = (*self._earlier, times)
        self._earlier.append(times)
        if times.pts_ns is None:
            return
        if self._jumped_back(times, times.pts_ns):
            self._restart()
        if times.dts_ns is not None:
            self._latest_dts = times.dts_ns
        # At the first of these reads this one began to arrive, and at the second the one after it.
        begun_ns = reads[0].read_ns if known else times.read_ns - self._held * self._interval_ns
        pace_ns = reads[min(1, self._held) if known else 0].read_ns
        if known and self._offset_is_guessed:
            self._offset_ns = begun_ns - times.pts_ns
        self._offset_is_guessed = not known
        self._watch_arrival(times.pts_ns, begun_ns, pace_ns, known and reads[0].waited)
        self._watch_camera(times.pts_ns, times.camera_ns)

    def captured(self, pts_ns: int | None, read_ns: int) -> int:
        """When a picture was taken, monotonic nanoseconds; never after its packet was read.

        Args:
            pts_ns: of the picture; None where it has none: then it is taken to be as old as its packet.
            read_ns: when its packet was read.
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
        self._offset_is_guessed = False
        self._seen_ns = 0  # when the offset was last looked at
        self._latest_pts = 0
        self._latest_read = 0
        self._latest_dts = None
        self._by_camera = False
        self._camera_ns: int | None = None
        self._camera_offsets.clear()
        self._blocks: deque[int] = deque(maxlen=_BLOCKS)
        self._block_since: int | None = None
        self._block_least = 0
        self._block_packets = 0

    def _jumped_back(self, times: PacketTimes, pts_ns: int) -> bool:
        """Whether the stream's time began anew."""
        if times.dts_ns is not None and self._latest_dts is not None:
            return times.dts_ns < self._latest_dts - _BACK_NS
        return self._offset_ns is not None and pts_ns < self._latest_pts - _BACK_REORDERED_NS

    def _watch_arrival(self, pts_ns: int, begun_ns: int, pace_ns: int, waited: bool) -> None:
        sample, offset = begun_ns - pts_ns, self._offset_ns
        if offset is None:
            self._offset_ns, self._seen_ns = sample, begun_ns
            self._latest_pts, self._latest_read, self._unsettled_since = pts_ns, pace_ns, pace_ns
            return
        offset += max(0, begun_ns - self._seen_ns) * LEAK_PER_MILLION // 1_000_000
        self._seen_ns = max(self._seen_ns, begun_ns)
        self._offset_ns = min(offset, sample)
        if pts_ns > self._latest_pts:  # B-frames, which go back, say nothing of the pace
            self._judge_pace(pace_ns, pts_ns - self._latest_pts, offset - sample)
            self._latest_pts, self._latest_read = pts_ns, pace_ns
        self._watch_edge(begun_ns, sample, waited)

    def _judge_pace(self, read_ns: int, advance_ns: int, fell_ns: int) -> None:
        """See whether packets come in real time.

        Args:
            read_ns: when a packet was read.
            advance_ns: since the packet before it, in presentation time.
            fell_ns: by how much it lowers the minimum; negative if it does not.
        """
        if self._runs_fast:
            return
        if self._settled:
            if fell_ns > max((1 - _REAL_TIME_PACE) * advance_ns, _FELL_NS):
                self._settled, self._unsettled_since, self._at_pace_ns = False, read_ns, 0
        elif read_ns - self._latest_read >= _REAL_TIME_PACE * advance_ns:
            self._at_pace_ns += advance_ns
            self._settled = self._at_pace_ns >= _AT_PACE_NS
        elif read_ns - self._unsettled_since > _UNSETTLED_NS:
            self._settled = self._runs_fast = True
        else:
            self._at_pace_ns = 0

    def _watch_edge(self, now_ns: int, sample: int, waited: bool) -> None:
        """Take a way that became longer for what it is."""
        if self._block_since is None:
            self._block_since, self._block_packets = now_ns, 0
        if waited:
            self._block_least = min(self._block_least, sample) if self._block_packets else sample
            self._block_packets += 1
        lasted = now_ns - self._block_since
        if lasted < _BLOCK_NS or (self._block_packets < _BLOCK_PACKETS and lasted < _BLOCKS * _BLOCK_NS):
            return
        self._block_since = None
        if self._block_packets < _BLOCK_PACKETS:
            self._blocks.clear()  # nobody waits here: we are not at the live edge
            return
        self._blocks.append(self._block_least)
        least = min(self._blocks)
        steady = len(self._blocks) == _BLOCKS and max(self._blocks) - least <= _STEADY_NS
        if steady and self._offset_ns is not None and least - self._offset_ns > _REBASE_NS:
            self._offset_ns = least
            self._camera_offsets.clear()

    def _watch_camera(self, pts_ns: int, camera_ns: int | None) -> None:
        if camera_ns is None or self._offset_ns is None:
            return
        self._camera_ns = camera_ns - pts_ns
        if self._settled:
            self._camera_offsets.append(self._offset_ns - self._camera_ns)
        steady = plausible = False
        if len(self._camera_offsets) >= _MIN_CAMERA:
            middle = statistics.median(self._camera_offsets)
            self.clock_offset_ms = middle / MS
            steady = max(self._camera_offsets) - min(self._camera_offsets) <= _CAMERA_SPREAD_NS
            plausible = _CAMERA_PLAUSIBLE_NS[0] <= middle <= _CAMERA_PLAUSIBLE_NS[1]
        self._by_camera = self._choice == "camera" or (self._choice == "auto" and steady and plausible)


class UntimedClock:
    """The same for a stream whose packets carry no times that mean anything (MJPEG from a web server).

    A packet that we waited for has just come. One that was there already came behind the one before it, at the stream's own
    pace. After a pause much longer than that pace something was held up: what comes out first is old, and so is all that comes
    without being waited for.
    """

    settled = True
    clock: Clocks = "arrival"
    clock_offset_ms: float | None = None

    def __init__(self) -> None:
        self._read_ns: int | None = None
        self._captured_ns = 0
        self._interval_ns = 0.0
        """between packets that were waited for, a running average; 0 until it is known"""

    def packet(self, times: PacketTimes) -> None:
        """A packet was read."""
        last, self._read_ns = self._read_ns, times.read_ns
        interval = self._interval_ns
        held_up = interval and times.waited_ns > _PAUSE_INTERVALS * interval + _PAUSE_NS
        if last is None or not interval or (times.waited and not held_up):
            self._captured_ns = times.read_ns
            if last is not None and times.waited:
                gap = times.read_ns - last
                self._interval_ns += (gap - interval) * (_AVERAGE if interval else 1.0)
        else:
            self._captured_ns = min(times.read_ns, self._captured_ns + round(interval))

    def captured(self, pts_ns: int | None, read_ns: int) -> int:  # noqa: ARG002 - its times mean nothing
        """When the picture of the last packet was taken, monotonic nanoseconds."""
        return min(self._captured_ns, read_ns)
