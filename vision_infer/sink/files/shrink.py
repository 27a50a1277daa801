"""Images for people, made smaller before drawing, because drawing takes the most time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.geometry import Letterbox, Size, letterbox
from vision_infer.core.image import Image


@dataclass(slots=True)
class _Canvas:
    """A slot outside an engine."""

    pixels: NDArray[np.uint8]
    layout: Letterbox | None = None


def shrunk_size(size: Size, height: int) -> Size:
    """Return the size with this height and the same aspect ratio, in even numbers of at least 2 pixels."""
    even = max(2, height - height % 2)
    return Size(max(2, 2 * round(size.width * even / size.height / 2)), even)


def shrunk_to(image: Image, size: Size) -> NDArray[np.uint8]:
    """Return the image in another size, converted and resized in one pass; uint8 [H, W, 3] RGB."""
    canvas = _Canvas(np.empty((size.height, size.width, 3), np.uint8))
    image.write_into(canvas, letterbox(image.size, size, "stretch", (0, 0, 0)))
    return canvas.pixels
