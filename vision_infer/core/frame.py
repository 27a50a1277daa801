"""A frame of a stream."""

from __future__ import annotations

from dataclasses import dataclass

from vision_infer.core.geometry import Tile
from vision_infer.core.image import Image
from vision_infer.core.trace import Trace


@dataclass(frozen=True, slots=True)
class Frame:
    """A decoded image with its position in the stream."""

    stream: str
    """The name of the stream, unique in a run."""
    index: int
    """The number of the frame in its stream, from 0, counting the frames that are read: skipped frames before a start time, or
    between key frames, are not counted."""
    pts_s: float | None
    """The presentation time, seconds from the zero of the stream; None for a still image or if the stream gives none."""
    image: Image
    trace: Trace
    file: str | None = None
    """The file name of the image, in a stream that is a folder of images."""
    damaged: bool = False
    """Whether parts of it, or of a frame that it refers to, are missing or guessed."""
    tiles: tuple[Tile, ...] = ()
    """The parts of the image that are inferred, each in a separate slot; empty: the whole image."""
