"""What the pipeline asks of a source of video; decoders are behind this Protocol too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from types import TracebackType
from typing import Literal, Protocol

from vision_infer.core.drop import DropReason
from vision_infer.core.frame import Frame
from vision_infer.core.geometry import Size

Decode = Literal["auto", "cpu", "nvdec"]
GAP_TIMES_KEPT = 100
WARNINGS_KEPT = 20


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """Which part of a source is read; a folder of pictures takes ``max_pixels`` only."""

    track_index: int = 0
    """which of a file's video tracks, from 0"""
    start_s: float = 0.0
    """the first frame is the first at or after this time, seconds from the stream's beginning"""
    end_s: float | None = None
    """the last frame is the last before this time, seconds from the stream's beginning; None: the stream's end"""
    keyframes_only: bool = False
    """key frames only; the others are not decoded"""
    max_pixels: int = 100_000_000
    """pictures with more pixels are refused before they are decoded"""


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """How a live source is read."""

    transport: Literal["tcp", "udp"] = "tcp"
    """of RTSP"""
    open_timeout_s: float = 10.0
    """how long a server may take to answer when it is opened"""
    stall_timeout_s: float = 5.0
    """without a frame for so long, a connection counts as dead"""
    max_age_s: float = 0.5
    """a frame that is older is not inferred"""
    clock: Literal["auto", "arrival", "camera"] = "auto"
    """where ``captured`` comes from: the camera's own clock where it is plausible, arrival only, or the camera's in any case"""
    keyframes_only: bool = False
    """decode key frames only"""
    skip_nonref: bool = False
    """do not decode frames that no other frame needs"""
    assemble: bool = False
    """RTSP with H.264 or H.265: put pictures together ourselves, a frame interval earlier than libavformat's parser gives them"""
    loop: bool = False
    """a file begins again at its end"""
    allow_networks: tuple[str, ...] = ()
    """networks (CIDR) that a URL, its redirects and the entries of its playlists may lead to; empty: any"""


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """Which source to open; a plain value, so that it can go to another process."""

    name: str
    """name of the stream, unique in a run"""
    kind: Literal["video", "images", "live"]
    """``live`` runs on its own clock: a camera, or a file that is played in real time"""
    paths: tuple[str, ...]
    """the video (a file, a URL, or ``-`` for standard input), or the pictures in order"""
    folder: bool = False
    """the pictures are a folder: each row names its file"""
    read: ReadOptions = ReadOptions()
    live: LiveOptions = LiveOptions()
    """of a live one"""
    decode: Decode = "auto"
    """where it is decoded; ``auto``: on the GPU that ``gpu`` names, else on the CPU"""
    gpu: int | None = None
    """the GPU on which pictures are inferred; None: they are wanted in host memory"""


def ends_by_itself(spec: SourceSpec) -> bool:
    """Whether the end of a live source is its end, not a lost connection: a file that does not begin again."""
    path = spec.paths[0]
    is_file = path.startswith("file:") or ("://" not in path and not path.startswith("/dev/"))
    return is_file and not spec.live.loop


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What is known of a stream once it is open."""

    size: Size | None
    """pixels as coded, before a rotation; None where pictures differ or are not known yet"""
    frames: int | None
    """number of frames that are to be read, as the container says or estimated from its duration; None if unknown"""
    duration_s: float | None
    """of the whole stream, seconds"""
    frame_rate: Fraction | None
    """average frames per second"""
    time_base: Fraction | None
    """seconds per unit of PTS"""
    codec: str
    has_audio: bool
    """whether there is sound that belongs beside all that is read, in a file that can be opened again"""
    interlaced: bool = False
    """two fields, of different times, make a frame"""
    decoder: str = "cpu"
    """what decodes it: ``cpu``, or ``cuda:0``"""
    decoder_bytes: int | None = None
    """about what its decoder takes of a GPU's memory; None: it is decoded on the CPU"""
    bytes_per_pixel: float | None = None
    """of a decoded picture in memory: 1.5 for 8 bits with 4:2:0 chroma; None where it is not known"""


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


@dataclass(slots=True)
class ReadReport:
    """What was lost while a source was read. Written by the thread that reads; others see a value that is a moment old."""

    gaps: int = 0
    """places where something could not be decoded"""
    gap_times: list[tuple[float | None, float | None]] = field(default_factory=list)
    """from and to, presentation time in seconds, of the first 100 gaps; None where it is not known"""
    damaged: int = 0
    """frames that the decoder delivered and marked as damaged"""
    warnings: list[str] = field(default_factory=list)
    """at most 20, a line each, without the source's name"""
    dropped: dict[DropReason, int] = field(default_factory=dict)
    """frames of a live source that were not delivered, by reason: what of its packets was not decoded counts as a frame each"""
    clock_offset_ms: float | None = None
    """how far a camera's own clock is behind ours, milliseconds, as seen at the arrival of its packets; None: it tells none"""

    on_drop: Callable[[DropReason, int], None] | None = None
    """called with each drop, so that it is known although no frame is delivered after it"""

    def drop(self, reason: DropReason, count: int = 1) -> None:
        """Count frames that are not delivered."""
        self.dropped[reason] = self.dropped.get(reason, 0) + count
        if self.on_drop is not None:
            self.on_drop(reason, count)

    def gap(self, from_s: float | None, to_s: float | None) -> None:
        """Count a gap."""
        self.gaps += 1
        if len(self.gap_times) < GAP_TIMES_KEPT:
            self.gap_times.append((_rounded(from_s), _rounded(to_s)))

    def warn(self, text: str) -> None:
        """Note something that the user should know, once."""
        if len(self.warnings) < WARNINGS_KEPT and text not in self.warnings:
            self.warnings.append(text)


class Source(Protocol):
    """An open source. It is a context manager and its frames are read once, by one thread."""

    @property
    def spec(self) -> SourceSpec:
        """What was opened."""
        ...

    @property
    def info(self) -> StreamInfo:
        """What is known of it."""
        ...

    @property
    def report(self) -> ReadReport:
        """What was lost so far."""
        ...

    def frames(self) -> Iterator[Frame]:
        """All frames in presentation order.

        Raises:
            StreamError: it breaks, or holds nothing that can be decoded.
        """
        ...

    def __enter__(self) -> Source: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...
