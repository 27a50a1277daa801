"""The interface between the pipeline and a source of video, including its decoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from types import TracebackType
from typing import Literal, Protocol

from vision_infer.config.secrets.credentials import CameraCredentials
from vision_infer.core.drop import DropReason
from vision_infer.core.frame import Frame
from vision_infer.core.geometry import Size
from vision_infer.stream.rtp_counts import PictureCounts, RtpCounts

Decode = Literal["auto", "cpu", "nvdec"]
MAX_LIVE_PIXELS = 36_000_000
"""The maximum number of pixels of a camera's frames: 8K has 33 million. A copy of a larger frame takes hundreds of megabytes."""
GAP_TIMES_KEPT = 100
WARNINGS_KEPT = 20


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """The part of a source that is read. A folder of images uses only ``max_pixels``."""

    track_index: int = 0
    """The index of a file's video track, from 0."""
    start_s: float = 0.0
    """The start of the range, seconds from the stream's beginning; the first frame is the first at or after it."""
    end_s: float | None = None
    """The end of the range, seconds from the stream's beginning; the last frame is the last before it. None: the stream's end."""
    keyframes_only: bool = False
    """Whether only key frames are decoded."""
    max_pixels: int = 100_000_000
    """The maximum number of pixels; larger images are rejected before they are decoded."""
    first_index: int = 0
    """The number of the first frame of a video file. Not 0 if another reader reads the frames before ``start_s``."""


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """The options of a live source."""

    transport: Literal["tcp", "udp"] = "tcp"
    """The preferred transport of RTSP. Over RTP, the other one is used if the server refuses it."""
    open_timeout_s: float = 10.0
    """The maximum time until a server answers when it is opened, seconds."""
    stall_timeout_s: float = 5.0
    """The time without a frame after which a connection counts as dead, seconds."""
    max_age_s: float = 0.5
    """The maximum age of a frame that is inferred, seconds."""
    clock: Literal["auto", "arrival", "camera"] = "auto"
    """The clock of ``captured``: ``auto`` uses the camera's clock if it is plausible, ``arrival`` never, ``camera`` always."""
    keyframes_only: bool = False
    """Whether only key frames are decoded."""
    skip_nonref: bool = False
    """Whether frames that no other frame references are skipped."""
    ingest: Literal["auto", "rtp", "ffmpeg"] = "auto"
    """What reads an RTSP camera: ``rtp`` this program, which gives out a frame with its last packet; ``ffmpeg`` FFmpeg, H.264 and
    H.265 a frame interval later; ``auto`` FFmpeg only for a camera that this program cannot read."""
    audio: bool = True
    """Whether its sound may be read."""
    loop: bool = False
    """Whether a file restarts at its end."""
    allow_networks: tuple[str, ...] = ()
    """The networks (CIDR) that a URL, its redirects and the entries of its playlists may lead to; empty for any."""
    credentials: tuple[CameraCredentials, ...] = field(default=(), repr=False)
    """The user names and passwords for URLs without a user name, by host; also for the hosts of redirects."""


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """A source to open; a plain value that can be sent to another process."""

    name: str
    """The name of the stream, unique in a run."""
    kind: Literal["video", "images", "live"]
    """The kind of source; ``live`` sources run in real time: cameras, and files that are played in real time."""
    paths: tuple[str, ...]
    """The video (a file, a URL, or ``-`` for standard input), or the images in order."""
    folder: bool = False
    """Whether the images are a folder, so that each row names its file."""
    read: ReadOptions = ReadOptions()
    live: LiveOptions = LiveOptions()
    """The options of a live source."""
    decode: Decode = "auto"
    """The decoding device; ``auto`` is the GPU that ``gpu`` names, or else the CPU."""
    gpu: int | None = None
    """The GPU that infers the frames; None if they are needed in host memory."""
    no_gpu: str = ""
    """Why no GPU must decode it, although ``decode`` and ``gpu`` name one; empty if one may."""


