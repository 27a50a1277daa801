"""Reads a live source on a thread, as a stream worker does, and records frames with their times."""

from __future__ import annotations

import statistics
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType

from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vision_infer.core import time_code
from vision_infer.core.drop import DropReason
from vision_infer.core.errors import StreamError
from vision_infer.core.frame import Frame
from vision_infer.stream.live.live_source import LiveSource
from vision_infer.stream.source import LiveOptions, ReadReport, SourceSpec, StreamInfo
from vision_infer.stream.time_code_reader import read

LIMIT_S = 30.0
"""The time limit for any step on a busy machine, in seconds."""
FRAMES_KEPT = 3000


@dataclass(frozen=True)
class Got:
    """A received frame."""

    at_ns: int
    """The time of arrival, monotonic nanoseconds."""
    frame: Frame
    moment: int | None
    """The time code in the image; None if it cannot be read."""
    size: tuple[int, int]

    @property
    def true_age_ms(self) -> int:
        """The age of the frame at arrival, by its time code."""
        assert self.moment is not None
        return time_code.since_ms(self.moment, self.at_ns)

    @property
    def captured_wrong_ms(self) -> int:
        """The error of the capture time: how much later it is than the time code."""
        assert self.moment is not None
        return time_code.since_ms(self.moment, self.frame.trace.captured_ns)


class _SlowSource(LiveSource):
    """A source with a slow decoder."""

    slow_s = 0.0

    def _decode(self, packet: Packet[VideoStream]) -> list[VideoFrame]:
        if self.slow_s:
            time.sleep(self.slow_s)
        return super()._decode(packet)


class Reading:
    """Reads one connection until it or the context ends.

    Args:
        url: The URL of the source.
        live: The options of the source.
        decode_threads: The number of decoder threads.
        slow_s: The additional decoding time of each packet, in seconds.
    """

    def __init__(self, url: str, live: LiveOptions | None = None, decode_threads: int = 1, slow_s: float = 0.0) -> None:
        self._slow_s = slow_s
        self.got: list[Got] = []
        self.error: StreamError | None = None
        self.crash: BaseException | None = None
        self.ended_at_ns = 0
        self.opened_s = 0.0
        self.stopping = threading.Event()
        self._spec = SourceSpec("cam", "live", (url,), live=live or LiveOptions(open_timeout_s=5, stall_timeout_s=5))
        self._decode_threads = decode_threads
        self._source: LiveSource | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="reading")

    def __enter__(self) -> Reading:
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stopping.set()
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()
        if self.crash is not None:
            raise self.crash

    @property
    def info(self) -> StreamInfo:
        """The properties of the source."""
        assert self._source is not None
        return self._source.info

    @property
    def report(self) -> ReadReport:
        """The report of losses."""
        assert self._source is not None
        return self._source.report

    def dropped(self, reason: DropReason) -> int:
        """Return the number of frames dropped for this reason."""
        return 0 if self._source is None else self.report.dropped.get(reason, 0)

    def wait(self, condition: Callable[[], bool], what: str, limit_s: float = LIMIT_S) -> None:
        """Wait until a condition is met; fail the test after the time limit or if the source ends before."""
        with self._changed:
            done = self._changed.wait_for(lambda: condition() or self.ended_at_ns > 0, limit_s)
        assert done, f"not within {limit_s} s: {what}"
        assert condition(), f"ended before: {what}: {self.error}"

    def wait_for_frames(self, count: int) -> None:
        """Wait for a number of further frames."""
        wanted = len(self.got) + count
        self.wait(lambda: len(self.got) >= wanted, f"{count} more frames")

    def wait_for_end(self, limit_s: float = LIMIT_S) -> StreamError | None:
        """Wait until the source ends; return its error, or None if it ended without one."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.ended_at_ns > 0, limit_s), f"it did not end within {limit_s} s"
        return self.error

    def median_age_ms(self, last: int) -> float:
        """Return the median true age of the last frames."""
        return statistics.median(got.true_age_ms for got in self.got[-last:] if got.moment is not None)

    @staticmethod
    def wait_for_each(readings: Iterable[Reading], count: int) -> None:
        """Wait until each of several readings has a number of further frames."""
        for reading, wanted in [(reading, len(reading.got) + count) for reading in readings]:
            reading.wait(lambda reading=reading, wanted=wanted: len(reading.got) >= wanted, f"{count} more frames")  # type: ignore[misc]

    def _run(self) -> None:
        try:
            source = _SlowSource(self._spec, self._decode_threads, self.stopping)
            source.slow_s = self._slow_s
            with source:
                self._source = source
                self.opened_s = time.monotonic() - self._began
                for frame in source.frames():
                    self._keep(frame)
        except StreamError as error:
            self.error = error
        except BaseException as error:  # noqa: BLE001 - the test's own thread raises it
            self.crash = error
        with self._changed:
            self.ended_at_ns = time.monotonic_ns()
            self._changed.notify_all()

    def _keep(self, frame: Frame) -> None:
        at_ns = time.monotonic_ns()
        image = frame.image.to_rgb()
        got = Got(at_ns, frame, read(image), (image.shape[1], image.shape[0]))
        with self._changed:
            assert len(self.got) < FRAMES_KEPT
            self.got.append(got)
            self._changed.notify_all()


def message_of(error: StreamError) -> str:
    """Check that an error has a hint and contains no password, and return its text."""
    assert error.hint
    shown = "".join(traceback.format_exception(error))
    for secret in ("s3cret", "wrong%40pass", "wrong@pass"):
        assert secret not in shown, "the traceback must not contain a password"
    return str(error)
