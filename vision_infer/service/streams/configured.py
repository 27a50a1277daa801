"""A stream as its settings want it, and how that is shown together with how it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from vision_infer.config.serve import StreamSettings
from vision_infer.core.errors import VisionInferError
from vision_infer.pipeline.status import StreamState, StreamStatus
from vision_infer.schedule.degradation import DegradationStep
from vision_infer.service.streams.cost import StreamCost
from vision_infer.service.views import StreamView
from vision_infer.stream.redact import redact

Origin = Literal["file", "api"]
"""where the settings of a stream are kept"""


class StreamKeeper(Protocol):
    """Where the settings of streams are kept that are made over the API."""

    def read(self) -> Mapping[str, StreamSettings]:
        """All that are kept, by name."""
        ...

    def write(self, name: str, settings: StreamSettings) -> None:
        """Keep a stream's settings.

        Raises:
            OutputError: they cannot be written; what was kept before is still there.
        """
        ...

    def remove(self, name: str) -> None:
        """Keep them no longer.

        Raises:
            OutputError: they cannot be removed.
        """
        ...


@dataclass(slots=True)
class ConfiguredStream:
    """What is wanted of a stream."""

    settings: StreamSettings
    origin: Origin
    problem: VisionInferError | None = None
    """why it is not running although it is enabled"""
    problem_ns: tuple[int, int] = (0, 0)
    """since when, monotonic and wall"""
    step: DegradationStep = DegradationStep.NONE
    """how far it gives way while the machine is too small"""
    step_wall_ns: int = 0
    """since when, nanoseconds since 1970 (UTC)"""
    step_reason: str = ""
    """what was measured then"""
    refused: set[DegradationStep] = field(default_factory=set)
    """steps that could not be taken"""
    in_full: StreamCost | None = None
    """what it took when it gave way in nothing but its rate, at the rate that it wants; None: not measured"""


def view_of(name: str, stream: ConfiguredStream, status: StreamStatus | None) -> StreamView:
    """A stream with its settings; ``status`` is None where the supervisor does not know it."""
    if status is None and stream.settings.enabled:
        status = _not_running(name, stream)
    if status is not None and stream.step is not DegradationStep.NONE:
        step = stream.step.word
        status = replace(status, degraded=step, degraded_wall_ns=stream.step_wall_ns, degraded_reason=stream.step_reason)
    return StreamView(name, stream.origin, stream.settings, status)


def _not_running(name: str, stream: ConfiguredStream) -> StreamStatus:
    state = StreamState.WAITING if stream.problem is None else StreamState.FAILED
    return StreamStatus(
        name=name,
        source=redact(stream.settings.detect),
        state=state,
        frames_expected=None,
        frame_rate=None,
        decoded=0,
        results=0,
        detections=0,
        gaps=0,
        dropped={},
        error=None if stream.problem is None else redact(str(stream.problem)),
        image_bytes=0,
        live=True,
        reason="" if stream.problem is None else redact(str(stream.problem)),
        since_ns=stream.problem_ns[0],
        since_wall_ns=stream.problem_ns[1],
    )
