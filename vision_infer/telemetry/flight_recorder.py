"""The recent outcomes of each live stream's frames, in fixed memory.

Each stream has two tables of fixed size: the last 4,096 frames individually, and the last day by minute. A frame is written once,
when its outcome is known, with the times at which it passed each stage. So the account of the last two minutes is exact, and that
of last night still shows the number of frames and why they gave no result.
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

RESULT = "result"
OUTCOMES = (RESULT, *(reason.value for reason in DropReason))
"""The outcomes of a frame: a result, or a drop by its reason."""
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
"""The times of a trace that are kept."""

_RECORD = Struct("<qqqd7qHBBBB")
"""Index, time of the outcome, capture time, PTS; the times; detections, outcome, clock, batch, engine."""
_NO_TIMES = (0,) * len(TIMES)
_MAX_BYTE = 255
_AGE, _RECEIVED, _LOST, _FIRST = 1, 2, 3, 4
_COLUMNS = _FIRST + len(OUTCOMES)
"""The columns of a minute: its number since the first, the maximum age in milliseconds, the numbers of packets received and lost,
and a count for each outcome."""


@dataclass(frozen=True, slots=True)
class FrameOutcome:
    """The outcome of one frame. Times are monotonic, nanoseconds."""

    outcome: str
    """One of ``OUTCOMES``."""
    at_ns: int
    """The time when the outcome was known."""
    index: int | None = None
    """The number of the frame; None: it was dropped before it was decoded."""
    captured_ns: int | None = None
    clock: str = ""
    """The origin of ``captured_ns``."""
    pts_s: float | None = None
    times: dict[str, int] | None = None
    """The times of ``TIMES`` that it has passed; None if it was not decoded."""
    batch: int = 0
    """The number of frames in its batch; 0: it was not inferred."""
    engine: str = ""
    detections: int = 0


@dataclass(frozen=True, slots=True)
class Minute:
    """The outcomes of the frames of one minute."""

    from_ns: int
    """The start of the minute, monotonic."""
    outcomes: dict[str, int]
    max_age_ms: int
    """The maximum age of its results; 0 without results."""
    packets_received: int = 0
    """The number of RTP packets that were received; 0 if FFmpeg reads the stream."""
    packets_lost: int = 0
    """The number of RTP packets that were lost."""


class FlightRecorder:
    """The recorder of one stream. Any thread may write and read.

    Args:
        clock: Gives the time of an outcome.
        frames: The number of frames that are kept.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK, frames: int = FRAMES_KEPT) -> None:
        self._now = clock.monotonic_ns
        self._kept = frames
        self._ring = bytearray(frames * _RECORD.size)
        self._written = 0
        self._minutes = array("I", bytes(4 * MINUTES_KEPT * _COLUMNS))
        self._shift_ns = (clock.wall_ns() - clock.monotonic_ns()) % MINUTE_NS
        """The offset with which minutes of the table are minutes of the wall clock, as it was at the start."""
        self._first_minute = self._minute(self._now()) - 1
        self._engines: list[str] = [""]
        # Guards both tables and the list of engines. Every writer holds it for one record, a reader while it copies a table.
        self._lock = threading.Lock()

    def dropped(self, reason: DropReason, frame: Frame | None = None, count: int = 1) -> None:
        """Record dropped frames.

        Args:
            reason: The reason.
            frame: The frame; None if it was not decoded.
            count: The number of frames with this reason.
        """
        self._write(_CODES[reason], frame, 0, 0, count)

    def emitted(self, frame: Frame, engine: str, detections: int) -> None:
        """Record a frame with a result.

        Args:
            frame: The frame.
            engine: The engine that inferred it.
            detections: The number of its detections.
        """
        self._write(0, frame, self._engine(engine), detections, 1)

    def packets(self, received: int, lost: int) -> None:
        """Record the numbers of RTP packets that were received and lost since the previous call."""
        now = self._now()
        with self._lock:
            row = self._row(now)
            self._minutes[row + _RECEIVED] += received
            self._minutes[row + _LOST] += lost

    def frames(self, from_ns: int, to_ns: int, limit: int = FRAMES_KEPT) -> list[FrameOutcome]:
        """Return the last outcomes in a time range, in the order in which they were known.

        Args:
            from_ns: The start, monotonic. The capture time counts, or the time of the outcome if that is not known.
            to_ns: The end, exclusive.
            limit: The maximum number of frames.
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
        """Return the outcomes by minute, oldest first; minutes without outcomes are left out.

        Args:
            from_ns: The start, monotonic; the minute that contains it is included.
            to_ns: The end; the minute that contains it is included.
        """
        with self._lock:
            table = array("I", self._minutes)
        found: list[Minute] = []
        last = self._minute(to_ns) - self._first_minute
        for number in range(max(1, self._minute(from_ns) - self._first_minute, last - MINUTES_KEPT + 1), last + 1):
            at = number % MINUTES_KEPT * _COLUMNS
            if table[at] == number:
                counts = table[at + _FIRST : at + _COLUMNS]
                outcomes = {outcome: count for outcome, count in zip(OUTCOMES, counts, strict=True) if count}
                from_ns = (number + self._first_minute) * MINUTE_NS - self._shift_ns
                found.append(Minute(from_ns, outcomes, table[at + _AGE], table[at + _RECEIVED], table[at + _LOST]))
        return found

    @property
    def frames_since_ns(self) -> int | None:
        """The time of the oldest outcome that is kept, monotonic; None without frames."""
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
            batch = trace.batch if trace.batch < _MAX_BYTE else _MAX_BYTE
            if not outcome:
                age_ns = trace.emitted_ns - captured
        with self._lock:
            at = self._written % self._kept * _RECORD.size
            _RECORD.pack_into(
                self._ring, at, index, now, captured, pts_s, *times, min(detections, 0xFFFF), outcome, clock, batch, engine
            )
            self._written += 1
            row = self._row(now)
            minutes = self._minutes
            minutes[row + _FIRST + outcome] += count
            age_ms = min(max(age_ns, 0) // 1_000_000, 0xFFFFFFFF)
            if age_ms > minutes[row + _AGE]:
                minutes[row + _AGE] = age_ms

    def _row(self, now_ns: int) -> int:
        """Return the place of the present minute in the table; the caller holds the lock."""
        number = self._minute(now_ns) - self._first_minute
        row = number % MINUTES_KEPT * _COLUMNS
        if self._minutes[row] != number:
            self._minutes[row : row + _COLUMNS] = array("I", (number, *(0,) * (_COLUMNS - 1)))
        return row

    def _minute(self, at_ns: int) -> int:
        return (at_ns + self._shift_ns) // MINUTE_NS

    def _engine(self, name: str) -> int:
        try:
            return self._engines.index(name)
        except ValueError:
            with self._lock:
                if len(self._engines) > _MAX_BYTE:  # the code has one byte: later engines have no name
                    return 0
                self._engines.append(name)
                return len(self._engines) - 1

    def _read(self, values: tuple[Any, ...]) -> FrameOutcome:
        index, at, captured, pts_s, *times, detections, outcome, clock, batch, engine = values
        if index < 0:
            return FrameOutcome(OUTCOMES[outcome], at)
        passed = {name: time for name, time in zip(TIMES, times, strict=True) if time}
        seconds = None if isnan(pts_s) else pts_s
        return FrameOutcome(
            OUTCOMES[outcome], at, index, captured, CLOCKS[clock], seconds, passed, batch, self._engines[engine], detections
        )
