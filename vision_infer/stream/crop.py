"""Crops of an image."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.geometry import Letterbox, Size, Tile
from vision_infer.core.image import CroppableImage, Image, Slot
from vision_infer.stream.image import ArrayImage, VideoImage


def whole_pixels(box: NDArray[np.float32], size: Size) -> tuple[int, int, int, int]:
    """Return the edges of the pixels inside an image that a box float32 [4] xyxy touches; at least one pixel."""
    x1, y1, x2, y2 = (float(edge) for edge in box)
    left, top = min(max(0, int(np.floor(x1))), size.width - 1), min(max(0, int(np.floor(y1))), size.height - 1)
    right, bottom = min(size.width, int(np.ceil(x2))), min(size.height, int(np.ceil(y2)))
    return left, top, max(left + 1, right), max(top + 1, bottom)


class Crops:
    """Cuts crops out of an image. A frame in the memory of a GPU is cut there, if possible. Any other image is converted to RGB
    once, when the first crop is used, on that thread. It is released with the last crop.

    Args:
        image: The whole image.
    """

    def __init__(self, image: Image) -> None:
        self._image: Image | None = image
        self._size = image.size
        self._rgb: NDArray[np.uint8] | None = None
        self._lock = threading.Lock()  # guards _image and _rgb: held by the thread that uses a crop, during the conversion

    def part(self, box: NDArray[np.float32]) -> Image:
        """Return the crop within a box; at least one pixel, and within the image.

        Args:
            box: float32 [4] xyxy, pixels of the whole image.
        """
        left, top, right, bottom = whole_pixels(box, self._size)
        image = self._image
        crop = image.crop(left, top, Size(right - left, bottom - top)) if isinstance(image, CroppableImage) else None
        return crop or CropImage(self, left, top, right, bottom)

    def rgb(self) -> NDArray[np.uint8]:
        """Return the whole image, uint8 [H, W, 3]; shared and read-only."""
        with self._lock:
            if self._rgb is None:
                assert self._image is not None
                self._rgb = self._image.to_rgb()
                self._image = None  # release the decoder's frame
            return self._rgb


def cut(image: Image, tiles: Sequence[Tile]) -> Iterator[Image]:
    """Yield tiles of an image. Those of a decoded frame or of an array share its memory; other images are converted once."""
    crops: Crops | None = None
    for tile in tiles:
        part = image.part(tile.left, tile.top, tile.size) if isinstance(image, (VideoImage, ArrayImage)) else None
        if part is not None:
            yield part
            continue
        crops = crops or Crops(image)
        yield CropImage(crops, tile.left, tile.top, tile.right, tile.bottom)


class CropImage:
    """A crop of an image, as returned by :meth:`Crops.part`."""

    __slots__ = ("_bottom", "_crops", "_left", "_right", "_top", "size")

    def __init__(self, crops: Crops, left: int, top: int, right: int, bottom: int) -> None:
        self._crops = crops
        self._left, self._top, self._right, self._bottom = left, top, right, bottom
        self.size = Size(right - left, bottom - top)

    def write_into(self, slot: Slot, letterbox: Letterbox) -> None:
        """Resize directly into the slot."""
        ArrayImage(self._view()).write_into(slot, letterbox)

    def to_rgb(self) -> NDArray[np.uint8]:
        """Return a copy, uint8 [H, W, 3]."""
        return self._view().copy()

    def _view(self) -> NDArray[np.uint8]:
        return self._crops.rgb()[self._top : self._bottom, self._left : self._right]
