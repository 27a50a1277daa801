"""What became of each frame of a live stream, lately, in memory that never grows.

Two tables of fixed size for each stream: the last 4,096 frames one by one, and the last day by minute. A frame is written once,
when its fate is known, with the times at which it passed each stage. So an account of what happened two minutes ago is exact, and
one of last night still says how many frames came and why none of them gave a result.
"""

from __future__ import annotations

import threading
from array import array
from dataclasses import dataclass
from math import isnan, nan
from struct import Struct
from typing import Any

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.drop import DropReason
from vision_infer.core.frame import Frame

FRAMES_KEPT = 4096
MINUTES_KEPT = 24 * 60
MINUTE_NS = 60_000_000_000

EMITTED = "emitted"
FATES = (EMITTED, *(reason.value for reason in DropReason))
"""what may become of a frame: a result, or a drop by its reason"""
_CODES = {reason: code for code, reason in enumerate(DropReason, 1)}
CLOCKS = ("", "arrival", "camera", "playout")
_CLOCKS = {clock: code for code, clock in enumerate(CLOCKS)}
TIMES = (
    "decode_start_ns",
    "decode_end_ns",
    "preprocess_start_ns",
    "preprocess_end_ns",
    "inference_start_ns",
    "inference_end_ns",
    "emitted_ns",
)
"""of a trace, that are kept"""

_RECORD = Struct("<qqqd7qHBBBB")
"""index, when its fate was known, captured, PTS; the times; detections, fate, clock, batch, engine"""
_NO_TIMES = (0,) * len(TIMES)
_MOST = 255
_COLUMNS = 2 + len(FATES)
"""of the table of minutes: its number since the first, the highest age in milliseconds, and a count for each fate"""


@dataclass(frozen=True, slots=True)
class FrameOutcome:
    """What became of one frame. Times are monotonic, nanoseconds."""

    outcome: str
    """one of ``FATES``"""
    at_ns: int
    """when that was known"""
    index: int | None = None
    """None: it was left out before it was decoded"""
    captured_ns: int | None = None
    clock: str = ""
    """how ``captured_ns`` is known"""
    pts_s: float | None = None
    times: dict[str, int] | None = None
    """of ``TIMES``, those that it passed; None where it was not decoded"""
    batch: int = 0
    """frames in its batch; 0: it was not inferred"""
    engine: str = ""
    detections: int = 0


@dataclass(frozen=True, slots=True)
class Minute:
    """What became of the frames of one minute."""

    from_ns: int
    """its begin, monotonic"""
    outcomes: dict[str, int]
    max_age_ms: int
    """highest age of its results; 0 without one"""


