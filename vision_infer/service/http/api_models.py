"""What the API answers, in the form in which it is documented."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from vision_infer.config.serve import StreamSettings
from vision_infer.core.clock import Clock
from vision_infer.core.result import utc
from vision_infer.pipeline.status import LaneStatus, StreamEvent, StreamState, StreamStatus
from vision_infer.service.backend import ModelView, StreamView
from vision_infer.service.operations.engine_event import EngineChange, EngineEvent
from vision_infer.service.streams.degrading import DegradeEvent
from vision_infer.service.streams.public import to_public
from vision_infer.stream.redact import redact


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class ImageSize(_Answer):
    """Pixels."""

    width: int
    height: int


class Crossings(_Answer):
    """How often a line was crossed."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    in_: int = Field(alias="in")
    out: int


class StreamStatusAnswer(_Answer):
    """A stream as it is now."""

    state: StreamState
    reason: str = Field(description="why it is in this state; may be empty")
    since: str | None = Field(description="when it came into this state (UTC)")
    source: str = Field(description="what it is read from, without passwords")
    live: bool
    error: str | None
    size: ImageSize | None = Field(description="of its pictures; null until they are known")
    codec: str | None
    decoder: str | None = Field(description="what decodes it: cpu, or cuda:0; null until it is open")
    decoder_bytes: int | None = Field(description="about what its decoder takes of a GPU's memory; null on the CPU")
    warnings: list[str] = Field(description="what should be known of it, such as why a GPU does not decode it")
    frame_rate: float | None = Field(description="of the source, frames a second")
    clock: str | None = Field(description="how the time of capture is known: arrival, camera or playout")
    clock_offset_ms: float | None = Field(description="how far the camera's own clock is behind ours")
    last_frame_age_ms: float | None = Field(description="how long ago the last frame was decoded")
    reconnects: int
    decoded: int = Field(description="frames decoded")
    results: int = Field(description="frames inferred and emitted")
    detections: int
    gaps: int = Field(description="frames that could not be decoded")
    dropped: dict[str, int] = Field(description="frames that gave no result, by reason")
    lane: str
    model: str
    engine: str
    wanted_fps: float | None
    weight: float
    decoded_fps: float = Field(description="over the last ten seconds or so")
    result_fps: float = Field(description="over the last ten seconds or so")
    age_ms: dict[str, float] = Field(description="p50, p95, p99, max of the ages of its results, over the last minute or so")
    degraded: Literal["none", "rate", "substream", "model"] = Field(
        description="how far it gives way while the machine is too small: `rate`: it gets less than its fps; `substream`: "
        "`degrade_detect` is inferred; `model`: `degrade_model` infers"
    )
    degraded_since: str | None = Field(description="when it came to this step (UTC); null where it does not give way")
    degraded_reason: str = Field(description="what was measured then; empty where it does not give way")
    engine_s: float = Field(description="engine time that it has used, seconds")
    occupancy: dict[str, int] = Field(description="objects in each zone now")
    counts: dict[str, Crossings] = Field(description="crossings of each line so far")


class StreamAnswer(_Answer):
    """A stream with its settings; passwords in URLs are shown as ***."""

    name: str
    origin: Literal["file", "api"] = Field(description="where its settings are kept")
    settings: StreamSettings
    status: StreamStatusAnswer | None = Field(description="null where it is not enabled")


class EngineAnswer(_Answer):
    """An engine that is loaded."""

    name: str = Field(
        description="of its lane: the model's; MODEL@HxW is another input size of it, then:MODEL takes crops of detections"
    )
    model: str
    engine: str = Field(description="runtime-device-precision")
    input_size: ImageSize
    batch_sizes: list[int]
    in_flight: int = Field(description="batches at the same time, at most")
    flying: int = Field(description="batches in the engine now")
    waiting: int = Field(description="frames that wait for it now")
    batches: dict[str, int] = Field(description="batches so far, by the number of frames in them")
    frames: int
    busy_s: float = Field(description="engine time so far, over all batches, seconds")
    utilisation: float = Field(description="0–1, over the last ten seconds or so")
    inference_ms: dict[str, float] = Field(description="p50, p95, p99 of a batch, over the last minute or so")
    padded: int = Field(description="places of batches wasted so far")
    buffer_bytes: int
    failures: int = Field(description="batches so far on which the engine failed")
    error: str | None = Field(description="the last failure; null: there was none")
    failing: bool = Field(description="it has failed on every batch lately")


class ModelAnswer(_Answer):
    """A model that streams may use."""

    name: str
    task: str
    input_size: ImageSize
    labels: list[str] = Field(description="by class number; empty where the number is the label")
    licence: str
    loaded: bool = Field(description="an engine runs it now")


class StateChange(_Answer):
    """A stream changed its state."""

    type: Literal["state"] = "state"
    stream: str
    state: StreamState
    at: str = Field(description="when (UTC)")
    reason: str


class EngineEventAnswer(_Answer):
    """Something happened to an engine."""

    type: Literal["engine"] = "engine"
    lane: str
    change: EngineChange = Field(
        description="swapped: the lane goes on with this engine; hanging: a batch does not come back from it"
    )
    engine: str = Field(description="runtime-device-precision")
    at: str = Field(description="when (UTC)")
    reason: str


