"""From the detections of a frame to its result: filter, track, zones; then identities, the hooks and the account."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NoReturn

from vision_infer.analyze.camera_motion import MAX_WIDTH, CameraMotion
from vision_infer.analyze.track import Tracker
from vision_infer.core.clock import Clock
from vision_infer.core.description import Description
from vision_infer.core.detections import Detections
from vision_infer.core.drop import DropReason
from vision_infer.core.frame import Frame
from vision_infer.core.geometry import Letterbox, Size
from vision_infer.core.image import Image, Slot
from vision_infer.core.result import LiveAccount, Result
from vision_infer.core.scene_event import SceneEvent, with_id
from vision_infer.core.trace import Latency, Trace
from vision_infer.engine.engine import Engine
from vision_infer.pipeline.hooks.frame import NoPixelsError
from vision_infer.pipeline.hooks.stage import Hooked
from vision_infer.pipeline.steps import Steps
from vision_infer.pipeline.stream_record import StreamRecord
from vision_infer.telemetry.account import StageAccount


@dataclass(slots=True)
class PendingResult:
    """A frame between the engine's outputs and its result."""

    frame: Frame
    engine: Engine | None
    """The engine that inferred it; None: it was not inferred."""
    detections: Detections
    description: Description | None = None
    events: tuple[SceneEvent, ...] = ()
    gated: bool = False
    """Whether nothing has moved in it: it repeats the last result."""


@dataclass(frozen=True, slots=True)
class NoImage:
    """The image of a frame that only carries events: there are no pixels."""

    size: Size

    def write_into(self, slot: Slot, letterbox: Letterbox) -> NoReturn:  # noqa: ARG002
        """Raise an error."""
        raise NoPixelsError("the frame has no pixels")

    def to_rgb(self) -> NoReturn:
        """Raise an error."""
        raise NoPixelsError("the frame has no pixels")


