"""The API's responses, in the form in which the OpenAPI document describes them."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from vision_infer.config.access.settings import Level
from vision_infer.config.serve import StreamSettings
from vision_infer.core.clock import Clock
from vision_infer.core.result import utc
from vision_infer.pipeline.status import LaneStatus, ReplicaStatus, StreamEvent, StreamState, StreamStatus
from vision_infer.service.events import EngineChange, EngineEvent, MovedEvent, ServiceEvent, wall_ns_of
from vision_infer.service.streams.api_settings import to_public
from vision_infer.service.views import ModelView, Origin, StreamView
from vision_infer.stream.redact import redact


class ApiModel(BaseModel):
    """The base class of all responses."""

    model_config = ConfigDict(frozen=True)


class ImageSize(ApiModel):
    """The size of an image in pixels."""

    width: int
    height: int


class Crossings(ApiModel):
    """The number of crossings of a line by direction."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    in_: int = Field(alias="in")
    out: int


class HookAnswer(ApiModel):
    """The status of a stream's hooks."""

    errors: int = Field(description="The number of calls that failed.")
    timeouts: int = Field(description="The number of these that took too long, or had to wait for such a call.")
    error: str = Field(description="The last failure; empty if there was none.")
    ms: dict[str, float] = Field(description="The p50, p95, p99 and max time of a result in the hooks over about one minute.")


class StreamStatusAnswer(ApiModel):
    """The current status of a stream."""

    state: StreamState
    reason: str = Field(description="The reason for the state; may be empty.")
    node: str | None = Field(
        None, description="The node that runs the stream; null on one machine, and while the stream waits for a node (`pending`)."
    )
    epoch: int | None = Field(
        None,
        description="Increases when another process of a cluster runs the stream: track ids and counts start again. Null on "
        "one machine.",
    )
    since: str | None = Field(description="The time when the stream entered the state (UTC).")
    source: str = Field(description="The URL that is read, without passwords.")
    live: bool
    error: str | None
    size: ImageSize | None = Field(description="The frame size; null until it is known.")
    codec: str | None
    ingest: Literal["rtp", "ffmpeg"] | None = Field(
        description="What reads the stream: `rtp`: this program, or `ffmpeg`: FFmpeg; null until the stream is open, and for "
        "`test://`."
    )
    ingest_reason: str = Field(description="Why FFmpeg reads an RTSP camera although `ingest` is `auto`; else empty.")
    decoder: str | None = Field(description="The device that decodes: `cpu` or `cuda:0`; null until the stream is open.")
    decoder_bytes: int | None = Field(description="The approximate GPU memory of the decoder; null on the CPU.")
    warnings: list[str] = Field(description="Warnings, for example why the GPU does not decode this stream.")
    frame_rate: float | None = Field(description="The frame rate of the source, frames per second.")
    clock: str | None = Field(description="The source of capture times: `arrival`, `camera` or `playout`.")
    clock_offset_ms: float | None = Field(description="The lag of the camera's clock behind the service's clock.")
    last_frame_age_ms: float | None = Field(description="The time since the last frame was decoded.")
    reconnects: int
    decoded: int = Field(description="The number of decoded frames.")
    results: int = Field(description="The number of frames that were inferred and emitted.")
    detections: int
    gaps: int = Field(description="The number of frames that could not be decoded.")
    damaged: int = Field(
        description="The number of decoded frames that are marked as damaged: a part of them is missing, or of a frame that they "
        "refer to."
    )
    dropped: dict[str, int] = Field(description="The number of frames without a result, by reason.")
    rtp_packets: dict[str, int] = Field(
        description="The number of RTP packets of the video over all connections: `received` and used, `lost`, `late` (lost, but "
        "arrived later), `reordered` (received after a later one), `duplicates`, `foreign` (not of this video) and `damaged` "
        "(not RTP). Empty if FFmpeg reads the stream."
    )
    rtp_frames: dict[str, int] = Field(
        description="The number of frames that these packets contained: `whole`, `damaged` (a part is missing), `cut` (given out "
        "before their end) and `oversize` (too large, dropped). Empty if FFmpeg reads the stream."
    )
    lane: str
    model: str
    engine: str
    wanted_fps: float | None
    weight: float
    decoded_fps: float = Field(description="The rate of decoded frames over about ten seconds.")
    result_fps: float = Field(description="The rate of results over about ten seconds.")
    age_ms: dict[str, float] = Field(description="The p50, p95, p99 and max age of results over about one minute.")
    degraded: Literal["none", "rate", "substream", "model"] = Field(
        description="The step of degradation under overload: `rate`: fewer frames than `fps` are inferred; `substream`: "
        "`degrade_detect` is read; `model`: `degrade_model` is used."
    )
    degraded_since: str | None = Field(description="The time when this step was taken (UTC); null if not degraded.")
    degraded_reason: str = Field(description="The measurement that caused the step; empty if not degraded.")
    engine_s: float = Field(description="The engine time used so far, seconds.")
    occupancy: dict[str, int] = Field(description="The current number of objects in each zone.")
    counts: dict[str, Crossings] = Field(description="The number of crossings of each line so far.")
    hook: HookAnswer | None = Field(description="The hooks; null if the stream has none.")


