"""The first seam: a picture is opaque. It writes itself into a slot and shows itself as RGB; nobody else touches its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.geometry import Letterbox, Size


class Slot(Protocol):
    """A place for one picture in an engine's input buffer, lent by the engine."""

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """uint8 [H, W, 3] RGB, writable host memory that the engine reads."""
        ...

    @property
    def layout(self) -> Letterbox | None:
        """The letterbox last written here: while it stays the same, the fill around the content need not be written again."""
        ...

    @layout.setter
    def layout(self, layout: Letterbox | None) -> None: ...


@dataclass(frozen=True, slots=True)
class Surface:
    """A decoded picture in the memory of a GPU: NV12, or P010 with samples of 16 bits of which the upper 10 count."""

    size: Size
    """pixels"""
    luma: int
    """address of its first plane, one sample for each pixel"""
    luma_pitch: int
    """bytes from row to row"""
    chroma: int
    """address of its second plane, U and V in turns, one pair for each 2 × 2 pixels"""
    chroma_pitch: int
    """bytes from row to row"""
    sample_bytes: int
    """1 (NV12) or 2 (P010)"""
    matrix: int
    """which YUV it is, by the numbers of ISO/IEC 23001-8: 1 BT.709, 5 or 6 BT.601, 9 BT.2020"""
    full_range: bool
    """0–255; False: 16–235, and 16–240 for chroma"""
    device: int
    """which GPU"""
    owner: object
    """what has to be kept until it has been read"""


@runtime_checkable
class SurfaceSlot(Protocol):
    """A slot in the memory of a GPU: it takes a picture that is there already, without a way through the host."""

    def write_surface(self, surface: Surface, letterbox: Letterbox) -> bool:
        """Begin to convert, resize and write the picture and the fill around it; False where it cannot be done from there."""
        ...


class Image(Protocol):
    """The pixels of a frame, wherever they are."""

    @property
    def size(self) -> Size:
        """Width and height, pixels."""
        ...

    def write_into(self, slot: Slot, letterbox: Letterbox) -> None:
        """Convert to RGB, resize and write the picture and the fill around it into the slot."""
        ...

    def to_rgb(self) -> NDArray[np.uint8]:
        """uint8 [H, W, 3] RGB at full size; the caller may change it."""
        ...


@runtime_checkable
class LumaImage(Protocol):
    """A picture whose brightness can be had at hardly any cost."""

    def luma(self, most_width: int) -> NDArray[np.uint8]:
        """uint8 [H, W]: samples of its brightness at even distances, as it is shown; not averaged, and with its noise.

        Args:
            most_width: of the picture's own width so much at most.
        """
        ...
