"""A part of a picture, as a picture."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.geometry import Letterbox, Size
from vision_infer.core.image import Image, Slot
from vision_infer.stream.image import ArrayImage


class Crops:
    """Cuts parts out of a picture. It is converted to RGB once, when the first part is wanted, on whatever thread that is; it
    goes when the last part does.

    Args:
        picture: the whole.
    """

    def __init__(self, image: Image) -> None:
        self._image: Image | None = image
        self._size = image.size
        self._rgb: NDArray[np.uint8] | None = None
        self._lock = threading.Lock()

    def part(self, box: NDArray[np.float32]) -> CropImage:
        """The part within a box; at least a pixel, and within the picture.

        Args:
            box: float32 [4] xyxy, pixels of the whole.
        """
        x1, y1, x2, y2 = (float(edge) for edge in box)
        left = min(max(0, int(np.floor(x1))), self._size.width - 1)
        top = min(max(0, int(np.floor(y1))), self._size.height - 1)
        right = max(left + 1, min(self._size.width, int(np.ceil(x2))))
        bottom = max(top + 1, min(self._size.height, int(np.ceil(y2))))
        return CropImage(self, left, top, right, bottom)

    def rgb(self) -> NDArray[np.uint8]:
        """uint8 [H, W, 3] of the whole; shared, not to be written."""
        with self._lock:
            if self._rgb is None:
                assert self._image is not None
                self._rgb = self._image.to_rgb()
                self._image = None  # the decoder's frame goes
            return self._rgb


class CropImage:
    """A part of a picture; made by :meth:`Crops.part`."""

    __slots__ = ("_bottom", "_crops", "_left", "_right", "_top", "size")

    def __init__(self, crops: Crops, left: int, top: int, right: int, bottom: int) -> None:
        self._crops = crops
        self._left, self._top, self._right, self._bottom = left, top, right, bottom
        self.size = Size(right - left, bottom - top)

    def write_into(self, slot: Slot, letterbox: Letterbox) -> None:
        """Resize straight into the slot."""
        ArrayImage(self._view()).write_into(slot, letterbox)

    def to_rgb(self) -> NDArray[np.uint8]:
        """uint8 [H, W, 3], a copy."""
        return self._view().copy()

    def _view(self) -> NDArray[np.uint8]:
        return self._crops.rgb()[self._top : self._bottom, self._left : self._right]
