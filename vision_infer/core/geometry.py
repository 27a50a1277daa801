"""The mapping of an image into a model's input, and of boxes back.

Box edges are continuous coordinates: an image of width w spans [0, w]. The resize maps [0, w] onto the content rectangle's
width, so that the map and its inverse are one multiplication and one addition for each axis, with the scale of that axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Fit = Literal["center", "top_left", "stretch"]

_FEW = 16
"""The number of boxes up to which plain Python is faster than NumPy, whose every call costs a microsecond."""


@dataclass(frozen=True, slots=True)
class Size:
    """A width and a height."""

    width: int
    """In pixels, at least 1."""
    height: int
    """In pixels, at least 1."""

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"a size must be at least 1x1, got {self.width}x{self.height}")

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of an image that is inferred on its own."""

    left: int
    """The first column in the image."""
    top: int
    """The first row in the image."""
    size: Size
    """The size, pixels of the image."""

    @property
    def right(self) -> int:
        """The column after the last one."""
        return self.left + self.size.width

    @property
    def bottom(self) -> int:
        """The row after the last one."""
        return self.top + self.size.height


@dataclass(frozen=True, slots=True)
class Letterbox:
    """The position of an image inside a model's input; made by :func:`letterbox`."""

    source: Size
    """The size of the image, pixels."""
    input: Size
    """The size of the model's input, pixels."""
    x: int
    """The left edge of the content inside the input, pixels."""
    y: int
    """The top edge of the content inside the input, pixels."""
    content: Size
    """The size of the resized image inside the input, pixels."""
    fill: tuple[int, int, int]
    """The RGB value outside the content, 0–255."""
    _scale: NDArray[np.float64] = field(init=False, repr=False, compare=False)
    _offset: NDArray[np.float64] = field(init=False, repr=False, compare=False)
    _edges: NDArray[np.float64] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Computed once: boxes of every frame of a stream go through the same letterbox.
        scale_x = self.source.width / self.content.width
        scale_y = self.source.height / self.content.height
        object.__setattr__(self, "_scale", np.array([scale_x, scale_y, scale_x, scale_y]))
        object.__setattr__(self, "_offset", np.array([self.x, self.y, self.x, self.y], dtype=np.float64))
        object.__setattr__(self, "_edges", np.array([self.source.width, self.source.height] * 2, dtype=np.float64))

    def to_source(self, boxes: NDArray[np.floating]) -> NDArray[np.float64]:
        """Map boxes from input pixels to source pixels, not clipped.

        Args:
            boxes: [N, 4] xyxy, input pixels.

        Returns:
            float64 [N, 4] xyxy, source pixels.
        """
        mapped: NDArray[np.float64] = (boxes.astype(np.float64) - self._offset) * self._scale
        return mapped

    def to_source_clipped(self, boxes: NDArray[np.float32] | list[list[float]]) -> NDArray[np.float32]:
        """Map boxes from input pixels to source pixels, clipped to the image.

        Args:
            boxes: float32 [N, 4] xyxy, input pixels; or the same as lists.

        Returns:
            float32 [N, 4] xyxy, source pixels; empty boxes are outside.
        """
        if len(boxes) > _FEW:
            mapped = self.to_source(np.asarray(boxes, np.float32))
            np.maximum(mapped, 0, out=mapped)
            np.minimum(mapped, self._edges, out=mapped)
            return mapped.astype(np.float32)
        x, y, right, bottom = self.x, self.y, self.source.width, self.source.height
        scale_x, scale_y = right / self.content.width, bottom / self.content.height
        clipped: list[float] = []
        for x1, y1, x2, y2 in boxes if isinstance(boxes, list) else boxes.tolist():
            x1, y1, x2, y2 = (x1 - x) * scale_x, (y1 - y) * scale_y, (x2 - x) * scale_x, (y2 - y) * scale_y
            clipped += (
                right if x1 > right else x1 if x1 > 0 else 0.0,
                bottom if y1 > bottom else y1 if y1 > 0 else 0.0,
                right if x2 > right else x2 if x2 > 0 else 0.0,
                bottom if y2 > bottom else y2 if y2 > 0 else 0.0,
            )
        return np.array(clipped, np.float32).reshape(-1, 4)


def letterbox(source: Size, target: Size, fit: Fit, fill: tuple[int, int, int]) -> Letterbox:
    """Fit an image into a model's input.

    Args:
        source: The size of the image.
        target: The size of the model's input.
        fit: ``center`` and ``top_left`` keep the aspect ratio (rounded to whole pixels, at least one); ``stretch`` does not.
        fill: The RGB value around the content, 0–255 each.
    """
    if fit == "stretch":
        return Letterbox(source, target, 0, 0, target, fill)
    scale = min(target.width / source.width, target.height / source.height)
    content = Size(
        min(target.width, max(1, round(source.width * scale))),
        min(target.height, max(1, round(source.height * scale))),
    )
    if fit == "top_left":
        return Letterbox(source, target, 0, 0, content, fill)
    return Letterbox(source, target, (target.width - content.width) // 2, (target.height - content.height) // 2, content, fill)


_AS_SHARP = 0.97
"""The fraction of the best scale from which an input counts as equally good."""


def best_input(image: Size, inputs: Sequence[Size]) -> Size:
    """Return the input that shows a letterboxed image large enough with the least computation.

    A 16:9 image fills a square input to 56 %; the remainder is computed for nothing. Among the inputs that show it about as large
    as the best one does, the smallest is chosen.

    Args:
        image: The size of the image.
        inputs: The available inputs, at least one.
    """
    scales = {size: min(size.width / image.width, size.height / image.height) for size in inputs}
    minimum = _AS_SHARP * max(scales.values())
    return min((size for size in inputs if scales[size] >= minimum), key=lambda size: size.width * size.height)
