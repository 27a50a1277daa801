"""One thread for each recorded stream: open, decode, select, offer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

from vision_infer.core.clock import Clock
from vision_infer.core.drop import DropReason
from vision_infer.core.errors import StreamError
from vision_infer.core.frame import Frame
from vision_infer.pipeline.channel import Channel, Window
from vision_infer.pipeline.commands import AddStream
from vision_infer.pipeline.messages import Ended, Message
from vision_infer.pipeline.stream_record import StreamRecord
from vision_infer.pipeline.workers.frame_entry import FrameEntry
from vision_infer.stream.source import Source

Opener = Callable[[threading.Event], AbstractContextManager[Source]]


class StreamWorker:
    """Decodes a recorded source and offers its frames to a lane.

    The stream has a *window*: the maximum number of its frames anywhere between the decoder and the last sink. When it is
    full, the decoder waits. That one number bounds every queue that a frame passes.

    Args:
        record: The stream's counters.
        command: What to do with the stream.
        open_source: Opens the source; may raise StreamError.
        opened: Called with the source once it is open, before its first frame. It returns whether frames that are not
            inferred are needed too, for drawing.
        entry: Takes the frames.
        results: Receives the messages for the results stage.
        window: The window's credits. A frame returns its credit where it leaves: at the outlet, or where it is dropped.
    """

    def __init__(
        self,
        record: StreamRecord,
        command: AddStream,
        open_source: Opener,
        opened: Callable[[Source], bool],
        entry: FrameEntry,
        results: Channel[Message],
        clock: Clock,
        window: Window,
    ) -> None:
        self.record = record
        self.stopping = threading.Event()
        self._command = command
        self._open_source = open_source
        self._opened = opened
        self._results = results
        self._clock = clock
        self._window = window
        self._entry = entry
        self.thread = threading.Thread(target=self._run, name=f"stream-{record.name}", daemon=True)

    def stop(self) -> None:
        """Stop decoding; frames that are decoded already are still finished."""
        self.stopping.set()
        self._window.close()  # the thread may be waiting there for a credit

    @property
    def stopped(self) -> bool:
        """Whether the stream was stopped."""
        return self.stopping.is_set()

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
        except Exception as failure:  # noqa: BLE001 - the boundary of a thread: every error must be reported
            error = StreamError(f"{self.record.name}: unexpected {type(failure).__name__}: {failure}", "Please report this.")
            error.__cause__ = failure
        finally:
            self.record.present_ns = self._clock.monotonic_ns() - started
        complete = error is None and not self.stopping.is_set()
        self._results.put(Ended(self.record.name, self._entry.sequence, complete, error))

    def _read(self, source: Source, pass_others: bool) -> None:
        now = self._clock.monotonic_ns
        record, entry, every = self.record, self._entry, self._command.every
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
            if not trace.decode_end_ns:  # a source of single images waits for them, and sets the times of decoding itself
                trace.decode_start_ns, trace.decode_end_ns = begin, end
            record.decode_ns += trace.decode_end_ns - trace.decode_start_ns
            time_ns = _time_ns(frame, source) if entry.timed else None
            due = frame.index % every == 0 and entry.is_due(time_ns)
            if frame.index < self._command.first_frame:
                continue
            if due:
                entry.enter(frame, time_ns)
            elif pass_others:
                entry.pass_by(frame)
            else:
                record.drop(DropReason.PACED)


def _time_ns(frame: Frame, source: Source) -> int | None:
    """Return the stream's own time of a frame, nanoseconds; None for a still image, which has none."""
    if frame.pts_s is not None:
        return round(frame.pts_s * 1e9)
    rate = source.info.frame_rate
    return round(frame.index / rate * 1_000_000_000) if rate else None