class DegradedAnswer(_Answer):
    """A stream gives way since the machine is too small, or takes that back."""

    type: Literal["degraded"] = "degraded"
    stream: str
    step: Literal["none", "rate", "substream", "model"]
    before: Literal["none", "rate", "substream", "model"]
    at: str = Field(description="when (UTC)")
    reason: str = Field(description="what was measured")


class VersionAnswer(_Answer):
    """What runs here."""

    name: Literal["vision-infer"] = "vision-infer"
    version: str
    api: Literal["v1"] = "v1"


class ReadyAnswer(_Answer):
    """Whether pictures can be inferred."""

    ready: bool
    reason: str = Field(description="why not; empty when ready")


class SessionAnswer(_Answer):
    """Who is asking."""

    role: Literal["admin", "view"]
    expires_s: int | None = Field(description="how long a session lasts that begins now, seconds; null where none is needed")


def stream_answer(view: StreamView, clock: Clock) -> StreamAnswer:
    """A stream as it is shown."""
    status = None if view.status is None else _status_answer(view.status, clock.monotonic_ns())
    return StreamAnswer(name=view.name, origin=view.origin, settings=to_public(view.settings), status=status)


def _status_answer(status: StreamStatus, now_ns: int) -> StreamStatusAnswer:
    last_ns = status.last_frame_ns
    return StreamStatusAnswer(
        state=status.state,
        reason=redact(status.reason),
        since=utc(status.since_wall_ns) if status.since_wall_ns else None,
        source=redact(status.source),
        live=status.live,
        error=None if status.error is None else redact(status.error),
        size=None if status.size is None else ImageSize(width=status.size[0], height=status.size[1]),
        codec=status.codec,
        decoder=status.decoder,
        decoder_bytes=status.decoder_bytes,
        warnings=[redact(text) for text in status.warnings],
        frame_rate=status.frame_rate,
        clock=status.clock,
        clock_offset_ms=status.clock_offset_ms,
        last_frame_age_ms=None if last_ns is None else max(0.0, round((now_ns - last_ns) / 1e6, 3)),
        reconnects=status.reconnects,
        decoded=status.decoded,
        results=status.results,
        detections=status.detections,
        gaps=status.gaps,
        dropped=dict(status.dropped),
        lane=status.lane,
        model=status.model,
        engine=status.engine,
        wanted_fps=status.wanted_fps,
        weight=status.weight,
        decoded_fps=round(status.decoded_fps, 3),
        result_fps=round(status.result_fps, 3),
        age_ms={name: round(value, 3) for name, value in status.age_ms.items()},
        degraded=status.degraded,
        degraded_since=utc(status.degraded_wall_ns) if status.degraded_wall_ns else None,
        degraded_reason=status.degraded_reason,
        engine_s=round(status.engine_ns / 1e9, 6),
        occupancy=dict(status.occupancy),
        counts={name: Crossings(in_=entered, out=left) for name, (entered, left) in status.counts.items()},
    )


def engine_answer(lane: LaneStatus) -> EngineAnswer:
    """An engine as it is shown."""
    return EngineAnswer(
        name=lane.name,
        model=lane.model,
        engine=lane.engine,
        input_size=ImageSize(width=lane.input_size[0], height=lane.input_size[1]),
        batch_sizes=list(lane.batch_sizes),
        in_flight=lane.in_flight,
        flying=lane.flying,
        waiting=lane.waiting,
        batches={str(size): count for size, count in sorted(lane.batches.items())},
        frames=lane.frames,
        busy_s=round(lane.busy_ns / 1e9, 6),
        utilisation=round(lane.utilisation, 4),
        inference_ms={name: round(value, 3) for name, value in lane.inference_ms.items()},
        padded=lane.padded,
        buffer_bytes=lane.buffer_bytes,
        failures=lane.failures,
        error=None if lane.error is None else redact(lane.error),
        failing=lane.failing,
    )


def model_answer(model: ModelView) -> ModelAnswer:
    """A model as it is shown."""
    width, height = model.input_size
    return ModelAnswer(
        name=model.name,
        task=model.task,
        input_size=ImageSize(width=width, height=height),
        labels=list(model.labels),
        licence=model.licence,
        loaded=model.loaded,
    )


def event_answer(
    event: StreamEvent | EngineEvent | DegradeEvent, clock: Clock
) -> StateChange | EngineEventAnswer | DegradedAnswer:
    """A change of a stream or of an engine as it is shown."""
    if isinstance(event, StreamEvent):
        return state_change(event, clock)
    if isinstance(event, DegradeEvent):
        at = utc(clock.wall_ns() - (clock.monotonic_ns() - event.at_ns))
        step, before = event.step.word, event.before.word
        return DegradedAnswer.model_validate(
            {"stream": event.stream, "step": step, "before": before, "at": at, "reason": event.reason}
        )
    at = utc(clock.wall_ns() - (clock.monotonic_ns() - event.at_ns))
    return EngineEventAnswer(lane=event.lane, change=event.change, engine=event.engine, at=at, reason=redact(event.reason))


def state_change(event: StreamEvent, clock: Clock) -> StateChange:
    """A change of state as it is shown."""
    wall_ns = clock.wall_ns() - (clock.monotonic_ns() - event.at_ns)
    return StateChange(stream=event.stream, state=event.state, at=utc(wall_ns), reason=redact(event.reason))