class FlightRecorder:
    """Of one stream. Any thread may write and read.

    Args:
        clock: gives the time at which a fate is known.
        frames: how many frames are kept.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK, frames: int = FRAMES_KEPT) -> None:
        self._now = clock.monotonic_ns
        self._kept = frames
        self._ring = bytearray(frames * _RECORD.size)
        self._written = 0
        self._minutes = array("I", bytes(4 * MINUTES_KEPT * _COLUMNS))
        self._shift_ns = (clock.wall_ns() - clock.monotonic_ns()) % MINUTE_NS
        """a minute of the table is one of the clock on the wall, as it was at the beginning"""
        self._first_minute = self._minute(self._now()) - 1
        self._engines: list[str] = [""]
        self._lock = threading.Lock()

    def dropped(self, reason: DropReason, frame: Frame | None = None, count: int = 1) -> None:
        """A frame gives no result.

        Args:
            reason: why.
            frame: which; None where it was not decoded.
            count: of frames of which the same is to be told.
        """
        self._write(_CODES[reason], frame, 0, 0, count)

    def emitted(self, frame: Frame, engine: str, detections: int) -> None:
        """A frame has its result.

        Args:
            frame: which.
            engine: that inferred it.
            detections: how many objects were found in it.
        """
        self._write(0, frame, self._engine(engine), detections, 1)

    def frames(self, from_ns: int, to_ns: int, limit: int = FRAMES_KEPT) -> list[FrameOutcome]:
        """What became of frames, in the order in which it was known; the last ``limit`` of them.

        Args:
            from_ns: monotonic; of the time of capture, or of when the fate was known where that is not.
            to_ns: the first that does not count.
            limit: how many are wanted at most.
        """
        with self._lock:
            ring, written = bytes(self._ring), self._written
        oldest = max(0, written - self._kept)
        found: list[FrameOutcome] = []
        for number in range(written - 1, oldest - 1, -1):
            values = _RECORD.unpack_from(ring, number % self._kept * _RECORD.size)
            if from_ns <= (values[2] or values[1]) < to_ns:
                found.append(self._read(values))
                if len(found) == limit:
                    break
        found.reverse()
        return found

    def minutes(self, from_ns: int, to_ns: int) -> list[Minute]:
        """The account by minute, oldest first; minutes of which nothing is known are left out.

        Args:
            from_ns: monotonic; the minute in which it lies counts.
            to_ns: likewise.
        """
        with self._lock:
            table = array("I", self._minutes)
        found: list[Minute] = []
        last = self._minute(to_ns) - self._first_minute
        for number in range(max(1, self._minute(from_ns) - self._first_minute, last - MINUTES_KEPT + 1), last + 1):
            at = number % MINUTES_KEPT * _COLUMNS
            if table[at] == number:
                counts = table[at + 2 : at + _COLUMNS]
                outcomes = {outcome: count for outcome, count in zip(FATES, counts, strict=True) if count}
                found.append(Minute((number + self._first_minute) * MINUTE_NS - self._shift_ns, outcomes, table[at + 1]))
        return found

    @property
    def frames_since_ns(self) -> int | None:
        """When the fate of the oldest frame that is kept was known, monotonic; None where there is none."""
        with self._lock:
            written = self._written
            if not written:
                return None
            at = _RECORD.unpack_from(self._ring, max(0, written - self._kept) % self._kept * _RECORD.size)[1]
        return int(at)

    def _write(self, outcome: int, frame: Frame | None, engine: int, detections: int, count: int) -> None:
        now = self._now()
        index, captured, pts_s, times = -1, 0, nan, _NO_TIMES
        clock = batch = age_ns = 0
        if frame is not None:
            trace = frame.trace
            index, captured = frame.index, trace.captured_ns or trace.decode_start_ns
            if frame.pts_s is not None:
                pts_s = frame.pts_s
            times = (
                trace.decode_start_ns,
                trace.decode_end_ns,
                trace.preprocess_start_ns,
                trace.preprocess_end_ns,
                trace.inference_start_ns,
                trace.inference_end_ns,
                trace.emitted_ns,
            )
            clock = _CLOCKS.get(trace.clock, 0)
            batch = trace.batch if trace.batch < _MOST else _MOST
            if not outcome:
                age_ns = trace.emitted_ns - captured
        with self._lock:
            at = self._written % self._kept * _RECORD.size
            _RECORD.pack_into(
                self._ring, at, index, now, captured, pts_s, *times, min(detections, 0xFFFF), outcome, clock, batch, engine
            )
            self._written += 1
            number = (now + self._shift_ns) // MINUTE_NS - self._first_minute
            row = number % MINUTES_KEPT * _COLUMNS
            minutes = self._minutes
            if minutes[row] != number:
                minutes[row : row + _COLUMNS] = array("I", (number, *(0,) * (_COLUMNS - 1)))
            minutes[row + 2 + outcome] += count
            age_ms = min(max(age_ns, 0) // 1_000_000, 0xFFFFFFFF)
            if age_ms > minutes[row + 1]:
                minutes[row + 1] = age_ms

    def _minute(self, at_ns: int) -> int:
        return (at_ns + self._shift_ns) // MINUTE_NS

    def _engine(self, name: str) -> int:
        try:
            return self._engines.index(name)
        except ValueError:
            with self._lock:
                if len(self._engines) > _MOST:  # a stream whose engine was changed so often has forgotten the first ones
                    return 0
                self._engines.append(name)
                return len(self._engines) - 1

    def _read(self, values: tuple[Any, ...]) -> FrameOutcome:
        index, at, captured, pts_s, *times, detections, outcome, clock, batch, engine = values
        if index < 0:
            return FrameOutcome(FATES[outcome], at)
        passed = {name: time for name, time in zip(TIMES, times, strict=True) if time}
        seconds = None if isnan(pts_s) else pts_s
        return FrameOutcome(
            FATES[outcome], at, index, captured, CLOCKS[clock], seconds, passed, batch, self._engines[engine], detections
        )
