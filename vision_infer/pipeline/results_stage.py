"""The thread between engines and sinks: select, put in order, filter, track, emit. Hooks run on other threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from vision_infer.analyze.describe import Describer
from vision_infer.analyze.select import Selector, select
from vision_infer.analyze.tiling import join_tiles
from vision_infer.core.clock import Clock
from vision_infer.core.detections import Detections
from vision_infer.core.drop import DropReason
from vision_infer.core.errors import VisionInferError
from vision_infer.core.frame import Frame
from vision_infer.pipeline.channel import Channel, Window
from vision_infer.pipeline.completion import Completion, NoImage, PendingResult
from vision_infer.pipeline.hooks.stage import Hooked
from vision_infer.pipeline.lanes.lane import Lane
from vision_infer.pipeline.messages import Broken, Ended, Failed, Finish, Gated, Inferred, Message, Outdated, Passed, Superseded
from vision_infer.pipeline.outlet import Outlet
from vision_infer.pipeline.secondary_stage import SecondaryStage
from vision_infer.pipeline.steps import Steps
from vision_infer.pipeline.stream_record import StreamRecord
from vision_infer.schedule.batcher import Entry
from vision_infer.schedule.reorder import Reorder
from vision_infer.stream.image import ArrayImage, TensorImage
from vision_infer.telemetry.account import StageAccount

_NO_DETECTIONS = Selector(confidence=1.0, iou=None, classes=frozenset())
"""For images whose sender does not receive detections."""


@dataclass(slots=True)
class _JoinedStream:
    record: StreamRecord
    outlet: Outlet
    steps: Steps
    window: Window
    completion: Completion
    secondary: SecondaryStage | None
    order: Reorder[PendingResult] = field(default_factory=Reorder)
    left: int = 0
    """The number of frames that have left the order, with or without a result."""
    end: Ended | None = None


class ResultsStage:
    """Takes the output of the workers and passes each stream's results to its outlet, in order.

    Args:
        messages: The workers' messages.
        clock: The monotonic and the wall clock.
        failed: Called with a failure of all streams: an internal error.
        engine_failed: Called when an engine has failed on a batch.
        ended: Called when the last result of a stream is in its outlet, and whether the stream had joined. A stream that was
            never opened has not.
    """

    def __init__(
        self,
        messages: Channel[Message],
        clock: Clock,
        failed: Callable[[VisionInferError], None],
        engine_failed: Callable[[Failed], None],
        ended: Callable[[Ended, bool], None],
    ) -> None:
        self._messages = messages
        self._clock = clock
        self._failed = failed
        self._engine_failed = engine_failed
        self._ended = ended
        self._streams: dict[str, _JoinedStream] = {}
        self._broken = False
        self.observer: Callable[[PendingResult, Steps], None] | None = None
        """Called with each inferred frame and its detections before they are tracked; it must be quick, and must not fail."""
        self.account = StageAccount()
        self.busy_ns = 0
        self.present_ns = 0
        self.thread = threading.Thread(target=self._run, name="results", daemon=True)

    def join(
        self, record: StreamRecord, outlet: Outlet, steps: Steps, window: Window, secondary: SecondaryStage | None = None
    ) -> None:
        """Let a stream in, before its first frame is offered."""
        record.zones = steps.zones
        completion = Completion(record, self._clock, self.account)
        if steps.hooks is not None:
            steps.hooks.join(record, self._messages.put)
        self._streams[record.name] = _JoinedStream(record, outlet, steps, window, completion, secondary)

    @property
    def streams(self) -> int:
        """The number of streams that have joined and not ended."""
        return len(self._streams)

    def steps(self, name: str) -> Steps | None:
        """Return the steps of a stream; None when there is no such stream."""
        stream = self._streams.get(name)
        return None if stream is None else stream.steps

    def change(self, name: str, steps: Steps) -> None:
        """Replace the steps of a stream, from the next result on."""
        stream = self._streams[name]
        if steps.hooks is not None and stream.steps.hooks is None:
            steps.hooks.join(stream.record, self._messages.put)
        stream.steps, stream.record.zones = steps, steps.zones
        stream.completion.forget()

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
            except Exception as error:  # noqa: BLE001 - the boundary of a thread: every error must be reported
                self._give_up(error)
            self.busy_ns += now() - begin
            del message  # do not hold the images' memory while waiting for the next message
        self.present_ns = now() - started

    def _handle(self, message: Message) -> None:
        if self._broken and not isinstance(message, Ended):
            return
        match message:
            case Inferred():
                self._inferred(message)
            case Gated(frame, sequence):
                self._put_in_order(
                    self._streams[frame.stream], sequence, PendingResult(frame, None, Detections.empty(), gated=True)
                )
            case Passed(frame, sequence):
                self._put_in_order(self._streams[frame.stream], sequence, PendingResult(frame, None, Detections.empty()))
            case Superseded(name, sequence):
                self._skip(self._streams[name], sequence)
            case Outdated(name, sequence, frame):
                self._dropped(self._streams[name], sequence, DropReason.OUTDATED, frame)
            case Failed():
                for entry in message.batch.entries:
                    self._lost(entry, message.batch.lane)
                self._engine_failed(message)
            case Hooked():
                self._hooked(message)
            case Ended():
                self._end(message)
            case Broken(cause):
                raise cause

    def _give_up(self, error: Exception) -> None:
        """Report an internal error, accept no more results, and let every stream end: the order of results is lost."""
        self._broken = True
        failure = VisionInferError(f"pipeline: unexpected {type(error).__name__}: {error}", "Please report this.")
        failure.__cause__ = error
        self._failed(failure)
        for stream in list(self._streams.values()):
            self._finish_if_last(stream, 0)

    def _inferred(self, message: Inferred) -> None:
        now = self._clock.monotonic_ns
        lane = message.lane
        begin = now()
        results = self._detections(lane, message) if lane.describer is None else self._descriptions(lane, lane.describer, message)
        end = now()
        entries = message.batch.entries
        count = len(entries)
        for number, entry in enumerate(entries):
            if number in message.unreadable:
                self._streams[entry.stream].record.unreadable += 1
                self._lost(entry, lane.name)
                continue
            stream, pending, sequence = self._streams[entry.stream], results[number], entry.queued.sequence
            # A crop for the secondary model: the frame that it is part of waits in the secondary stage.
            if stream.secondary is not None and stream.secondary.lane == lane.name:
                stream.secondary.came_back(sequence, pending.description)
                self._emit_ready(stream)
                continue
            trace, image = pending.frame.trace, pending.frame.image
            if isinstance(image, TensorImage):
                slot = sum(before.queued.slots for before in entries[:number])
                image.outputs = {name: output[slot] for name, output in message.raw.outputs.items()}
            trace.select_start_ns = begin
            trace.select_end_ns = end
            trace.batch = count
            live = stream.record.live
            if live is not None:
                live.convert_ns += trace.preprocess_end_ns - trace.preprocess_start_ns
            self._put_in_order(stream, sequence, pending)

    def _detections(self, lane: Lane, message: Inferred) -> list[PendingResult]:
        if message.tiled:
            return self._joined(lane, message)
        entries, outputs = message.batch.entries, message.raw.outputs
        letterboxes = [lane.letterbox(entry.queued.item.image.size) for entry in entries]
        selectors = [self._selector(entry, lane) for entry in entries]
        if selectors.count(selectors[0]) == len(selectors):
            selected = select(outputs, letterboxes, selectors[0])
        else:
            selected = [
                select({name: array[at : at + 1] for name, array in outputs.items()}, letterboxes[at : at + 1], selector)[0]
                for at, selector in enumerate(selectors)
            ]
        return [
            PendingResult(entry.queued.item, message.engine, detections)
            for entry, detections in zip(entries, selected, strict=True)
        ]

    def _selector(self, entry: Entry[Frame], lane: Lane) -> Selector:
        if isinstance(entry.queued.item.image, TensorImage):
            return _NO_DETECTIONS
        # The selector of a stream is for the model of its lane: a frame that is still in an old lane uses that lane's selector.
        steps = self._streams[entry.stream].steps
        own = steps.selector
        return lane.selector if own is None or steps.lane != lane.group else own

    def _joined(self, lane: Lane, message: Inferred) -> list[PendingResult]:
        """Return the detections of a batch in which frames have tiles."""
        results: list[PendingResult] = []
        start = 0
        for entry in message.batch.entries:
            frame, selector = entry.queued.item, self._selector(entry, lane)
            stop = start + entry.queued.slots
            outputs = {name: array[start:stop] for name, array in message.raw.outputs.items()}
            start = stop
            if frame.tiles:
                found = select(outputs, [lane.letterbox(tile.size) for tile in frame.tiles], selector)
                detections = join_tiles(found, frame.tiles, frame.image.size, selector.groups)
            else:
                (detections,) = select(outputs, [lane.letterbox(frame.image.size)], selector)
            results.append(PendingResult(frame, message.engine, detections))
        return results

    def _descriptions(self, lane: Lane, describer: Describer, message: Inferred) -> list[PendingResult]:
        entries = message.batch.entries
        letterboxes = [lane.letterbox(entry.queued.item.image.size) for entry in entries]
        descriptions = describer(message.raw.outputs, letterboxes)
        return [
            PendingResult(entry.queued.item, message.engine, Detections.empty(), description)
            for entry, description in zip(entries, descriptions, strict=True)
        ]

    def _lost(self, entry: Entry[Frame], lane: str) -> None:
        """Handle a frame or a crop without a result: the engine failed, or the image could not be written into its slot."""
        stream, sequence = self._streams[entry.stream], entry.queued.sequence
        if stream.secondary is not None and stream.secondary.lane == lane:
            stream.secondary.came_back(sequence, None)
            self._emit_ready(stream)
        elif stream.outlet.needs_images:  # an image that cannot be written may not be drawable either
            self._dropped(stream, sequence, DropReason.FAILED, entry.queued.item)
        else:  # the sinks get the frame without a result: the sender of a single image waits for an answer
            stream.record.drop(DropReason.FAILED, entry.queued.item)
            self._put_in_order(stream, sequence, PendingResult(entry.queued.item, None, Detections.empty()))

    def _dropped(self, stream: _JoinedStream, sequence: int, reason: DropReason, frame: Frame) -> None:
        stream.record.drop(reason, frame)
        stream.window.release()
        self._skip(stream, sequence)

    def _skip(self, stream: _JoinedStream, sequence: int) -> None:
        self._follow(stream, stream.order.skip(sequence))
        self._finish_if_last(stream, 1)

    def _put_in_order(self, stream: _JoinedStream, sequence: int, pending: PendingResult) -> None:
        self._follow(stream, stream.order.put(sequence, pending))
        self._finish_if_last(stream, 1)

    def _follow(self, stream: _JoinedStream, ready: list[PendingResult]) -> None:
        """Continue with frames whose turn it is now."""
        for pending in ready:
            if pending.gated:
                stream.completion.stay(pending, stream.steps)
            elif pending.engine is not None:
                if self.observer is not None:
                    self.observer(pending, stream.steps)
                stream.completion.follow(pending, stream.steps)
            if stream.secondary is None:
                self._emit(stream, pending)
            else:
                stream.secondary.put(pending)
                self._emit_ready(stream)

    def _emit_ready(self, stream: _JoinedStream) -> None:
        if stream.secondary is not None:
            for pending in stream.secondary.ready():
                self._emit(stream, pending)
            self._finish_if_last(stream, 0)

    def _emit(self, stream: _JoinedStream, pending: PendingResult) -> None:
        completion, engine, steps = stream.completion, pending.engine, stream.steps
        if pending.gated:
            result = completion.repeat(pending, steps)
        else:
            result = None if engine is None else completion.finish(pending, engine, steps)
        if steps.hooks is None:
            stream.outlet.put(pending.frame, result)
        else:  # every frame: they stay in order
            steps.hooks.put(Hooked(pending.frame, result, completion.captured_s(pending.frame), pending.gated))

    def _hooked(self, done: Hooked) -> None:
        stream, frame = self._streams[done.frame.stream], done.frame
        hooks = stream.steps.hooks
        assert hooks is not None, "a stream keeps the thread of its hooks"
        hooks.left()
        result = stream.completion.hooked(done)
        if done.withheld:
            frame = replace(frame, image=NoImage(frame.image.size))
        elif done.shown is not None:
            frame = replace(frame, image=ArrayImage(done.shown))
        stream.outlet.put(frame, result)
        self._finish_if_last(stream, 0)

    def _end(self, message: Ended) -> None:
        stream = self._streams.get(message.stream)
        if stream is None:  # it was never opened
            self._ended(message, False)
            return
        stream.end = message
        self._finish_if_last(stream, 0)

    def _finish_if_last(self, stream: _JoinedStream, left: int) -> None:
        """Count frames that have left the order, and close the outlet after the last one."""
        stream.left += left
        end = stream.end
        if end is not None and ((stream.left == end.sequences and not (stream.secondary or stream.steps.hooks)) or self._broken):
            last = None if self._broken else stream.completion.leave_zones(stream.steps)
            hooks = stream.steps.hooks
            if last is not None and hooks is not None:
                hooks.put(Hooked(*last, stream.completion.captured_s(last[0]), last=True))
                return  # it comes back
            del self._streams[end.stream]
            if last is not None:
                stream.outlet.put(*last)
            if hooks is not None:
                hooks.close()
            self._ended(end, True)
            stream.outlet.close(end.complete and not self._broken)