class StreamAnswer(ApiModel):
    """A stream with its settings. Passwords in URLs are shown as ***."""

    name: str
    origin: Origin = Field(
        description="The place of the settings: the configuration `file`, a URL on the `command_line` of the service (changes "
        "last until it stops), or the `api`, which stores them."
    )
    settings: StreamSettings
    status: StreamStatusAnswer | None = Field(description="The status; null if the stream is disabled.")


class ReplicaAnswer(ApiModel):
    """A loaded engine on one device."""

    device: str = Field(description="The device on which its engine runs now: `cpu`, `cuda:0`.")
    engine: str = Field(description="The engine's name: runtime-device-precision.")
    batches: int
    frames: int
    utilization: float = Field(description="The utilization over about ten seconds, 0–1.")
    failures: int = Field(description="The number of batches that failed so far.")
    removed: str | None = Field(description="Why the engine is no longer used; null while it is.")
    gpu_memory: dict[str, int] | None = Field(
        description="The memory of its GPU, bytes: total, free, and used by engine, graphs, decoder, builder and other (CUDA "
        "itself and other programs). Null if it is not on a GPU."
    )


class EngineAnswer(ApiModel):
    """A loaded engine."""

    name: str = Field(
        description="The name of the engine's lane: the model; MODEL@HxW for another input size of the model; "
        "secondary:MODEL for the lane that infers crops of detections."
    )
    node: str | None = Field(None, description="The node of the cluster that has loaded it; null on one machine.")
    model: str
    engine: str = Field(description="The engine's name: runtime-device-precision.")
    input_size: ImageSize
    batch_sizes: list[int]
    in_flight: int = Field(description="The maximum number of concurrent batches.")
    flying: int = Field(description="The number of batches in the engine now.")
    waiting: int = Field(description="The number of frames that wait for the engine now.")
    batches: dict[str, int] = Field(description="The number of batches so far, by batch size.")
    frames: int
    busy_s: float = Field(description="The engine time over all batches so far, seconds.")
    utilization: float = Field(description="The utilization over about ten seconds, 0–1.")
    inference_ms: dict[str, float] = Field(description="The p50, p95 and p99 batch time over about one minute.")
    padded: int = Field(description="The number of batch slots that were filled with padding so far.")
    buffer_bytes: int
    failures: int = Field(description="The number of batches that failed so far.")
    error: str | None = Field(description="The last failure; null if there was none.")
    failing: bool = Field(description="Whether all recent batches failed.")
    replicas: list[ReplicaAnswer] = Field(description="The engine on each device.")
    skeleton: list[tuple[int, int]] = Field(
        description="The lines between the keypoints of the model: pairs of their numbers, from 0."
    )


class ModelAnswer(ApiModel):
    """A model that streams can use."""

    name: str
    task: str
    input_size: ImageSize
    labels: list[str] = Field(description="The labels by class number; empty if the number is the label.")
    license: str
    loaded: bool = Field(description="Whether an engine has loaded the model.")


class StateChange(ApiModel):
    """A change of a stream's state."""

    type: Literal["state"] = "state"
    stream: str
    state: StreamState
    at: str = Field(description="The time of the change (UTC).")
    reason: str


class EngineEventAnswer(ApiModel):
    """A change of an engine."""

    type: Literal["engine"] = "engine"
    lane: str
    change: EngineChange = Field(
        description="`swapped`: the lane now uses this engine; `added`: it uses this one as well; `hanging`: the engine does not "
        "return a batch; `removed`: the engine failed, and the lane continues on other devices."
    )
    engine: str = Field(description="The engine's name: runtime-device-precision.")
    at: str = Field(description="The time of the change (UTC).")
    reason: str


class DegradedAnswer(ApiModel):
    """A stream degrades because the machine is overloaded, or recovers."""

    type: Literal["degraded"] = "degraded"
    stream: str
    step: Literal["none", "rate", "substream", "model"]
    before: Literal["none", "rate", "substream", "model"]
    at: str = Field(description="The time of the change (UTC).")
    reason: str = Field(description="The measurement that caused the step.")


class MovedAnswer(ApiModel):
    """Another process of the cluster runs a stream from now on: its track ids and counts start again."""

    type: Literal["moved"] = "moved"
    stream: str
    before: str = Field(description="The node that ran the stream.")
    node: str | None = Field(description="The node that runs the stream; null if it waits for one.")
    epoch: int = Field(description="The epoch of the stream's rows from now on.")
    at: str = Field(description="The time of the change (UTC).")
    reason: str


class VersionAnswer(ApiModel):
    """The name and version of the program."""

    name: Literal["vision-infer"] = "vision-infer"
    version: str
    api: Literal["v1"] = "v1"
    cluster: bool = Field(description="Whether the service runs on the nodes of a cluster.")


