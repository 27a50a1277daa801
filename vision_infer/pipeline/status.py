"""What a running pipeline reports: plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from vision_infer.engine.gpu.ledger import GpuMemory
from vision_infer.telemetry.flight_recorder import FlightRecorder
from vision_infer.telemetry.histogram import Histogram


class StreamState(Enum):
    """The state of a stream."""

    WAITING = "waiting"
    """The stream waits for its turn to be opened."""
    PENDING = "pending"
    """No node of the cluster can run the stream now."""
    OPENING = "opening"
    RUNNING = "running"
    CONNECTING = "connecting"
    """A live source is being opened, or has not delivered its first frame yet."""
    LIVE = "live"
    """Frames arrive."""
    STALLED = "stalled"
    """The source is connected, but no frame has arrived for a while."""
    BACKING_OFF = "backing_off"
    """The connection is lost; the next attempt waits."""
    REFUSED = "refused"
    """The camera or server refused (wrong password, no such stream, cannot be decoded); the next attempt waits long."""
    ENDED = "ended"
    """The stream was read to its end, and all results are written."""
    STOPPED = "stopped"
    """The stream was stopped before its end; the frames that were decoded are written."""
    FAILED = "failed"
    """The source or an output failed; what was complete before that is written. A live stream fails after its last attempt."""

    @property
    def final(self) -> bool:
        """Whether the stream delivers nothing more."""
        return self in (StreamState.ENDED, StreamState.STOPPED, StreamState.FAILED)


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """A state change of a stream."""

    stream: str
    state: StreamState
    at_ns: int
    """The time of the change, monotonic, nanoseconds."""
    reason: str = ""
    """The reason, in one line without secrets."""
    at_wall_ns: int = 0
    """The time of the change, nanoseconds since 1970 (UTC)."""


@dataclass(frozen=True, slots=True)
class Flight:
    """The outcomes of a live stream's frames, and the state changes of the stream."""

    frames: FlightRecorder
    changes: tuple[StreamEvent, ...]
    """The last state changes, oldest first."""
    wanted_fps: float | None
    ingest: Literal["rtp", "ffmpeg"] | None = None
    """What reads the stream, as in its status."""
    ingest_reason: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """The resources that a live stream uses, over the last ten seconds or so: seconds per second."""

    thread: float = 0.0
    """The CPU time of the stream's own thread."""
    convert: float = 0.0
    """The time for writing its images into slots."""
    engine: float = 0.0
    """The engine time; that of a batch is divided among its frames."""


