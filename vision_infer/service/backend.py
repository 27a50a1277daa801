"""What stands behind the routes. They know nothing else of the pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from vision_infer.config.serve import ServeSettings, StreamSettings
from vision_infer.core.errors import VisionInferError
from vision_infer.core.result import Result
from vision_infer.pipeline.status import Flight, LaneStatus, StreamEvent, StreamStatus
from vision_infer.service.operations.engine_event import EngineEvent
from vision_infer.service.streams.cost import Cost
from vision_infer.sink.delivery.carrier import SinkStatus
from vision_infer.telemetry.histogram import Histogram

if TYPE_CHECKING:
    from vision_infer.preview.preview import Preview
    from vision_infer.service.clips.clip_recorder import Clips
    from vision_infer.service.results.hub import ResultHub
    from vision_infer.service.streams.degrading import DegradeEvent


class UnknownStreamError(VisionInferError):
    """There is no stream of this name."""


class ConflictError(VisionInferError):
    """It does not go with what is there: the name is taken, the stream belongs to the file, there are too many."""


class UnavailableError(VisionInferError):
    """It cannot be had now, and may be had later: the stream gives no picture, the model is being loaded.

    Args:
        message: what cannot be had; one line.
        hint: what to do next.
        state: the state of the stream, where it is one.
        reason: why the stream is in it, without secrets.
    """

    def __init__(self, message: str, hint: str = "", state: str = "", reason: str = "") -> None:
        super().__init__(message, hint)
        self.state = state
        self.reason = reason


@dataclass(frozen=True, slots=True)
class StreamView:
    """A stream with its settings."""

    name: str
    origin: Literal["file", "api"]
    """where its settings are kept"""
    settings: StreamSettings
    status: StreamStatus | None
    """None: it is not enabled"""


@dataclass(frozen=True, slots=True)
class ModelView:
    """A model that streams may use."""

    name: str
    task: str
    input_size: tuple[int, int]
    """width and height, pixels"""
    labels: tuple[str, ...]
    """by class number; empty where the number is the label"""
    licence: str
    loaded: bool
    """an engine runs it now"""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A picture of a stream."""

    jpeg: bytes
    captured_wall_ns: int
    """when it was taken, nanoseconds since 1970 (UTC)"""
    width: int
    height: int


class Backend(Protocol):
    """The service without its web side. All methods block, and may be called from any thread."""

    @property
    def settings(self) -> ServeSettings:
        """The settings with which it was started."""
        ...

    @property
    def hub(self) -> ResultHub:
        """Where results are listened to."""
        ...

    @property
    def preview(self) -> Preview:
        """Where streams are watched."""
        ...

    @property
    def clips(self) -> Clips:
        """What happened in zones and at lines, and clips of it."""
        ...

    def ready(self) -> tuple[bool, str]:
        """Whether it can infer, and why not: ``loading nanodet-416``."""
        ...

    def streams(self) -> list[StreamView]:
        """All streams, those that are not enabled too."""
        ...

    def stream(self, name: str) -> StreamView:
        """One stream.

        Raises:
            UnknownStreamError: there is none of this name.
        """
        ...

    def create(self, name: str, settings: StreamSettings) -> StreamView:
        """Add a stream, and keep it.

        Raises:
            ConflictError: the name is taken, or there are as many streams as may be.
            UsageError: the settings cannot be used, such as those of an unknown model.
        """
        ...

    def replace(self, name: str, settings: StreamSettings) -> StreamView:
        """Give a stream other settings, and keep them.

        Raises:
            UnknownStreamError: there is none of this name.
            ConflictError: it belongs to the file of settings.
            UsageError: the settings cannot be used.
        """
        ...

    def delete(self, name: str) -> None:
        """Take a stream away, for good.

        Raises:
            UnknownStreamError: there is none of this name.
            ConflictError: it belongs to the file of settings.
        """
        ...

    def flight(self, name: str) -> Flight:
        """What became of a stream's frames.

        Raises:
            UnknownStreamError: there is none of this name.
            UnavailableError: it is not enabled, or could not be started.
        """
        ...

    def snapshot(self, name: str, annotated: bool, timeout_s: float) -> Snapshot:
        """A picture of the stream as it is now.

        Raises:
            UnknownStreamError: there is none of this name.
            UnavailableError: it gives no picture now, or gave none in this time.
        """
        ...

    def infer(self, image: bytes, model: str | None, confidence: float | None, classes: tuple[str, ...] | None) -> Result:
        """Infer one picture, given as JPEG, PNG or WebP.

        Raises:
            UsageError: it is no picture, is too large, or the model or a label is unknown.
            UnavailableError: the model is not loaded now.
        """
        ...

    def lanes(self) -> list[LaneStatus]:
        """All engines that are loaded."""
        ...

    def cost(self) -> Cost:
        """What each stream takes, as measured over the last ten seconds or so."""
        ...

    def models(self) -> list[ModelView]:
        """All models that streams may use."""
        ...

    def events(self) -> Sequence[StreamEvent | EngineEvent | DegradeEvent]:
        """The last changes of streams, and of engines, the newest last; bounded."""
        ...

    def sinks(self) -> list[SinkStatus]:
        """Where results, events and states are sent, and how that stands."""
        ...

    def stages(self) -> Mapping[str, Histogram]:
        """Durations by stage of the account, since the start."""
        ...