class ReadyAnswer(ApiModel):
    """Whether the service is ready to run inference."""

    ready: bool
    reason: str = Field(description="The reason if it is not ready; else empty.")


class SessionAnswer(ApiModel):
    """The client and its rights."""

    role: Level = Field(description="What the client may do: the level of its role.")
    user: str = Field(description="The name of the client: a person, or the kind of its token; empty if no token is required.")
    role_name: str = Field(description="The name of its role in the configuration.")
    cameras: list[str] | None = Field(description="The streams that it sees, which need not exist; null: all.")
    login: str | None = Field(description="The path of single sign-on, relative to the page; null without it.")
    expires_s: int | None = Field(description="The lifetime of a new session in seconds; null if no session is required.")


def stream_answer(view: StreamView, clock: Clock) -> StreamAnswer:
    """Return a stream as the API shows it."""
    status = None if view.status is None else _status_answer(view.status, clock.monotonic_ns())
    return StreamAnswer(name=view.name, origin=view.origin, settings=to_public(view.settings), status=status)


def shared_fields(answer: type[ApiModel], status: object) -> dict[str, Any]:
    """Return the values of the fields that the response and the status have in common, without passwords."""
    values = {name: getattr(status, name) for name in answer.model_fields if hasattr(status, name)}
    return {name: redact(value) if type(value) is str else value for name, value in values.items()}


def _size(size: tuple[int, int]) -> ImageSize:
    return ImageSize(width=size[0], height=size[1])


def _status_answer(status: StreamStatus, now_ns: int) -> StreamStatusAnswer:
    last_ns = status.last_frame_ns
    return StreamStatusAnswer.model_validate(
        shared_fields(StreamStatusAnswer, status)
        | {
            "since": utc(status.since_wall_ns) if status.since_wall_ns else None,
            "size": None if status.size is None else _size(status.size),
            "warnings": [redact(text) for text in status.warnings],
            "last_frame_age_ms": None if last_ns is None else max(0.0, round((now_ns - last_ns) / 1e6, 3)),
            "decoded_fps": round(status.decoded_fps, 3),
            "result_fps": round(status.result_fps, 3),
            "age_ms": {name: round(value, 3) for name, value in status.age_ms.items()},
            "degraded_since": utc(status.degraded_wall_ns) if status.degraded_wall_ns else None,
            "hook": None if status.hook is None else HookAnswer.model_validate(shared_fields(HookAnswer, status.hook)),
            "engine_s": round(status.engine_ns / 1e9, 6),
            "counts": {name: Crossings(in_=entered, out=left) for name, (entered, left) in status.counts.items()},
        }
    )


def _replica_answer(replica: ReplicaStatus) -> ReplicaAnswer:
    memory = replica.gpu_memory
    shown = None if memory is None else {"total": memory.total, "free": memory.free, **memory.used}
    return ReplicaAnswer.model_validate(shared_fields(ReplicaAnswer, replica) | {"gpu_memory": shown})


def engine_answer(lane: LaneStatus) -> EngineAnswer:
    """Return an engine as the API shows it."""
    return EngineAnswer.model_validate(
        shared_fields(EngineAnswer, lane)
        | {
            "input_size": _size(lane.input_size),
            "batches": {str(size): count for size, count in sorted(lane.batches.items())},
            "busy_s": round(lane.busy_ns / 1e9, 6),
            "utilization": round(lane.utilization, 4),
            "inference_ms": {name: round(value, 3) for name, value in lane.inference_ms.items()},
            "replicas": [_replica_answer(replica) for replica in lane.replicas],
        }
    )


def model_answer(model: ModelView) -> ModelAnswer:
    """Return a model as the API shows it."""
    return ModelAnswer.model_validate(shared_fields(ModelAnswer, model) | {"input_size": _size(model.input_size)})


ChangeAnswer: TypeAlias = StateChange | EngineEventAnswer | DegradedAnswer | MovedAnswer


def event_answer(event: ServiceEvent, clock: Clock) -> ChangeAnswer:
    """Return a change of a stream or of an engine as the API shows it."""
    if isinstance(event, StreamEvent):
        return state_change(event, clock)
    at = utc(wall_ns_of(event, clock))
    if isinstance(event, EngineEvent):
        return EngineEventAnswer(lane=event.lane, change=event.change, engine=event.engine, at=at, reason=redact(event.reason))
    if isinstance(event, MovedEvent):
        return MovedAnswer.model_validate(shared_fields(MovedAnswer, event) | {"at": at})
    step, before = event.step.word, event.before.word
    return DegradedAnswer.model_validate(
        {"stream": event.stream, "step": step, "before": before, "at": at, "reason": event.reason}
    )


def state_change(event: StreamEvent, clock: Clock) -> StateChange:
    """Return a change of state as the API shows it."""
    at = utc(wall_ns_of(event, clock))
    return StateChange(stream=event.stream, state=event.state, at=at, reason=redact(event.reason))
