"""One thread for each stream: open, decode, choose, offer."""

from __future__ import annotations

import threading
from collections.abc import Callable

from vision_infer.core.clock import Clock
from vision_infer.core.drop import DropReason
from vision_infer.core.errors import StreamError
from vision_infer.core.frame import Frame
from vision_infer.core.geometry import Size
from vision_infer.pipeline.channel import Channel, Window
from vision_infer.pipeline.commands import AddStream
from vision_infer.pipeline.dispatch import Dispatch
from vision_infer.pipeline.messages import Ended, Gated, Message, Passed, Superseded
from vision_infer.pipeline.status import StreamRecord
from vision_infer.pipeline.workers.gating import make_gate
from vision_infer.schedule.pacing import EveryNth, Pacer
from vision_infer.stream.source import Source

Opener = Callable[[threading.Event], Source]


class StreamWorker:
    """Decodes a source and offers its frames to a lane.

    A recorded stream has a *window*: so many of its frames may be anywhere between the decoder and the last sink. When they
    are, the decoder waits; a live stream's frame is dropped instead. That one number bounds every queue that a frame passes.

    Args:
        record: where the stream's counts are kept.
        command: what is wanted of the stream.
        open_source: opens the source; may raise StreamError.
        opened: called with the source once it is open, before its first frame.
        lane_of: says to which lane a picture of a size goes.
        window: the window's credits; a frame gives its own back where it leaves: at the outlet, or where it is dropped.
    """

    def __init__(
        self,
        record: StreamRecord,
        command: AddStream,
        open_source: Opener,
        opened: Callable[[Source], bool],
        dispatch: Dispatch,
        results: Channel[Message],
        clock: Clock,
        window: Window,
        lane_of: Callable[[Size], str],
    ) -> None:
        self._lane_of = lane_of
        self.record = record
        self.stopping = threading.Event()
        self._command = command
        self._open_source = open_source
        self._opened = opened
        self._dispatch = dispatch
        self._results = results
        self._clock = clock
        self._every = EveryNth(command.every)
        self._pacer = None if command.fps is None else Pacer(command.fps)
        self._gate = make_gate(command)
        self._window = window
        self._sequence = 0
        self.thread = threading.Thread(target=self._run, name=f"stream-{record.name}", daemon=True)

    def stop(self) -> None:
        """Decode no further; what was decoded goes its way."""
        self.stopping.set()
        self._window.close()  # it may be waiting for a place there

    def _run(self) -> None:
        error: StreamError | None = None
        started = self._clock.monotonic_ns()
        try:
            with self._open_source(self.stopping) as source:
                pass_others = self._opened(source)
                try:
                    self._read(source, pass_others)
                finally:
                    self.record.report, self.record.info = source.report, source.info
        except StreamError as failure:
            error = failure
        except Exception as failure:  # noqa: BLE001 - a worker's thread is a boundary: nothing may vanish there
            error = StreamError(f"{self.record.name}: unexpected {type(failure).__name__}: {failure}", "please report this")
            error.__cause__ = failure
        finally:
            self.record.present_ns = self._clock.monotonic_ns() - started
        complete = error is None and not self.stopping.is_set()
        self._results.put(Ended(self.record.name, self._sequence, complete, error))

    def _read(self, source: Source, pass_others: bool) -> None:
        now = self._clock.monotonic_ns
        record = self.record
        frames = source.frames()
        while not self.stopping.is_set():
            begin = now()
            frame = next(frames, None)
            end = now()
            if frame is None:
                record.decode_ns += end - begin
                return
            record.decoded += 1
            record.report = source.report
            trace = frame.trace
            if not trace.decode_end_ns:  # a source of what is sent to it waits, which is no decoding, and says itself what was
                trace.decode_start_ns, trace.decode_end_ns = begin, end
            record.decode_ns += trace.decode_end_ns - trace.decode_start_ns
            wanted = self._wants(frame, source, end)
            if frame.index < self._command.first_frame:
                continue
            if not wanted and not pass_others:
                record.drop(DropReason.PACED)
            elif not self._enter(source.live):
                record.drop(DropReason.BACKLOGGED if source.live else DropReason.STOPPED)
            elif not wanted:
                self._results.put(Passed(frame, self._sequence))
                self._sequence += 1
            elif self._moves(frame, source, end):
                self._offer(frame)
            else:
                self._results.put(Gated(frame, self._sequence))
                self._sequence += 1

    def _wants(self, frame: Frame, source: Source, now_ns: int) -> bool:
        """Whether a frame is inferred; each is asked about once, in order."""
        if not self._every.wants(frame.index, now_ns):
            return False
        if self._pacer is None:
            return True
        time_ns = _time_ns(frame, source, now_ns)
        return time_ns is None or self._pacer.wants(frame.index, time_ns)

    def _moves(self, frame: Frame, source: Source, now_ns: int) -> bool:
        """Whether a frame that is wanted shows a change, or is to be inferred all the same."""
        if self._gate is None:
            return True
        time_ns = _time_ns(frame, source, now_ns)
        return time_ns is None or self._gate.wants(frame.image, time_ns)

    def _enter(self, live: bool) -> bool:
        """Take a credit of the window, which the frame gives back wherever it leaves; a live stream never waits for one."""
        if live:
            return self._window.try_acquire()
        return self._window.acquire()

    def _offer(self, frame: Frame) -> None:
        sequence = self._sequence
        self._sequence += 1
        superseded = self._dispatch.offer(frame.stream, self._lane_of(frame.image.size), sequence, frame)
        if superseded is not None:
            self._window.release()
            self.record.drop(DropReason.SUPERSEDED)
            self._results.put(Superseded(frame.stream, superseded.sequence))


def _time_ns(frame: Frame, source: Source, now_ns: int) -> int | None:
    """The stream's own time of a frame, nanoseconds; None for a still picture, which has none."""
    if frame.pts_s is not None:
        return round(frame.pts_s * 1e9)
    if source.live:
        return now_ns
    rate = source.info.frame_rate
    return round(frame.index / rate * 1_000_000_000) if rate else None