def ends_by_itself(spec: SourceSpec) -> bool:
    """Return whether a live source is complete at its end, unlike a lost connection: a file that does not loop."""
    path = spec.paths[0]
    is_file = path.startswith("file:") or ("://" not in path and not path.startswith("/dev/"))
    return is_file and not spec.live.loop


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """The properties of an open stream."""

    size: Size | None
    """The coded size in pixels, before any rotation; None if it varies or is not known yet."""
    frames: int | None
    """The number of frames that will be read, from the container or estimated from its duration; None if unknown."""
    duration_s: float | None
    """The duration of the whole stream, seconds."""
    frame_rate: Fraction | None
    """The average frame rate, frames/s."""
    time_base: Fraction | None
    """The unit of PTS, seconds."""
    codec: str
    has_audio: bool
    """Whether there is an audio track that covers everything that is read, in a file that can be opened again."""
    interlaced: bool = False
    """Whether a frame consists of two fields of different times."""
    decoder: str = "cpu"
    """The decoding device: ``cpu``, or for example ``cuda:0``."""
    decoder_bytes: int | None = None
    """The approximate GPU memory of its decoder, bytes; None if it decodes on the CPU."""
    ingest: Literal["rtp", "ffmpeg"] | None = None
    """What reads a live source, as in :class:`LiveOptions`; None for other sources and the test pattern."""
    ingest_reason: str = ""
    """Why FFmpeg reads an RTSP camera although ``ingest`` is ``auto``, without secrets; empty if it does not."""
    bytes_per_pixel: float | None = None
    """The memory per pixel of a decoded frame, bytes: 1.5 for 8 bits with 4:2:0 chroma; None if unknown."""


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


@dataclass(slots=True)
class ReadReport:
    """The losses while a source is read. The reading thread writes it; other threads may see slightly outdated values."""

    gaps: int = 0
    """The number of places where something could not be decoded."""
    gap_times: list[tuple[float | None, float | None]] = field(default_factory=list)
    """The start and end of the first 100 gaps, presentation time in seconds; None if unknown."""
    damaged: int = 0
    """The number of decoded frames that are marked as damaged: a part of them, or of a frame that they refer to, is missing."""
    packets: RtpCounts = field(default_factory=RtpCounts)
    """The packets of a camera that is read over RTP."""
    pictures: PictureCounts = field(default_factory=PictureCounts)
    """What became of them."""
    gpu_failures: int = 0
    """The number of failures of the GPU decoder; after one, the source is decoded on the CPU."""
    warnings: list[str] = field(default_factory=list)
    """The warnings, one line each, without the source's name; at most 20."""
    dropped: dict[DropReason, int] = field(default_factory=dict)
    """The number of frames of a live source that were dropped, by reason; each packet that was not decoded counts as a frame."""
    clock_offset_ms: float | None = None
    """How far the camera's clock is behind ours, milliseconds, measured at the arrival of its packets; None if unknown."""

    on_drop: Callable[[DropReason, int], None] | None = None
    """Called with each drop, so that it is counted even if no frame follows."""

    def drop(self, reason: DropReason, count: int = 1) -> None:
        """Count dropped frames."""
        self.dropped[reason] = self.dropped.get(reason, 0) + count
        if self.on_drop is not None:
            self.on_drop(reason, count)

    def gap(self, from_s: float | None, to_s: float | None) -> None:
        """Count a gap."""
        self.gaps += 1
        if len(self.gap_times) < GAP_TIMES_KEPT:
            self.gap_times.append((_rounded(from_s), _rounded(to_s)))

    def warn(self, text: str) -> None:
        """Add a warning, unless it was added before."""
        if len(self.warnings) < WARNINGS_KEPT and text not in self.warnings:
            self.warnings.append(text)


class Source(Protocol):
    """An open source: a context manager whose frames are read once, by one thread."""

    @property
    def spec(self) -> SourceSpec:
        """The source that was opened."""
        ...

    @property
    def info(self) -> StreamInfo:
        """The properties of the stream."""
        ...

    @property
    def report(self) -> ReadReport:
        """The losses so far."""
        ...

    def frames(self) -> Iterator[Frame]:
        """Yield all frames in presentation order.

        Raises:
            StreamError: The source breaks, or contains nothing that can be decoded.
        """
        ...

    def __enter__(self) -> Source: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...