@dataclass(frozen=True, slots=True)
class HookStatus:
    """The status of a stream's hooks."""

    errors: int
    timeouts: int
    error: str
    """The last failure, one line; empty if there was none."""
    ms: Mapping[str, float]
    """``p50``, ``p95``, ``p99``, ``max`` of the time for a result in the last minute or so; empty without calls."""
    times: Histogram = field(compare=False)
    """The times for all results so far."""


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """The status of a stream at one moment."""

    name: str
    source: str
    state: StreamState
    frames_expected: int | None
    """The number of frames in the whole stream; None if unknown."""
    frame_rate: float | None
    """The frame rate of the source, frames per second; None if unknown."""
    decoded: int
    results: int
    detections: int
    gaps: int
    dropped: dict[str, int]
    error: str | None
    image_bytes: int
    """The maximum memory of its decoded images in the pipeline; 0 before it is open, and if unknown."""
    tiles: int = 1
    """The number of tiles of each frame, 1 for a whole image."""
    live: bool = False
    reason: str = ""
    """The reason for the state, one line without secrets; may be empty."""
    since_ns: int = 0
    """The time of the last state change, monotonic, nanoseconds."""
    since_wall_ns: int = 0
    """The same, nanoseconds since 1970 (UTC)."""
    ingest: Literal["rtp", "ffmpeg"] | None = None
    """What reads a live stream: ``rtp``, this program, or ``ffmpeg``; None before it is open."""
    ingest_reason: str = ""
    """Why FFmpeg reads an RTSP camera although ``ingest`` is ``auto``, without secrets; empty if it does not."""
    damaged: int = 0
    """The number of decoded frames that are marked as damaged."""
    rtp_packets: Mapping[str, int] = field(default_factory=dict)
    """The numbers of :class:`~vision_infer.stream.rtp_counts.RtpCounts` over all connections; empty without RTP."""
    rtp_frames: Mapping[str, int] = field(default_factory=dict)
    """The numbers of :class:`~vision_infer.stream.rtp_counts.PictureCounts` over all connections; empty without RTP."""
    size: tuple[int, int] | None = None
    """The width and height of the source image, pixels; None if not known yet."""
    codec: str | None = None
    decoder: str | None = None
    """The decoder: ``cpu``, or ``cuda:0``; None before it is open."""
    decoder_bytes: int | None = None
    """The approximate GPU memory of the decoder; None if the stream is decoded on the CPU."""
    gpu_decoder_failures: int = 0
    """The number of failures of the GPU decoder; after one, the stream is decoded on the CPU."""
    warnings: tuple[str, ...] = ()
    """Warnings about the source, a line each."""
    reconnects: int = 0
    """The number of connections after the first."""
    last_frame_ns: int | None = None
    """The time when the last frame was decoded, monotonic; None before the first."""
    clock_offset_ms: float | None = None
    """How far the camera's clock is behind ours, milliseconds; None if unknown."""
    clock: str | None = None
    """The origin of the last frame's capture time; None before the first frame."""
    lane: str = ""
    model: str = ""
    engine: str = ""
    wanted_fps: float | None = None
    """The maximum number of frames per second to infer; None: all."""
    weight: float = 1.0
    decoded_fps: float = 0.0
    """The rate of decoded frames over the last ten seconds or so."""
    result_fps: float = 0.0
    """The rate of results over the last ten seconds or so."""
    age_ms: Mapping[str, float] = field(default_factory=dict)
    """``p50``, ``p95``, ``p99``, ``max`` of the ages of its results in the last minute or so; empty without results."""
    ages: Histogram | None = field(default=None, compare=False)
    """The ages of all its results so far; None for a source that is not live."""
    engine_ns: int = 0
    """The engine time used so far."""
    usage: Usage = field(default_factory=Usage)
    degraded: str = "none"
    """The degradation level while the machine is overloaded: none, rate, substream, model."""
    degraded_wall_ns: int = 0
    """The start of this degradation, nanoseconds since 1970 (UTC); 0 if there is none."""
    degraded_reason: str = ""
    """The measurement that caused this degradation; empty if there is none."""
    occupancy: Mapping[str, int] = field(default_factory=dict)
    """The number of objects in each zone now."""
    counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """The number of crossings of each line so far, in and out."""
    hook: HookStatus | None = None
    """The user's hooks; None if the stream has none."""


@dataclass(frozen=True, slots=True)
class ReplicaRemoval:
    """A replica that is no longer used, while its lane continues on others."""

    lane: str
    device: str
    engine: str
    """The engine's name: runtime-device-precision."""
    reason: str
    """The failure; one line."""


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """The status of one replica of a lane: its engine on one device."""

    device: str
    """The device on which the engine runs now: ``cpu``, ``cuda:0``."""
    engine: str
    """The engine's name: runtime-device-precision."""
    batches: int
    frames: int
    utilization: float
    """The fraction of its batch slots in use over the last ten seconds or so, 0–1."""
    failures: int
    removed: str | None
    """Why it is no longer used; None while it is."""
    gpu_memory: GpuMemory | None = None
    """The memory of the engine's GPU, which other lanes share; None if the engine has none, or the GPU does not answer."""


@dataclass(frozen=True, slots=True)
class LaneStatus:
    """The status of a lane at one moment."""

    name: str
    model: str
    engine: str
    input_size: tuple[int, int]
    """The width and height of the input, pixels."""
    batch_sizes: tuple[int, ...]
    in_flight: int
    """The maximum number of batches in the engine at the same time."""
    flying: int
    """The number of batches in the engine now."""
    waiting: int
    """The number of frames that wait for the engine now."""
    batches: Mapping[int, int]
    """The number of batches so far, by the number of frames in them."""
    frames: int
    """The number of frames inferred so far."""
    busy_ns: int
    """The engine time so far, over all batches."""
    utilization: float
    """The fraction of the engine's batch slots in use over the last ten seconds or so, 0–1."""
    inference_ms: Mapping[str, float]
    """``p50``, ``p95``, ``p99`` of the engine's time for a batch in the last minute or so."""
    padded: int
    """The number of batch slots that were padding so far."""
    buffer_bytes: int
    """The size of the engine's input and output buffers."""
    failures: int = 0
    """The number of batches on which the engine failed."""
    error: str | None = None
    """The last failure."""
    failing: bool = False
    """Whether the engine has failed on every batch lately."""
    replicas: tuple[ReplicaStatus, ...] = ()
    """The engines of the lane, one for each device."""
    skeleton: tuple[tuple[int, int], ...] = ()
    """The lines between the keypoints of the model: pairs of their numbers, from 0."""
