"""From what was found in a frame to its result: filter, track, zones; then the hook and the account."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from vision_infer.core.clock import Clock
from vision_infer.core.description import Description
from vision_infer.core.detections import Detections
from vision_infer.core.drop import DropReason
from vision_infer.core.frame import Frame
from vision_infer.core.geometry import Size
from vision_infer.core.result import LiveAccount, Result
from vision_infer.core.scene_event import SceneEvent, with_id
from vision_infer.core.trace import Trace
from vision_infer.engine.engine import Engine
from vision_infer.pipeline.steps import Steps
from vision_infer.pipeline.stream_record import StreamRecord
from vision_infer.telemetry.account import StageAccount


@dataclass(slots=True)
class Found:
    """A frame on its way from the engine's outputs to its result."""

    frame: Frame
    engine: Engine | None
    """that inferred it; None: it was not inferred"""
    detections: Detections
    description: Description | None = None
    events: tuple[SceneEvent, ...] = ()
    gated: bool = False
    """nothing has moved in it: it repeats what was found last"""


# Not frozen: that would treble what it costs to make one, and one is made for every frame.
@dataclass(slots=True)
class _Shown:
    """What a result showed, for those that repeat it."""

    size: Size
    """of the picture, pixels"""
    model: str
    engine: str
    detections: Detections
    description: Description | None


@dataclass(slots=True)
class Completion:
    """The last steps of one stream's results, in its order; on one thread.

    Args:
        record: where the stream's counts are kept.
        clock: gives the times of the account.
        account: of all streams.
    """

    record: StreamRecord
    clock: Clock
    account: StageAccount
    _told: dict[DropReason, int] = field(default_factory=dict)
    """what was dropped until the last result of a live stream"""
    _followed: Detections | None = None
    """of the last frame that was inferred, as they were when it was tracked"""
    _shown: _Shown | None = None
    """of the last frame that was inferred, as its result had it"""

    def forget(self) -> None:
        """What was found last would not be found now: there is nothing to repeat until the next frame is inferred."""
        self._followed = self._shown = None

    def follow(self, found: Found, steps: Steps) -> None:
        """Leave out what does not count, number the objects, and see where they are."""
        trace, size = found.frame.trace, found.frame.image.size
        trace.track_start_ns = self.clock.monotonic_ns()
        if steps.keep is not None:
            found.detections = steps.keep(found.detections, size)
        if steps.tracker is not None:
            # A live stream's own time may jump, and begins anew with each connection.
            time_s = _time_s(found.frame)
            found.detections = steps.tracker.update(found.detections, time_s)
            if steps.zones is not None and time_s is not None:
                found.events = steps.zones.update(found.detections, size, time_s)
        self._followed = found.detections

    def stay(self, found: Found, steps: Steps) -> None:
        """Nothing has moved: each object is where it was, and time goes on for those who stay and for those who are gone."""
        trace = found.frame.trace
        trace.track_start_ns = self.clock.monotonic_ns()
        if self._followed is None:
            return
        found.detections = self._followed
        if steps.tracker is not None and self._followed.track_ids is not None:
            time_s = _time_s(found.frame)
            steps.tracker.stay(time_s)
            if steps.zones is not None and time_s is not None:
                found.events = steps.zones.update(self._followed, found.frame.image.size, time_s)

    def finish(self, found: Found, engine: Engine, steps: Steps) -> Result | None:
        """The result; None where the hook wants none."""
        size = found.frame.image.size
        self._shown = _Shown(size, engine.card.name, engine.name, found.detections, found.description)
        return self._finish(found, self._shown, steps)

    def repeat(self, found: Found, steps: Steps) -> Result | None:
        """The result of a frame in which nothing has moved; None where there is nothing to repeat, or the hook wants none."""
        shown = self._shown
        if shown is None or shown.size != found.frame.image.size:
            self.record.drop(DropReason.GATED, found.frame)
            return None
        found.detections, found.description = shown.detections, shown.description
        return self._finish(found, shown, steps)

    def _finish(self, found: Found, shown: _Shown, steps: Steps) -> Result | None:
        frame, record, now = found.frame, self.record, self.clock.monotonic_ns
        trace = frame.trace
        trace.emitted_ns = now()
        latency = trace.latency()
        events = found.events
        if events:
            moment = self._captured_wall_ns(trace) if trace.captured_ns else frame.index
            events = tuple(with_id(event, frame.stream, moment) for event in events)
        result: Result | None = Result(
            frame.stream,
            frame.index,
            frame.pts_s,
            frame.image.size,
            shown.model,
            shown.engine,
            found.detections,
            latency,
            frame.file,
            frame.damaged,
            events=events,
            description=found.description,
            gated=found.gated,
        )
        if steps.hook is not None and result is not None:
            result = steps.hook(result, record)
            trace.emitted_ns = now()  # a hook's time is part of the account, whatever it does
            latency = trace.latency()
            result = None if result is None else replace(result, latency=latency)
        if not found.gated:  # it was not inferred: its times are none of an inference
            self.account.latency(latency)
        if result is None:
            record.drop(DropReason.HOOK, frame)
            return None
        live = record.live if trace.captured_ns else None
        if live is not None:
            result = replace(result, live=self._live_account(trace))
        if found.gated:
            record.drop(DropReason.GATED, frame)
            return result
        record.results += 1
        record.by_engine[shown.engine] = record.by_engine.get(shown.engine, 0) + 1
        record.detections += len(result.detections)
        if live is not None:
            age_ns = trace.emitted_ns - trace.captured_ns
            live.ages.record(trace.emitted_ns, age_ns)
            live.age_total.record(age_ns)
            live.flight.emitted(frame, shown.engine, len(result.detections))
        return result

    def _live_account(self, trace: Trace) -> LiveAccount:
        age_ns = trace.emitted_ns - trace.captured_ns
        dropped = self.record.dropped.copy()
        dropped.pop(DropReason.GATED, None)  # they have rows
        before = {reason.value: count - self._told.get(reason, 0) for reason, count in dropped.items()}
        self._told = dropped
        before = {reason: count for reason, count in before.items() if count}
        return LiveAccount(self._captured_wall_ns(trace), age_ns, trace.clock, before)

    def _captured_wall_ns(self, trace: Trace) -> int:
        return self.clock.wall_ns() - (self.clock.monotonic_ns() - trace.captured_ns)


def _time_s(frame: Frame) -> float | None:
    """The time by which objects move, seconds: a live stream's own may jump, and begins anew with each connection."""
    return frame.trace.captured_ns / 1e9 if frame.trace.captured_ns else frame.pts_s
