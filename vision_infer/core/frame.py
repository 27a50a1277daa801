"""One picture of a stream on its way."""

from __future__ import annotations

from dataclasses import dataclass

from vision_infer.core.image import Image
from vision_infer.core.trace import Trace


@dataclass(frozen=True, slots=True)
class Frame:
    """A decoded picture with its place in the stream."""

    stream: str
    """name of the stream, unique in a run"""
    index: int
    """number of the frame among those that are read of its stream, from 0; where reading starts late, or takes key frames only,
    the frames that are left out are not counted"""
    pts_s: float | None
    """presentation time, seconds from the stream's own zero; None for a still picture or where the stream gives none"""
    image: Image
    trace: Trace
    file: str | None = None
    """name of the picture's own file, in a stream that is a folder of pictures"""
    damaged: bool = False
    """the decoder marked it: something of it is missing or guessed"""
