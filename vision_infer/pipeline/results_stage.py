"""The thread between engines and sinks: select, put in order, filter, track, call the hook, emit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from vision_infer.analyze.describe import Describer
from vision_infer.analyze.select import select
from vision_infer.core.clock import Clock
from vision_infer.core.detections import Detections
from vision_infer.core.drop import DropReason
from vision_infer.core.errors import EngineError, VisionInferError
from vision_infer.core.frame import Frame
from vision_infer.pipeline.channel import Channel, Window
from vision_infer.pipeline.completion import Completion, Found
from vision_infer.pipeline.lanes.lane import Lane
from vision_infer.pipeline.messages import Broken, Ended, Failed, Finish, Gated, Inferred, Message, Outdated, Passed, Superseded
from vision_infer.pipeline.outlet import Outlet
from vision_infer.pipeline.second_stage import SecondStage
from vision_infer.pipeline.steps import Steps
from vision_infer.pipeline.stream_record import StreamRecord
from vision_infer.schedule.batcher import Entry
from vision_infer.schedule.reorder import Reorder
from vision_infer.telemetry.account import StageAccount


@dataclass(slots=True)
class _Stream:
    record: StreamRecord
    outlet: Outlet
    steps: Steps
    window: Window
    completion: Completion
    second: SecondStage | None
    order: Reorder[Found] = field(default_factory=Reorder)
    left: int = 0
    """sequence numbers that have left the order, with a result or without"""
    end: Ended | None = None


class ResultsStage:
    """Takes what the workers have done and hands each stream's results to its outlet, in order.

    Args:
        failed: called with what broke for all streams: an error of our own.
        engine_failed: called with the lane whose engine has failed on a batch, and how.
        ended: called when a stream has given its last result to its outlet, and whether it had joined (had it not, it never
            opened).
    """

    def __init__(
        self,
        messages: Channel[Message],
        clock: Clock,
        failed: Callable[[VisionInferError], None],
        engine_failed: Callable[[str, EngineError], None],
        ended: Callable[[Ended, bool], None],
    ) -> None:
        self._messages = messages
        self._clock = clock
        self._failed = failed
        self._engine_failed = engine_failed
        self._ended = ended
        self._streams: dict[str, _Stream] = {}
        self._broken = False
        self.account = StageAccount()
        self.busy_ns = 0
        self.present_ns = 0
        self.thread = threading.Thread(target=self._run, name="results", daemon=True)

    def join(self, record: StreamRecord, outlet: Outlet, steps: Steps, window: Window, second: SecondStage | None = None) -> None:
        """Let a stream in, before its first frame is offered."""
        completion = Completion(record, self._clock, self.account)
        self._streams[record.name] = _Stream(record, outlet, steps, window, completion, second)

    @property
    def streams(self) -> int:
        """How many have joined and not ended."""
        return len(self._streams)

    def steps(self, name: str) -> Steps | None:
        """The steps of a stream; None where it is not there."""
        stream = self._streams.get(name)
        return None if stream is None else stream.steps

    def change(self, name: str, steps: Steps) -> None:
        """Go on with other steps, from the next result on."""
        stream = self._streams[name]
        stream.steps = steps
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
        elif isinstance(message, Gated):
            gated = Found(message.frame, None, Detections.empty(), gated=True)
            self._put_in_order(self._streams[message.frame.stream], message.sequence, gated)
        elif isinstance(message, Superseded):
            self._skip(self._streams[message.stream], message.sequence)
        elif isinstance(message, Outdated):
            self._dropped(self._streams[message.stream], message.sequence, DropReason.OUTDATED, message.frame)
        elif isinstance(message, Failed):
            for entry in message.batch.entries:
                self._lost(entry, message.batch.lane)
            self._engine_failed(message.batch.lane, message.error)
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
        lane = message.lane
        begin = now()
        found = self._detections(lane, message) if lane.describer is None else self._descriptions(lane.describer, message)
        end = now()
        for place, entry in enumerate(message.batch.entries):
            if place in message.unreadable:
                self._streams[entry.stream].record.unreadable += 1
                self._lost(entry, lane.name)
                continue
            stream, one, sequence = self._streams[entry.stream], found[place], entry.waiting.sequence
            if stream.second is not None and stream.second.lane == lane.name:
                stream.second.came_back(sequence, one.description)
                self._emit_ready(stream)
                continue
            trace = one.frame.trace
            trace.select_start_ns = begin
            trace.select_end_ns = end
            trace.batch = len(message.batch.entries)
            live = stream.record.live
            if live is not None:
                live.convert_ns += trace.preprocess_end_ns - trace.preprocess_start_ns
            self._put_in_order(stream, sequence, one)

    def _detections(self, lane: Lane, message: Inferred) -> list[Found]:
        entries, outputs = message.batch.entries, message.raw.outputs
        boxes, scores, class_ids = outputs["boxes"], outputs["scores"], outputs["class_ids"]
        letterboxes = [lane.letterbox(entry.waiting.item.image.size) for entry in entries]
        steps = [self._streams[entry.stream].steps for entry in entries]
        selectors = [one.selector if one.selector and one.lane == lane.group else lane.selector for one in steps]
        if selectors.count(selectors[0]) == len(selectors):
            selected = select((boxes, scores, class_ids), letterboxes, selectors[0])
        else:
            selected = [
                select((boxes[at : at + 1], scores[at : at + 1], class_ids[at : at + 1]), letterboxes[at : at + 1], selector)[0]
                for at, selector in enumerate(selectors)
            ]
        return [Found(entry.waiting.item, message.engine, one) for entry, one in zip(entries, selected, strict=True)]

    def _descriptions(self, describer: Describer, message: Inferred) -> list[Found]:
        entries = message.batch.entries
        told = describer(message.raw.outputs, len(entries))
        return [
            Found(entry.waiting.item, message.engine, Detections.empty(), one) for entry, one in zip(entries, told, strict=True)
        ]

    def _passed(self, message: Passed) -> None:
        stream = self._streams[message.frame.stream]
        self._put_in_order(stream, message.sequence, Found(message.frame, None, Detections.empty()))

    def _lost(self, entry: Entry[Frame], lane: str) -> None:
        """The engine gave nothing for a frame or a crop, or it could not be written into its slot."""
        stream, sequence = self._streams[entry.stream], entry.waiting.sequence
        if stream.second is not None and stream.second.lane == lane:
            stream.second.came_back(sequence, None)
            self._emit_ready(stream)
        elif stream.outlet.needs_images:  # it may be as little fit to be drawn
            self._dropped(stream, sequence, DropReason.FAILED, entry.waiting.item)
        else:  # who waits for its result has to hear that there is none
            stream.record.drop(DropReason.FAILED, entry.waiting.item)
            self._put_in_order(stream, sequence, Found(entry.waiting.item, None, Detections.empty()))

    def _dropped(self, stream: _Stream, sequence: int, reason: DropReason, frame: Frame) -> None:
        stream.record.drop(reason, frame)
        stream.window.release()
        self._skip(stream, sequence)

    def _skip(self, stream: _Stream, sequence: int) -> None:
        self._follow(stream, stream.order.skip(sequence))
        self._finish_if_last(stream, 1)

    def _put_in_order(self, stream: _Stream, sequence: int, found: Found) -> None:
        self._follow(stream, stream.order.put(sequence, found))
        self._finish_if_last(stream, 1)

    def _follow(self, stream: _Stream, ready: list[Found]) -> None:
        """Go on with frames that are in order now."""
        for found in ready:
            if found.gated:
                stream.completion.stay(found, stream.steps)
            elif found.engine is not None:
                stream.completion.follow(found, stream.steps)
            if stream.second is None:
                self._emit(stream, found)
            else:
                stream.second.put(found)
                self._emit_ready(stream)

    def _emit_ready(self, stream: _Stream) -> None:
        if stream.second is not None:
            for found in stream.second.ready():
                self._emit(stream, found)
            self._finish_if_last(stream, 0)

    def _emit(self, stream: _Stream, found: Found) -> None:
        completion, engine = stream.completion, found.engine
        if found.gated:
            result = completion.repeat(found, stream.steps)
        else:
            result = None if engine is None else completion.finish(found, engine, stream.steps)
        stream.outlet.put(found.frame, result)

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
        if end is not None and ((stream.left == end.sequences and not stream.second) or self._broken):
            del self._streams[end.stream]
            self._ended(end, True)
            stream.outlet.close(end.complete and not self._broken)
