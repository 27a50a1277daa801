"""The first seam: a picture is opaque. It writes itself into a slot and shows itself as RGB; nobody else touches its pixels."""

from __future__ import annotations

from typing import Protocol

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


class Picture(Protocol):
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
