"""Pictures for people to look at, made smaller before anything is drawn: that is where the time goes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.detections import Detections
from vision_infer.core.geometry import Letterbox, Size, letterbox
from vision_infer.core.image import Image


@dataclass(slots=True)
class _Canvas:
    """A slot that belongs to no engine."""

    pixels: NDArray[np.uint8]
    layout: Letterbox | None = None


def shrunk_size(size: Size, height: int) -> Size:
    """The size with this height, its aspect ratio kept, in even numbers of at least 2 pixels."""
    even = max(2, height - height % 2)
    return Size(max(2, 2 * round(size.width * even / size.height / 2)), even)


def shrunk_to(image: Image, size: Size) -> NDArray[np.uint8]:
    """The picture in another size, converted and resized in one pass; uint8 [H, W, 3] RGB."""
    canvas = _Canvas(np.empty((size.height, size.width, 3), np.uint8))
    image.write_into(canvas, letterbox(image.size, size, "stretch", (0, 0, 0)))
    return canvas.pixels


def scaled(found: Detections, source: Size, target: Size) -> Detections:
    """The detections of a picture of ``source``'s size, for one of ``target``'s."""
    x, y = target.width / source.width, target.height / source.height
    return replace(found, boxes=(found.boxes * np.array([x, y, x, y])).astype(np.float32))