@dataclass(slots=True)
class Completion:
    """The last steps of one stream's results, in the stream's order; on one thread.

    Args:
        record: The stream's counters.
        clock: Gives the times of the account.
        account: The account of all streams.
    """

    record: StreamRecord
    clock: Clock
    account: StageAccount
    _reported: dict[DropReason, int] = field(default_factory=dict)
    """The drops that the results of a live stream have reported so far."""
    _followed: Detections | None = None
    """The detections of the last inferred frame as they were tracked; None: there is no result to repeat."""
    _last: Result | None = None
    """The last result before its hooks; a frame in which nothing moves repeats it."""
    _trace: Trace = field(default_factory=Trace)
    """The trace of that result."""

    def forget(self) -> None:
        """Repeat no earlier result: it would not be the same with the new settings."""
        self._followed = None

    def follow(self, pending: PendingResult, steps: Steps) -> None:
        """Filter the detections, number the objects, and update the zones."""
        trace, size = pending.frame.trace, pending.frame.image.size
        trace.track_start_ns = self.clock.monotonic_ns()
        if steps.keep is not None:
            pending.detections = steps.keep(pending.detections, size)
        if steps.tracker is not None:
            time_s = _time_s(pending.frame)
            if steps.camera is not None:
                _move(steps.tracker, steps.camera, pending.frame.image)
            pending.detections = steps.tracker.update(pending.detections, time_s)
            self._update_zones(pending, steps, time_s)
        self._followed = pending.detections

    def stay(self, pending: PendingResult, steps: Steps) -> None:
        """Repeat the detections: nothing has moved. Time passes for objects that stay in zones, and for lost objects."""
        trace = pending.frame.trace
        trace.track_start_ns = self.clock.monotonic_ns()
        if self._followed is None:
            return
        pending.detections = self._followed
        if steps.tracker is not None and self._followed.track_ids is not None:
            time_s = _time_s(pending.frame)
            steps.tracker.stay(time_s)
            self._update_zones(pending, steps, time_s)

    def _update_zones(self, pending: PendingResult, steps: Steps, time_s: float | None) -> None:
        tracker, zones, frame = steps.tracker, steps.zones, pending.frame
        if tracker is not None and zones is not None and time_s is not None:
            pending.events = zones.update(tracker.followed, frame.image.size, time_s, tracker.started)
            zones.history.add(self._captured_wall_ns(frame.trace) / 1e9 if frame.trace.captured_ns else time_s, pending.events)

    def finish(self, pending: PendingResult, engine: Engine, steps: Steps) -> Result | None:
        """Return the result. It is not counted yet if the stream has hooks: :meth:`hooked` counts it."""
        if steps.identities is not None:
            pending.detections = steps.identities.assign(pending.detections, _time_s(pending.frame))
        return self._finish(pending, engine.card.name, engine.name, steps)

    def repeat(self, pending: PendingResult, steps: Steps) -> Result | None:
        """Return the result of a frame in which nothing moves; None when there is none to repeat. See :meth:`finish`."""
        last = self._last
        if last is None or self._followed is None or last.size != pending.frame.image.size:
            self.record.drop(DropReason.GATED, pending.frame)
            return None
        if steps.identities is not None:
            steps.identities.stay(_time_s(pending.frame))
        pending.detections, pending.description = last.detections, last.description
        return self._finish(pending, last.model, last.engine, steps)

    def leave_zones(self, steps: Steps) -> tuple[Frame, Result] | None:
        """Return a last result of the stream, with a ``leave`` event for each object that is still in a zone.

        It has the number and the time of the last frame, but no detections. It is not counted as a result.

        Returns:
            The frame, which has no image, and its result; None when no object is in a zone.
        """
        last = self._last
        events = () if steps.zones is None else steps.zones.leave_all()
        if not events or last is None or steps.zones is None:
            return None
        steps.zones.history.add(steps.zones.history.end_s, events)
        result = replace(
            last,
            detections=Detections.empty(),
            description=None,
            gated=False,
            events=self._with_ids(events, last.stream, last.frame, self._trace),
        )
        if self._trace.captured_ns:
            result = replace(result, live=self._live_account(self._trace))
        return Frame(last.stream, last.frame, last.pts_s, NoImage(last.size), self._trace, last.file), result

    def captured_s(self, frame: Frame) -> float | None:
        """Return the capture time of a live stream's frame, seconds since 1970 (UTC)."""
        return self._captured_wall_ns(frame.trace) / 1e9 if frame.trace.captured_ns else None

    def hooked(self, done: Hooked) -> Result | None:
        """Count a result that has passed the hooks, and return it; None when they drop it."""
        if not done.called or done.last:
            return done.result
        trace, now_ns = done.frame.trace, self.clock.monotonic_ns()
        trace.track_start_ns += now_ns - trace.emitted_ns - done.spent_ns  # waiting for the hooks counts as waiting, not as work
        trace.emitted_ns = now_ns
        latency = trace.latency()
        result = None if done.result is None else replace(done.result, latency=latency)
        return self._count(done.frame, result, latency, done.gated)

    def _finish(self, pending: PendingResult, model: str, engine: str, steps: Steps) -> Result | None:
        frame, record = pending.frame, self.record
        trace = frame.trace
        trace.emitted_ns = self.clock.monotonic_ns()
        latency = trace.latency()
        events = pending.events
        if events:
            events = self._with_ids(events, frame.stream, frame.index, trace)
        result = Result(
            record.row_stream or frame.stream,
            frame.index,
            frame.pts_s,
            frame.image.size,
            model,
            engine,
            pending.detections,
            latency,
            frame.file,
            frame.damaged,
            events=events,
            description=pending.description,
            gated=pending.gated,
        )
        self._last, self._trace = result, trace
        return result if steps.hooks is not None else self._count(frame, result, latency, pending.gated)

    def _count(self, frame: Frame, result: Result | None, latency: Latency, gated: bool) -> Result | None:
        record, trace = self.record, frame.trace
        live = record.live if trace.captured_ns else None
        if not gated:  # a frame that was not inferred has no latency of an inference
            self.account.latency(latency)
        if result is None:
            record.drop(DropReason.HOOK, frame)
            return None
        if live is not None:
            result = replace(result, live=self._live_account(trace))
        if gated:
            record.drop(DropReason.GATED, frame)
            return result
        engine = result.engine
        record.results += 1
        record.by_engine[engine] = record.by_engine.get(engine, 0) + 1
        record.detections += len(result.detections)
        if live is not None:
            age_ns = trace.emitted_ns - trace.captured_ns
            live.ages.record(trace.emitted_ns, age_ns)
            live.age_total.record(age_ns)
            live.flight.emitted(frame, engine, len(result.detections))
        return result

    def _with_ids(self, events: tuple[SceneEvent, ...], stream: str, index: int, trace: Trace) -> tuple[SceneEvent, ...]:
        moment = self._captured_wall_ns(trace) if trace.captured_ns else index
        return tuple(with_id(event, stream, moment) for event in events)

    def _live_account(self, trace: Trace) -> LiveAccount:
        age_ns = trace.emitted_ns - trace.captured_ns
        dropped = self.record.dropped.copy()
        dropped.pop(DropReason.GATED, None)  # each gated frame has a row
        before = {reason.value: count - self._reported.get(reason, 0) for reason, count in dropped.items()}
        self._reported = dropped
        before = {reason: count for reason, count in before.items() if count}
        return LiveAccount(self._captured_wall_ns(trace), age_ns, trace.clock, before)

    def _captured_wall_ns(self, trace: Trace) -> int:
        return self.clock.wall_ns() - (self.clock.monotonic_ns() - trace.captured_ns)


def _move(tracker: Tracker, camera: CameraMotion, image: Image) -> None:
    """Move the tracks with the image, if the motion of the camera is known."""
    read_luma = getattr(image, "luma", None)  # an image that cannot be compared is tracked as from a fixed camera
    affine = None if read_luma is None else camera(read_luma(MAX_WIDTH), image.size)
    if affine is not None:
        tracker.move(affine)


def _time_s(frame: Frame) -> float | None:
    """Return the time for tracking, seconds. The PTS of a live stream may jump and restarts with each connection."""
    return frame.trace.captured_ns / 1e9 if frame.trace.captured_ns else frame.pts_s
