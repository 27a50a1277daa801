"""What the pipeline asks of a source of video; decoders are behind this Protocol too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from types import TracebackType
from typing import Literal, Protocol

from vision_infer.core.frame import Frame
from vision_infer.core.geometry import Size


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """Which source to open; a plain value, so that it can go to another process."""

    name: str
    """name of the stream, unique in a run"""
    kind: Literal["video", "images"]
    paths: tuple[str, ...]
    """the video file, or the pictures in order"""
    folder: bool = False
    """the pictures are a folder: each row names its file"""


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What is known of a stream once it is open."""

    size: Size | None
    """pixels; None where pictures differ or are not known yet"""
    frames: int | None
    """number of frames, as the container says or estimated from its duration; None if unknown"""
    duration_s: float | None
    """seconds"""
    frame_rate: Fraction | None
    """average frames per second"""
    time_base: Fraction | None
    """seconds per unit of PTS"""
    codec: str
    has_audio: bool


class Source(Protocol):
    """An open source. It is a context manager and its frames are read once, by one thread."""

    @property
    def spec(self) -> SourceSpec:
        """What was opened."""
        ...

    @property
    def live(self) -> bool:
        """True when it runs on its own clock: newest wins. False when it waits for us: nothing is dropped."""
        ...

    @property
    def info(self) -> StreamInfo:
        """What is known of it."""
        ...

    @property
    def gaps(self) -> int:
        """Places so far where something could not be decoded."""
        ...

    def frames(self) -> Iterator[Frame]:
        """All frames in presentation order.

        Raises:
            StreamError: it breaks, or holds nothing that can be decoded.
        """
        ...

    def __enter__(self) -> Source: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...
