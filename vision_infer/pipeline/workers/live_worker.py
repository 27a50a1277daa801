"""One thread for each live stream: connect, decode, select, offer; and reconnect until the stream is stopped."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TypeVar

from vision_infer.core.clock import Clock
from vision_infer.core.drop import DropReason
from vision_infer.core.errors import RefusedError, StreamError
from vision_infer.core.frame import Frame
from vision_infer.core.geometry import Size
from vision_infer.pipeline.channel import Channel, Window
from vision_infer.pipeline.commands import AddStream
from vision_infer.pipeline.messages import Ended, Message, Superseded
from vision_infer.pipeline.status import StreamState
from vision_infer.pipeline.stream_record import LiveRecord, StreamRecord
from vision_infer.pipeline.workers.frame_entry import FrameEntry
from vision_infer.schedule.queues import QueuedItem
from vision_infer.stream.backoff import Backoff, after_refusals
from vision_infer.stream.redact import redact
from vision_infer.stream.rtp_counts import PictureCounts, RtpCounts
from vision_infer.stream.source import ReadReport, Source, ends_by_itself

GOOD_NS = 5_000_000_000
"""A connection that delivered frames for this time was good: the back-off restarts with its first wait."""

_log = logging.getLogger("vision_infer.stream")

Opener = Callable[[threading.Event], AbstractContextManager[Source]]
OnState = Callable[[StreamRecord, StreamState, str], None]
Counts = TypeVar("Counts", RtpCounts, PictureCounts)


class LiveWorker:
    """Keeps a live stream running until it is stopped.

    Its thread owns the stream's connection, and can be blocked in it (a DNS lookup, a silent camera) until the time-outs of the
    source. Removing a stream does not wait for that: :meth:`abandon` ends the stream at once, and the thread ends when its call
    returns.

    Args:
        record: The stream's counters.
        live: The additional counters of a live stream.
        command: What to do with the stream.
        open_source: Opens the source once; may raise StreamError.
        on_state: Called with each state change of the stream.
        entry: Takes the frames.
        results: Receives the messages for the results stage.
        window: The credits for frames in the pipeline.
    """

    def __init__(
        self,
        record: StreamRecord,
        live: LiveRecord,
        command: AddStream,
        open_source: Opener,
        on_state: OnState,
        entry: FrameEntry,
        results: Channel[Message],
        clock: Clock,
        window: Window,
    ) -> None:
        self.record = record
        self.live = live
        self.command = command
        self.stopping = threading.Event()
        self._open_source = open_source
        self._on_state = on_state
        self._results = results
        self._clock = clock
        self._window = window
        self._entry = entry
        # Guards the counters, the entry, the command and `_gone`. The stream's thread holds it to count and to offer a frame,
        # but not while it decodes; the supervisor holds it to change or abandon the stream. It is reentrant.
        self._own = threading.RLock()
        self._gone = False
        self._complete = False
        self._index = 0
        self._failures = 0
        reconnect = command.reconnect
        self._backoff = Backoff(reconnect.min_s, max(reconnect.min_s, reconnect.max_s))
        self._refusals = after_refusals(reconnect.refused_s, 5 * reconnect.refused_s)
        self.thread = threading.Thread(target=self._run, name=f"stream-{record.name}", daemon=True)

    def stop(self) -> None:
        """Stop as soon as the current call of the source returns."""
        self.stopping.set()

    @property
    def stopped(self) -> bool:
        """Whether the stream was stopped, and has not ended."""
        return self.stopping.is_set() and not self._complete

    def abandon(self, complete: bool = False) -> None:
        """End the stream now, even if its thread is blocked. Frames that are decoded already are still finished.

        Args:
            complete: Whether that is its regular end, and its outputs are complete.
        """
        self.stopping.set()
        self._end(complete, None)

    def change(self, command: AddStream, lane_of: Callable[[Size], str]) -> None:
        """Continue with another command for the same source, whose lanes the stream has joined."""
        with self._own:
            self._entry.change(self.command, command, lane_of)
            self.command = command
            self.live.lane, self.live.weight, self.live.wanted_fps = command.lane, command.weight, command.policy.fps

    def superseded(self, lost: QueuedItem[Frame]) -> None:
        """Count a waiting frame that was replaced by a newer one, and return its credit."""
        self._window.release()
        with self._own:
            self.record.drop(DropReason.SUPERSEDED, lost.item)
        self._results.put(Superseded(self.record.name, lost.sequence))

    def _run(self) -> None:
        started = self._clock.monotonic_ns()
        error: StreamError | None = None
        complete = False
        while not self.stopping.is_set():
            self._set_state(StreamState.CONNECTING)
            failure = self._connect()
            if self.stopping.is_set():
                break
            if failure is None and ends_by_itself(self.command.source):
                complete = True
                break
            if failure is not None and self.command.must_connect and not self.live.connections:
                error = failure
                break
            attempts = self.command.reconnect.attempts
            if attempts is not None and self._failures >= attempts:
                error = StreamError(f"{self.record.name}: gave up after {attempts} failures in a row", _text(failure))
                break
            self._back_off(failure)
        self.record.present_ns = self._clock.monotonic_ns() - started
        self._end(complete, error)

    def _end(self, complete: bool, error: StreamError | None) -> None:
        with self._own:
            if not self._gone:
                self._gone, self._complete = True, complete
                self._results.put(Ended(self.record.name, self._entry.sequence, complete, error))

    def _connect(self) -> StreamError | None:
        """Read one connection from its opening to its end; return the error that ended it, or None."""
        opened = frames = self._clock.monotonic_ns()
        failure: StreamError | None = None
        self._failures += 1
        try:
            with self._open_source(self.stopping) as source:
                if self.stopping.is_set():  # opening may have taken long
                    return None
                self.live.connections += 1
                counts = _ConnectionCounts(self.record, self.live)
                source.report.on_drop = self._left_out
                frames = self._clock.monotonic_ns()
                try:
                    self._read(source, counts)
                finally:
                    with self._own:
                        if not self._gone:
                            counts.take_over(source)
        except StreamError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - the boundary of a thread: every error must be reported
            failure = StreamError(
                f"{self.record.name}: unexpected {type(error).__name__}: {redact(str(error))}", "Please report this."
            )
            failure.__cause__ = error
        # A frame of this connection, long enough after it was opened: forget the earlier failures.
        last = self.live.last_frame_ns
        if last is not None and last > opened and last - frames >= GOOD_NS:
            self._backoff.reset()
            self._refusals.reset()
            self._failures = 0
        return failure

    def _read(self, source: Source, counts: _ConnectionCounts) -> None:
        now = self._clock.monotonic_ns
        first = True
        base = self._index  # each connection counts its frames from 0; the stream counts on
        for frame in source.frames():
            if self.stopping.is_set():
                return
            end = now()
            with self._own:
                if self._gone:  # abandon() has ended the stream while this thread was decoding
                    return
                if first:
                    self.record.info = source.info
                    self.live.last_frame_ns = None
                counts.add(frame, source, end)
                self.live.left_out.clear()
                if first or self.record.state is StreamState.STALLED:
                    first = False
                    self._set_state(StreamState.LIVE)
                self._index = base + frame.index + 1
                self._take(replace(frame, index=base + frame.index) if base else frame)
            del frame  # do not hold the image's memory while waiting for the next frame

    def _left_out(self, reason: DropReason, count: int) -> None:
        """Count frames that the source does not deliver, at once: the next delivered frame may be far away."""
        with self._own:
            if not self._gone:
                self.record.drop(reason, count=count)
                if reason in (DropReason.STALE, DropReason.LATE):
                    self.record.decoded += count
                self.live.left_out[reason] = self.live.left_out.get(reason, 0) + count
                self.live.thread_ns = time.thread_time_ns()

    def _take(self, frame: Frame) -> None:
        captured_ns = frame.trace.captured_ns
        if not self._entry.is_due(captured_ns):
            self.record.drop(DropReason.PACED, frame)
            return
        superseded = self._entry.enter(frame, captured_ns)
        if superseded is not None:
            self.superseded(superseded)

    def _back_off(self, failure: StreamError | None) -> None:
        if isinstance(failure, RefusedError):
            state, wait_s = StreamState.REFUSED, self._refusals.next_s()
        else:
            state, wait_s = StreamState.BACKING_OFF, self._backoff.next_s()
        text, wait = _text(failure), f"attempt in {wait_s:.1f} s"
        self._set_state(state, f"{text} Next {wait}." if text.endswith(".") else f"{text}; next {wait}")
        self.stopping.wait(wait_s)

    def _set_state(self, state: StreamState, reason: str = "") -> None:
        with self._own:
            if not self._gone:
                self._on_state(self.record, state, reason)


class _ConnectionCounts:
    """Adds the counts of one connection to those of the stream."""

    def __init__(self, record: StreamRecord, live: LiveRecord) -> None:
        self._record = record
        self._live = live
        self._before = record.report
        record.report = ReadReport(
            gaps=self._before.gaps,
            gap_times=self._before.gap_times,
            damaged=self._before.damaged,
            packets=self._before.packets,
            pictures=self._before.pictures,
            gpu_failures=self._before.gpu_failures,
            warnings=self._before.warnings,
        )
        self._gaps, self._damaged = self._before.gaps, self._before.damaged

    def add(self, frame: Frame, source: Source, now_ns: int) -> None:
        """Count a decoded frame."""
        record, live = self._record, self._live
        last, live.last_frame_ns = live.last_frame_ns, now_ns
        if last is not None:
            live.interval_ns += 0.1 * (now_ns - last - live.interval_ns) if live.interval_ns else now_ns - last
        record.decoded += 1
        trace = frame.trace
        trace.decode_end_ns = now_ns
        record.decode_ns += now_ns - trace.decode_start_ns
        live.clock = trace.clock or None
        live.thread_ns = time.thread_time_ns()
        self.take_over(source)

    def take_over(self, source: Source) -> None:
        """Add the losses that the source has counted so far."""
        record, report = self._record, source.report
        record.report.gaps = self._gaps + report.gaps
        record.report.damaged = self._damaged + report.damaged
        record.report.gpu_failures = self._before.gpu_failures + report.gpu_failures
        packets = _sum(self._before.packets, report.packets)
        received, lost = packets.received - record.report.packets.received, packets.lost - record.report.packets.lost
        if received or lost:
            self._live.flight.packets(received, lost)
        record.report.packets, record.report.pictures = packets, _sum(self._before.pictures, report.pictures)
        for text in report.warnings:
            if text not in record.report.warnings:
                record.report.warn(text)
                _log.warning("%s: %s", record.name, text)
        self._live.clock_offset_ms = report.clock_offset_ms
        if source.info is not record.info:
            record.info = source.info


def _sum(one: Counts, other: Counts) -> Counts:
    return type(one)(*[getattr(one, name) + getattr(other, name) for name in one.__slots__])  # per frame: astuple() is slow


def _text(failure: StreamError | None) -> str:
    return "the server ended the stream" if failure is None else redact(str(failure))
