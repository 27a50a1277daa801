"""Still pictures: one file, or a folder of them as one stream."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import TracebackType

import cv2
import numpy as np
from numpy.typing import NDArray

from vision_infer.core.errors import StreamError
from vision_infer.core.frame import Frame
from vision_infer.core.trace import Trace
from vision_infer.stream.image import ArrayImage
from vision_infer.stream.image_size import image_size
from vision_infer.stream.redact import printable, redact
from vision_infer.stream.source import ReadOptions, ReadReport, SourceSpec, StreamInfo


def read_image(path: str, max_pixels: int = ReadOptions().max_pixels) -> NDArray[np.uint8]:
    """Read a picture, turned as its EXIF orientation says.

    Args:
        path: the file.
        max_pixels: a larger picture is refused before it is decoded.

    Returns:
        uint8 [H, W, 3] RGB.

    Raises:
        StreamError: the file is missing, unreadable, too large or no picture.
    """
    try:
        data = np.fromfile(path, np.uint8)
    except FileNotFoundError as error:
        raise StreamError(f"{redact(path)}: no such file", "check the path") from error
    except OSError as error:
        raise StreamError(f"{redact(path)}: cannot be read: {error.strerror or error}", "check the file") from error
    return decode_image(data, redact(path), max_pixels)


def decode_image(data: NDArray[np.uint8], shown: str, max_pixels: int) -> NDArray[np.uint8]:
    """As :func:`read_image`, of what is in memory.

    Args:
        data: uint8 [N], the bytes of the file.
        shown: what the picture is called in errors.
        max_pixels: a larger picture is refused before it is decoded.

    Raises:
        StreamError: it is too large, or no picture.
    """
    size = image_size(data.data)
    if size is not None and size.width * size.height > max_pixels:
        raise StreamError(
            f"{shown}: a picture of {size} is larger than {max_pixels} pixels", "if you trust it, raise --max-pixels"
        )
    image = None
    if data.size:
        try:
            image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
        except cv2.error:
            image = None
    if image is None:
        raise StreamError(f"{shown}: no picture that can be read", "is it an image file, and whole?")
    return np.asarray(image, np.uint8)


class ImagesSource:
    """Pictures in the order of their names.

    A picture that cannot be read is a gap, and the others go on; with no other, it is the stream's error.
    """

    def __init__(self, spec: SourceSpec) -> None:
        self.spec = spec
        self.report = ReadReport()
        self.info = StreamInfo(
            size=None,
            frames=len(spec.paths),
            duration_s=None,
            frame_rate=None,
            time_base=None,
            codec="images",
            has_audio=False,
        )

    def frames(self) -> Iterator[Frame]:
        """A frame for each picture."""
        index = 0
        for path in self.spec.paths:
            try:
                image = ArrayImage(read_image(path, self.spec.read.max_pixels))
            except StreamError as error:
                self.report.gap(None, None)
                self.report.warn(error.message)
                if self.report.gaps == len(self.spec.paths):
                    raise
                continue
            file = printable(os.path.basename(path)) if self.spec.folder else None
            yield Frame(self.spec.name, index, None, image, Trace(), file)
            index += 1

    def __enter__(self) -> ImagesSource:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass
