"""Still images: a single file, or a folder of them as one stream."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.errors import StreamError
from vision_infer.core.frame import Frame
from vision_infer.core.opencv import cv2
from vision_infer.core.trace import Trace
from vision_infer.stream.image import ArrayImage
from vision_infer.stream.image_size import ImageKind, image_kind, image_size, is_whole_png
from vision_infer.stream.redact import printable, redact
from vision_infer.stream.source import ReadOptions, ReadReport, SourceSpec, StreamInfo


def read_image(path: str, max_pixels: int = ReadOptions().max_pixels) -> NDArray[np.uint8]:
    """Read an image, rotated according to its EXIF orientation.

    Args:
        path: The file.
        max_pixels: The maximum number of pixels; a larger image is rejected before it is decoded.

    Returns:
        uint8 [H, W, 3] RGB.

    Raises:
        StreamError: The file is missing, unreadable, too large or not an image.
    """
    try:
        data = np.fromfile(path, np.uint8)
    except FileNotFoundError as error:
        raise StreamError(f"{redact(path)}: no such file", "Check the path.") from error
    except OSError as error:
        raise StreamError(f"{redact(path)}: cannot be read: {error.strerror or error}", "Check the file.") from error
    return decode_image(data, redact(path), max_pixels)


def decode_image(
    data: NDArray[np.uint8], shown: str, max_pixels: int, kinds: Sequence[ImageKind] = get_args(ImageKind)
) -> NDArray[np.uint8]:
    """Decode an image in memory, as :func:`read_image` does.

    OpenCV decodes more formats than those, some of which need gigabytes for a few hundred bytes. An image whose size is unknown
    is therefore rejected.

    Args:
        data: uint8 [N], the bytes of the file.
        shown: The name of the image in errors.
        max_pixels: The maximum number of pixels; a larger image is rejected before it is decoded.
        kinds: The formats that are accepted.

    Raises:
        StreamError: It is too large, of another format, damaged, or not an image.
    """
    kind = image_kind(data.data)
    if kind is None or kind not in kinds:
        formats = ", ".join(one.upper() for one in kinds)
        message = f"{shown}: the image format is not supported (supported: {formats})"
        raise StreamError(message, f"Convert it to {kinds[0].upper()}.")
    size = image_size(data.data)
    if size is not None and size.width * size.height > max_pixels:
        message = f"{shown}: an image of {size} exceeds the limit of {max_pixels} pixels"
        raise StreamError(message, "Raise --max-pixels if you trust the source.")
    image = None
    if size is not None and (kind != "png" or is_whole_png(data.data)):
        try:
            image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
        except cv2.error:
            image = None
    if image is None:
        raise StreamError(f"{shown}: cannot be decoded. It is damaged or incomplete", "Check the file.")
    return np.asarray(image, np.uint8)


class ImagesSource:
    """Images in the order of their names.

    An image that cannot be read is a gap, and the remaining ones are read. If none can be read, the stream fails.
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
        """Yield a frame for each image."""
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
