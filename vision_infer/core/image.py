"""The interface of images: an image writes itself into a slot or returns RGB; no other code touches its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.geometry import Letterbox, Size


class Slot(Protocol):
    """The slot of one image in an engine's input buffer, lent by the engine."""

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The pixels, uint8 [H, W, 3] RGB, in writable host memory that the engine reads."""
        ...

    @property
    def layout(self) -> Letterbox | None:
        """The letterbox last written here: while it stays the same, the fill around the content is not written again."""
        ...

    @layout.setter
    def layout(self, layout: Letterbox | None) -> None: ...


# Not frozen: creation would cost three times as much, and there is one for every frame.
@dataclass(slots=True)
class Surface:
    """A decoded image in GPU memory, or a part of one: NV12, or P010 with samples of 16 bits, of which the upper 10 are used."""

    size: Size
    """The size of the part, pixels."""
    luma: int
    """The address of the first plane, one sample per pixel."""
    luma_pitch: int
    """The distance from row to row, bytes."""
    chroma: int
    """The address of the second plane, U and V interleaved, one pair per 2 × 2 pixels."""
    chroma_pitch: int
    """The distance from row to row, bytes."""
    sample_bytes: int
    """The size of a sample, bytes: 1 (NV12) or 2 (P010)."""
    matrix: int
    """The YUV matrix by the numbers of ISO/IEC 23001-8: 1 BT.709, 5 or 6 BT.601, 9 BT.2020."""
    full_range: bool
    """Whether the range is 0–255; False: 16–235, and 16–240 for chroma."""
    device: int
    """The index of the GPU."""
    owner: object
    """The object that owns the memory, kept until the surface has been read."""
    x: int = 0
    """The left edge of the part, pixels of the planes."""
    y: int = 0
    """The top edge of the part, pixels of the planes."""


class SurfaceReader(Protocol):
    """Reads decoded images of one GPU: it makes them small there, and only the result is copied to host memory.

    Each method may be called from any thread, waits for the result without holding the GIL, and returns None if the GPU cannot do
    it.
    """

    def rgb(self, surface: Surface, size: Size) -> NDArray[np.uint8] | None:
        """Return the image in another size, uint8 [H, W, 3] RGB."""
        ...

    def yuv420(self, surface: Surface, size: Size) -> NDArray[np.uint8] | None:
        """Return the image in another size, which is even, as planes Y, U and V of 8 bits: uint8 [1.5 H, W]. Matrix and range are
        those of the surface."""
        ...

    def luma(self, surface: Surface, step: int) -> NDArray[np.uint8] | None:
        """Return every ``step``-th luma sample of every ``step``-th row, uint8 [⌈H / step⌉, ⌈W / step⌉]."""
        ...


class Image(Protocol):
    """The pixels of a frame, in any memory."""

    @property
    def size(self) -> Size:
        """The width and height, pixels."""
        ...

    def write_into(self, slot: Slot, letterbox: Letterbox) -> None:
        """Convert to RGB, resize and write the image and the fill around it into the slot."""
        ...

    def to_rgb(self) -> NDArray[np.uint8]:
        """Return uint8 [H, W, 3] RGB at full size; the caller may change it."""
        ...


@runtime_checkable
class CroppableImage(Protocol):
    """An image in GPU memory, of which a part can be read without the remainder."""

    def crop(self, left: int, top: int, size: Size) -> Image | None:
        """Return a part inside the whole image, in pixels as displayed; None if it cannot be cut out."""
        ...
