"""A configured stream, and its view with the current status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from vision_infer.config.serve import StreamSettings
from vision_infer.core.errors import VisionInferError
from vision_infer.pipeline.status import StreamState, StreamStatus
from vision_infer.schedule.degradation import DegradationStep
from vision_infer.service.streams.cost import StreamCost
from vision_infer.service.views import Origin, StreamView
from vision_infer.stream.redact import redact


class StreamKeeper(Protocol):
    """The store for the settings of streams created over the API."""

    def read(self) -> Mapping[str, StreamSettings]:
        """Return all stored settings by name."""

    def write(self, name: str, settings: StreamSettings) -> None:
        """Store a stream's settings.

        Raises:
            OutputError: They cannot be written; the previous settings remain stored.
        """

    def remove(self, name: str) -> None:
        """Remove a stream's settings.

        Raises:
            OutputError: They cannot be removed.
        """


@dataclass(slots=True)
class ConfiguredStream:
    """The settings of a stream and its step of degradation."""

    settings: StreamSettings
    origin: Origin
    problem: VisionInferError | None = None
    """The error that prevents an enabled stream from running."""
    problem_ns: tuple[int, int] = (0, 0)
    """The time of the error: monotonic, and since 1970 (UTC), nanoseconds."""
    step: DegradationStep = DegradationStep.NONE
    """The step of degradation under overload."""
    step_wall_ns: int = 0
    """The time of the last step, nanoseconds since 1970 (UTC)."""
    step_reason: str = ""
    """The measurement that caused the last step."""
    refused: set[DegradationStep] = field(default_factory=set)
    """The steps that failed and are not tried again."""
    full_cost: StreamCost | None = None
    """The cost at full quality and the wanted rate, measured while not degraded; None if not measured."""


def view_of(name: str, stream: ConfiguredStream, status: StreamStatus | None) -> StreamView:
    """Return the view of a stream; ``status`` is None if the supervisor does not know the stream."""
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
