"""An image is opaque: even without pixels in host memory, it is part of a frame and writes itself into a slot."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from vision_infer.core.frame import Frame
from vision_infer.core.geometry import Letterbox, Size, letterbox
from vision_infer.core.image import Image, Slot
from vision_infer.core.trace import Trace


@dataclass
class Gray:
    """An image of one shade."""

    size: Size
    shade: int

    def write_into(self, slot: Slot, letterbox: Letterbox) -> None:
        content = letterbox.content
        slot.pixels[letterbox.y : letterbox.y + content.height, letterbox.x : letterbox.x + content.width] = self.shade
        slot.layout = letterbox

    def to_rgb(self) -> NDArray[np.uint8]:
        return np.full((self.size.height, self.size.width, 3), self.shade, np.uint8)


@dataclass
class Place:
    """A slot in host memory."""

    pixels: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((8, 8, 3), np.uint8))
    layout: Letterbox | None = None


def test_an_image_writes_itself_into_the_letterbox() -> None:
    image: Image = Gray(Size(4, 2), 9)
    slot = Place()
    layout = letterbox(image.size, Size(8, 8), "center", (0, 0, 0))
    image.write_into(slot, layout)
    assert slot.layout == layout
    assert slot.pixels.sum() == 9 * 3 * layout.content.width * layout.content.height
    assert slot.pixels[2:6].min() == 9
    assert image.to_rgb().shape == (2, 4, 3)


def test_a_frame_is_frozen_but_its_trace_is_mutable() -> None:
    frame = Frame("door", 3, None, Gray(Size(1, 1), 0), Trace())
    frame.trace.decode_end_ns = 5
    assert frame.trace.decode_end_ns == 5
    assert frame.file is None
    with pytest.raises(FrozenInstanceError):
        setattr(frame, "index", 4)  # noqa: B010 - the type checker refuses it too
