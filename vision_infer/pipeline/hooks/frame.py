"""The frame that a hook receives."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.geometry import Size


class NoPixelsError(ValueError):
    """The frame has no image: it carries the last events of a stream that has ended. A hook need not catch this."""


class HookFrame:
    """A frame, as a hook receives it. Its image is converted only if the hook asks for it.

    Args:
        read: Returns the image, uint8 [H, W, 3] RGB.
        stream: The name of the stream.
        index: The number of the frame in its stream, from 0.
        pts_s: The presentation time, seconds; None if there is none.
        size: The size of the image, pixels.
        captured_s: The capture time of a live stream, seconds since 1970 (UTC); None for other streams.
        file: The file name of the image, in a folder of images.
    """

    __slots__ = ("_image", "_read", "captured_s", "file", "index", "pts_s", "shown", "size", "stream")

    def __init__(
        self,
        read: Callable[[], NDArray[np.uint8]],
        stream: str,
        index: int,
        pts_s: float | None,
        size: Size,
        captured_s: float | None,
        file: str | None,
    ) -> None:
        self.stream, self.index, self.pts_s, self.size = stream, index, pts_s, size
        self.captured_s, self.file = captured_s, file
        self.shown: NDArray[np.uint8] | None = None
        """The image for the sinks, if a hook has replaced it."""
        self._read = read
        self._image: NDArray[np.uint8] | None = None

    @property
    def image(self) -> NDArray[np.uint8]:
        """The image at full size, uint8 [H, W, 3] RGB, read-only; after :meth:`show`, the image that is shown.

        Raises:
            NoPixelsError: The frame has no image.
        """
        if self.shown is not None:
            return self.shown
        if self._image is None:
            self._image = self._read()
            self._image.flags.writeable = False
        return self._image

    def show(self, image: NDArray[np.uint8]) -> None:
        """Replace the image in all outputs that draw or store it.

        Args:
            image: The new image, uint8 [H, W, 3] RGB, of the same size.

        Raises:
            ValueError: It has another type or size.
        """
        expected = (self.size.height, self.size.width, 3)
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape != expected:
            raise ValueError(f"show() needs an array uint8 {list(expected)}")
        self.shown = np.ascontiguousarray(image)
