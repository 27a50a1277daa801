"""The thread between engines and sinks: select, put in order, filter, track, call the hook, emit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from vision_infer.analyze.select import select
from vision_infer.core.clock import Clock
from vision_infer.core.detections import Detections
from vision_infer.core.drop import DropReason
from vision_infer.core.errors import EngineError, VisionInferError
from vision_infer.core.frame import Frame
from vision_infer.core.result import LiveAccount, Result
from vision_infer.core.scene_event import SceneEvent
from vision_infer.core.trace import Trace
from vision_infer.pipeline.channel import Channel, Window
from vision_infer.pipeline.lane import Lane
from vision_infer.pipeline.messages import Broken, Ended, Failed, Finish, Inferred, Message, Passed, Superseded
from vision_infer.pipeline.outlet import Outlet
from vision_infer.pipeline.status import LiveRecord, StreamRecord
from vision_infer.pipeline.steps import Steps
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
    steps: Steps
    window: Window
    order: Reorder[_Selected] = field(default_factory=Reorder)
    told: dict[DropReason, int] = field(default_factory=dict)
    """what was dropped until the last result of a live stream"""
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
        lanes: Mapping[str, Lane],
        messages: Channel[Message],
        clock: Clock,
        failed: Callable[[VisionInferError], None],
        engine_failed: Callable[[str, EngineError], None],
        ended: Callable[[Ended, bool], None],
    ) -> None:
        self._lanes = lanes
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

    def join(self, record: StreamRecord, outlet: Outlet, steps: Steps, window: Window) -> None:
        """Let a stream in, before its first frame is offered."""
        self._streams[record.name] = _Stream(record, outlet, steps, window)

    def steps(self, name: str) -> Steps | None:
        """The steps of a stream; None where it is not there."""
        stream = self._streams.get(name)
        return None if stream is None else stream.steps

    def change(self, name: str, steps: Steps) -> None:
        """Go on with other steps, from the next result on."""
        self._streams[name].steps = steps

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
        lane = self._lanes[message.batch.lane]
        entries = message.batch.entries
        begin = now()
        found = self._select(lane, message)
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

    def _select(self, lane: Lane, message: Inferred) -> list[Detections]:
        entries = message.batch.entries
        boxes, scores, class_ids = (message.raw.outputs[name] for name in ("boxes", "scores", "class_ids"))
        letterboxes = [lane.letterbox(entry.waiting.item.picture.size) for entry in entries]
        selectors = [self._streams[entry.stream].steps.selector or lane.selector for entry in entries]
        if all(selector is selectors[0] for selector in selectors):
            return select((boxes, scores, class_ids), letterboxes, selectors[0])
        return [
            select((boxes[at : at + 1], scores[at : at + 1], class_ids[at : at + 1]), letterboxes[at : at + 1], selector)[0]
            for at, selector in enumerate(selectors)
        ]

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
        trace, record, steps = frame.trace, stream.record, stream.steps
        trace.track_start_ns = now()
        events: tuple[SceneEvent, ...] = ()
        if steps.keep is not None:
            detections = steps.keep(detections, frame.picture.size)
        if steps.tracker is not None:
            # A live stream's own time may jump, and begins anew with each connection.
            time_s = trace.captured_ns / 1e9 if trace.captured_ns else frame.pts_s
            detections = steps.tracker.update(detections, time_s)
            if steps.zones is not None and time_s is not None:
                events = steps.zones.update(detections, frame.picture.size, time_s)
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
            events=events,
        )
        if steps.hook is not None and result is not None:
            result = steps.hook(result, record)
            trace.emitted_ns = now()  # a hook's time is part of the account, whatever it does
            latency = trace.latency()
            result = None if result is None else replace(result, latency=latency)
        self.account.latency(latency)
        if result is None:
            record.drop(DropReason.HOOK)
            return None
        record.results += 1
        record.detections += len(result.detections)
        if record.live is not None and trace.captured_ns:
            result = replace(result, live=self._live_account(stream, record.live, trace))
        return result

    def _live_account(self, stream: _Stream, live: LiveRecord, trace: Trace) -> LiveAccount:
        age_ns = trace.emitted_ns - trace.captured_ns
        live.ages.record(trace.emitted_ns, age_ns)
        live.age_total.record(age_ns)
        dropped = stream.record.dropped.copy()
        before = {reason.value: count - stream.told.get(reason, 0) for reason, count in dropped.items()}
        stream.told = dropped
        captured_wall_ns = self._clock.wall_ns() - (self._clock.monotonic_ns() - trace.captured_ns)
        return LiveAccount(captured_wall_ns, age_ns, trace.clock, {reason: count for reason, count in before.items() if count})

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
