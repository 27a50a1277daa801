"""Crops of all detections."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.frame import Frame
from vision_infer.core.geometry import Size
from vision_infer.core.image import CroppableImage, Image
from vision_infer.core.result import Result
from vision_infer.sink.files.images import write_jpeg
from vision_infer.sink.sink import OutputSpec, SinkStream, Written

_MAX_NAME_BYTES = 80
"""The maximum length of one part of a name, bytes; file systems allow 255, and a name has three parts."""
_UNSAFE = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|\ud800-\udfff]')


def open_sink(spec: OutputSpec, stream: SinkStream) -> CropsSink:
    """Open the sink of a run."""
    return CropsSink(spec, stream.name)


class CropsSink:
    """A JPEG for each detection: ``DIR/STREAM/LABEL/STREAM_frame_number.jpg``.

    ``frame`` is the frame's number in the stream, ``number`` the detection's in its frame, as in the rows, both from 0. Boxes are
    rounded outwards to whole pixels and clipped to the image; an empty one gives no file.

    Args:
        spec: The output; its path is ``DIR``.
        stream: The name of the stream.
    """

    needs_images = True

    def __init__(self, spec: OutputSpec, stream: str) -> None:
        self._folder = crops_folder(spec.path, stream)
        self._overwrite = spec.overwrite
        self._any = False

    @property
    def outputs(self) -> Sequence[Written]:
        """The folder of the stream, once it contains a file."""
        return [Written(str(self._folder))] if self._any else []

    def write(self, frame: Frame, result: Result | None) -> None:
        """Write the crops of one frame; those of a gated frame were written before."""
        if result is None or result.gated or not len(result.detections):
            return
        found, cut = result.detections, _Cut(frame.image)
        for number, (box, label) in enumerate(zip(found.boxes.tolist(), found.labels, strict=True)):
            crop = cut(box)
            if crop is not None:
                name = f"{self._folder.name}_{frame.index:06d}_{number:03d}.jpg"
                write_jpeg(self._folder / safe_name(label) / name, crop, self._overwrite)
                self._any = True

    def close(self, complete: bool) -> None:
        """Do nothing: every image is finished."""


def crops_folder(folder: str | Path, stream: str) -> Path:
    """Return the folder of the crops of a stream."""
    return Path(folder) / safe_name(stream)


def safe_name(name: str) -> str:
    """Return a valid name for a file or folder on any system.

    Invalid characters are replaced, and a short hash of the name is added, so that ``a/b`` and ``a:b`` differ.
    """
    safe = _UNSAFE.sub("_", name).strip(" .")
    safe = safe.encode()[:_MAX_NAME_BYTES].decode(errors="ignore")
    if safe == name and safe:
        return safe
    digits = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:6]
    return f"{safe or 'name'}-{digits}"


class _Cut:
    """Cuts crops out of an image: on the GPU that has it, otherwise out of all of it, which is converted once."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._rgb: NDArray[np.uint8] | None = None

    def __call__(self, box: list[float]) -> NDArray[np.uint8] | None:
        """Return the crop within a box; None if it is empty."""
        size = self._image.size
        if not all(map(math.isfinite, box)):
            return None
        left, top = max(0, math.floor(box[0])), max(0, math.floor(box[1]))
        right, bottom = min(size.width, math.ceil(box[2])), min(size.height, math.ceil(box[3]))
        if right <= left or bottom <= top:
            return None
        if self._rgb is None and isinstance(self._image, CroppableImage):
            crop = self._image.crop(left, top, Size(right - left, bottom - top))
            if crop is not None:
                return crop.to_rgb()
        if self._rgb is None:
            self._rgb = self._image.to_rgb()
        return self._rgb[top:bottom, left:right]
