"""The thread between engines and sinks: select, put in order, filter, track, call the hook, emit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from vision_infer.analyze.region import Filter
from vision_infer.analyze.select import select
from vision_infer.analyze.track import Tracker
from vision_infer.core.clock import Clock
from vision_infer.core.detections import Detections
from vision_infer.core.drop import DropReason
from vision_infer.core.errors import VisionInferError
from vision_infer.core.frame import Frame
from vision_infer.core.result import Result
from vision_infer.pipeline.channel import Channel, Window
from vision_infer.pipeline.hook import GuardedHook
from vision_infer.pipeline.lane import Lane
from vision_infer.pipeline.messages import Broken, Ended, Failed, Finish, Inferred, Message, Passed, Superseded
from vision_infer.pipeline.outlet import Outlet
from vision_infer.pipeline.status import StreamRecord
from vision_infer.schedule.reorder import Reorder
from vision_infer.telemetry.account import StageAccount


@dataclass(frozen=True, slots=True)
class _Selected:
    frame: Frame
    lane: Lane | None
    """None: the frame was not inferred"""
    detections: Detections


@dataclass(slots=True)
class _Stream:
    record: StreamRecord
    outlet: Outlet
    keep: Filter | None
    tracker: Tracker | None
    window: Window
    order: Reorder[_Selected] = field(default_factory=Reorder)
    left: int = 0
    """sequence numbers that have left the order, with a result or without"""
    end: Ended | None = None


class ResultsStage:
    """Takes what the workers have done and hands each stream's results to its outlet, in order.

    Args:
        failed: called with what broke for all streams: the error of an engine, or our own.
        ended: called when a stream has given its last result to its outlet, and whether it had joined (had it not, it never
            opened).
        hook: called with each result.
    """

    def __init__(
        self,
        lanes: Mapping[str, Lane],
        messages: Channel[Message],
        clock: Clock,
        failed: Callable[[VisionInferError], None],
        ended: Callable[[Ended, bool], None],
        hook: GuardedHook | None = None,
    ) -> None:
        self._lanes = lanes
        self._messages = messages
        self._clock = clock
        self._failed = failed
        self._ended = ended
        self._hook = hook
        self._streams: dict[str, _Stream] = {}
        self._broken = False
        self.account = StageAccount()
        self.busy_ns = 0
        self.present_ns = 0
        self.thread = threading.Thread(target=self._run, name="results", daemon=True)

    def join(self, record: StreamRecord, outlet: Outlet, keep: Filter | None, tracker: Tracker | None, window: Window) -> None:
        """Let a stream in, before its first frame is offered."""
        self._streams[record.name] = _Stream(record, outlet, keep, tracker, window)

    def _run(self) -> None:
        now = self._clock.monotonic_ns
        started = now()
        while True:
            message = self._messages.get()
            begin = now()
            if isinstance(message, Finish):
                break
            try:
                self._handle(message)
            except Exception as error:  # noqa: BLE001 - a worker's thread is a boundary: nothing may vanish there
                self._give_up(error)
            self.busy_ns += now() - begin
            del message  # the pictures' memory is not held while waiting for the next
        self.present_ns = now() - started

    def _handle(self, message: Message) -> None:
        if isinstance(message, Ended):
            self._end(message)
        elif self._broken:
            return
        elif isinstance(message, Inferred):
            self._inferred(message)
        elif isinstance(message, Passed):
            self._passed(message)
        elif isinstance(message, Superseded):
            self._dropped(self._streams[message.stream], message.sequence, DropReason.SUPERSEDED)
        elif isinstance(message, Failed):
            for entry in message.batch.entries:
                self._dropped(self._streams[entry.stream], entry.waiting.sequence, DropReason.FAILED)
            self._failed(message.error)
        elif isinstance(message, Broken):
            raise message.error

    def _give_up(self, error: Exception) -> None:
        """Results cannot be put in order any more: say so, take no more of them, and let every stream come to its end."""
        self._broken = True
        failure = VisionInferError(f"pipeline: unexpected {type(error).__name__}: {error}", "please report this")
        failure.__cause__ = error
        self._failed(failure)
        for stream in list(self._streams.values()):
            self._finish_if_last(stream, 0)

    def _inferred(self, message: Inferred) -> None:
        now = self._clock.monotonic_ns
        lane = self._lanes[message.batch.lane]
        entries = message.batch.entries
        begin = now()
        outputs = message.raw.outputs
        found = select(
            (outputs["boxes"], outputs["scores"], outputs["class_ids"]),
            [lane.letterbox(entry.waiting.item.picture.size) for entry in entries],
            lane.selector,
        )
        end = now()
        for place, entry in enumerate(entries):
            stream = self._streams[entry.stream]
            frame, sequence = entry.waiting.item, entry.waiting.sequence
            if place in message.unreadable:
                stream.record.unreadable += 1
                self._dropped(stream, sequence, DropReason.FAILED)
                continue
            frame.trace.select_start_ns = begin
            frame.trace.select_end_ns = end
            self._emit(stream, stream.order.put(sequence, _Selected(frame, lane, found[place])))
            self._finish_if_last(stream, 1)

    def _passed(self, message: Passed) -> None:
        stream = self._streams[message.frame.stream]
        self._emit(stream, stream.order.put(message.sequence, _Selected(message.frame, None, Detections.empty())))
        self._finish_if_last(stream, 1)

    def _dropped(self, stream: _Stream, sequence: int, reason: DropReason) -> None:
        stream.record.drop(reason)
        if reason is not DropReason.SUPERSEDED:  # then the stream worker has given the credit back: it had to have it at once
            stream.window.release()
        self._emit(stream, stream.order.skip(sequence))
        self._finish_if_last(stream, 1)

    def _emit(self, stream: _Stream, ready: list[_Selected]) -> None:
        for one in ready:
            result = None if one.lane is None else self._complete(stream, one.frame, one.lane, one.detections)
            stream.outlet.put(one.frame, result)

    def _complete(self, stream: _Stream, frame: Frame, lane: Lane, detections: Detections) -> Result | None:
        """The result of a frame that was inferred; None where the hook wants none."""
        now = self._clock.monotonic_ns
        trace, record = frame.trace, stream.record
        trace.track_start_ns = now()
        if stream.keep is not None:
            detections = stream.keep(detections, frame.picture.size)
        if stream.tracker is not None:
            detections = stream.tracker.update(detections, frame.pts_s)
        trace.emitted_ns = now()
        latency = trace.latency()
        engine = lane.engine
        result: Result | None = Result(
            frame.stream,
            frame.index,
            frame.pts_s,
            frame.picture.size,
            engine.card.name,
            engine.name,
            detections,
            latency,
            frame.file,
            frame.damaged,
        )
        if self._hook is not None and result is not None:
            result = self._hook(result, record)
            trace.emitted_ns = now()  # a hook's time is part of the account, whatever it does
            latency = trace.latency()
            result = None if result is None else replace(result, latency=latency)
        self.account.latency(latency)
        if result is None:
            record.drop(DropReason.HOOK)
        else:
            record.results += 1
            record.detections += len(result.detections)
        return result

    def _end(self, message: Ended) -> None:
        stream = self._streams.get(message.stream)
        if stream is None:  # it never opened
            self._ended(message, False)
            return
        stream.end = message
        self._finish_if_last(stream, 0)

    def _finish_if_last(self, stream: _Stream, left: int) -> None:
        stream.left += left
        end = stream.end
        if end is not None and (stream.left == end.sequences or self._broken):
            del self._streams[end.stream]
            self._ended(end, True)
            stream.outlet.close(end.complete and not self._broken)
