"""From what was found in a frame to its result: filter, track, zones; then the hook and the account."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from vision_infer.core.clock import Clock
from vision_infer.core.description import Description
from vision_infer.core.detections import Detections
from vision_infer.core.drop import DropReason
from vision_infer.core.frame import Frame
from vision_infer.core.result import LiveAccount, Result
from vision_infer.core.scene_event import SceneEvent
from vision_infer.core.trace import Trace
from vision_infer.engine.engine import Engine
from vision_infer.pipeline.status import LiveRecord, StreamRecord
from vision_infer.pipeline.steps import Steps
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

    def follow(self, found: Found, steps: Steps) -> None:
        """Leave out what does not count, number the objects, and see where they are."""
        trace, size = found.frame.trace, found.frame.picture.size
        trace.track_start_ns = self.clock.monotonic_ns()
        if steps.keep is not None:
            found.detections = steps.keep(found.detections, size)
        if steps.tracker is not None:
            # A live stream's own time may jump, and begins anew with each connection.
            time_s = trace.captured_ns / 1e9 if trace.captured_ns else found.frame.pts_s
            found.detections = steps.tracker.update(found.detections, time_s)
            if steps.zones is not None and time_s is not None:
                found.events = steps.zones.update(found.detections, size, time_s)

    def finish(self, found: Found, engine: Engine, steps: Steps) -> Result | None:
        """The result; None where the hook wants none."""
        frame, record, now = found.frame, self.record, self.clock.monotonic_ns
        trace = frame.trace
        trace.emitted_ns = now()
        latency = trace.latency()
        result: Result | None = Result(
            frame.stream,
            frame.index,
            frame.pts_s,
            frame.picture.size,
            engine.card.name,
            engine.name,
            found.detections,
            latency,
            frame.file,
            frame.damaged,
            events=found.events,
            description=found.description,
        )
        if steps.hook is not None and result is not None:
            result = steps.hook(result, record)
            trace.emitted_ns = now()  # a hook's time is part of the account, whatever it does
            latency = trace.latency()
            result = None if result is None else replace(result, latency=latency)
        self.account.latency(latency)
        if result is None:
            record.drop(DropReason.HOOK, frame)
            return None
        record.results += 1
        record.by_engine[engine.name] = record.by_engine.get(engine.name, 0) + 1
        record.detections += len(result.detections)
        if record.live is not None and trace.captured_ns:
            result = replace(result, live=self._live_account(record.live, trace))
            record.live.flight.emitted(frame, engine.name, len(result.detections))
        return result

    def _live_account(self, live: LiveRecord, trace: Trace) -> LiveAccount:
        age_ns = trace.emitted_ns - trace.captured_ns
        live.ages.record(trace.emitted_ns, age_ns)
        live.age_total.record(age_ns)
        dropped = self.record.dropped.copy()
        before = {reason.value: count - self._told.get(reason, 0) for reason, count in dropped.items()}
        self._told = dropped
        captured_wall_ns = self.clock.wall_ns() - (self.clock.monotonic_ns() - trace.captured_ns)
        return LiveAccount(captured_wall_ns, age_ns, trace.clock, {reason: count for reason, count in before.items() if count})
