"""Rotated boxes: rectangles at any angle, for objects that are seen from above."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class RotatedBoxes:
    """The rotated boxes of N detections, whose ``boxes`` enclose them."""

    values: NDArray[np.float32]
    """float32 [N, 5]: center x and y, width and height in pixels of the source image, and the angle in radians, −π/2 to π/2: that
    from the x axis to the side called width, clockwise in the image."""

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] != 5:
            raise ValueError(f"rotated boxes must be [N, 5], got {self.values.shape}")

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: NDArray[np.bool_] | NDArray[np.intp] | slice) -> RotatedBoxes:
        """Return the rotated boxes of the selected detections."""
        return RotatedBoxes(self.values[index])

    def scaled(self, x: float, y: float) -> RotatedBoxes:
        """Return the boxes for an image whose width and height are multiplied by ``x`` and ``y``.

        If the factors differ, the sides get the lengths and the width the direction that they have in that image.
        """
        center_x, center_y, width, height, angle = self.values.astype(np.float64).T
        along, across = np.cos(angle), np.sin(angle)
        angle = np.arctan2(y * across, x * along)
        angle -= np.pi * np.floor(angle / np.pi + 0.5)  # half a turn gives the same rectangle
        sides = (width * np.hypot(x * along, y * across), height * np.hypot(x * across, y * along))
        return RotatedBoxes(np.stack([center_x * x, center_y * y, *sides, angle], axis=1).astype(np.float32))

    def corners(self) -> NDArray[np.float64]:
        """Return the four corners of each box, in order around it, float64 [N, 4, 2], pixels."""
        return corners_of_rotated(self.values)

    def coco(self, index: int) -> dict[str, Any]:
        """Return the fields of a COCO annotation: the rectangle as a polygon, and its area."""
        polygon = [round(value, 2) for value in self[index : index + 1].corners().ravel().tolist()]
        return {"segmentation": [polygon], "area": round(float(self.values[index, 2] * self.values[index, 3]), 2)}

    def row(self, index: int) -> dict[str, Any]:
        """Return the field of a row: ``box_rotated``."""
        *pixels, angle = self.values[index].tolist()
        return {"box_rotated": [*(round(value, 2) for value in pixels), round(angle, 4)]}


def corners_of_rotated(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the corners [N, 4, 2] of rotated boxes [N, 5]; see :class:`RotatedBoxes`."""
    center_x, center_y, width, height, angle = values.astype(np.float64).T
    along = np.stack([np.cos(angle), np.sin(angle)], axis=1) * width[:, None] / 2
    across = np.stack([-np.sin(angle), np.cos(angle)], axis=1) * height[:, None] / 2
    center = np.stack([center_x, center_y], axis=1)
    return np.stack([center - along - across, center + along - across, center + along + across, center - along + across], axis=1)
