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


@dataclass(frozen=True, slots=True)
class Surface:
    """A decoded image in GPU memory: NV12, or P010 with samples of 16 bits, of which the upper 10 are used."""

    size: Size
    """The size, pixels."""
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


@runtime_checkable
class SurfaceSlot(Protocol):
    """A slot in GPU memory: it accepts an image from the same GPU without a copy through the host."""

    def write_surface(self, surface: Surface, letterbox: Letterbox) -> bool:
        """Start to convert, resize and write the image and the fill around it; return False if that is not possible."""
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
class LumaImage(Protocol):
    """An image whose brightness is available at almost no cost."""

    def luma(self, max_width: int) -> NDArray[np.uint8]:
        """Return evenly spaced samples of the brightness, uint8 [H, W], not averaged.

        Args:
            max_width: The maximum width of the samples.
        """
        ...
