"""Draws the details of detections: masks, rotated boxes, and keypoints with their skeleton; and the classes of pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.details import ClassMap, Details, Keypoints, Masks, RotatedBoxes
from vision_infer.core.geometry import Size

_MASK_SHARE = 0.45
"""The share of the color in the pixels of a mask."""
_FAR = 1e4
"""The limit of coordinates outside the image, pixels: OpenCV draws with 32-bit integers in fractions of a pixel."""

_Colors = list[tuple[int, int, int]]


def draw_below(canvas: NDArray[np.uint8], details: Details | None, colors: _Colors) -> None:
    """Draw what is below the boxes: masks.

    Args:
        canvas: The image, uint8 [H, W, 3] RGB, contiguous; it is changed.
        details: The details of N detections, the best last.
        colors: The color of each detection, RGB.
    """
    if not isinstance(details, Masks):
        return
    for index, color in enumerate(colors):
        left, top, inside = details.patch(index)
        part = canvas[top : top + inside.shape[0], left : left + inside.shape[1]]
        inside = inside[: part.shape[0], : part.shape[1]]
        part[inside] = (part[inside] * (1 - _MASK_SHARE) + np.array(color) * _MASK_SHARE).astype(np.uint8)


def draw_above(canvas: NDArray[np.uint8], details: Details | None, colors: _Colors, line: int) -> None:
    """Draw what is above the boxes: rotated boxes, and keypoints that are likely enough, with the lines between them.

    Args:
        canvas: The image, uint8 [H, W, 3] RGB, contiguous; it is changed.
        details: The details of N detections, the best last.
        colors: The color of each detection, RGB.
        line: The width of lines, pixels.
    """
    from vision_infer.core.opencv import cv2

    if isinstance(details, RotatedBoxes):
        corners = _whole(details.corners())
        for polygon, color in zip(corners, colors, strict=True):
            cv2.polylines(canvas, [polygon], True, color, line, cv2.LINE_AA)
    elif isinstance(details, Keypoints):
        lines = () if details.layout is None else details.layout.skeleton
        places, shown = _whole(details.points[..., :2]).tolist(), details.visible().tolist()
        for points, seen, color in zip(places, shown, colors, strict=True):
            for start, end in lines:
                if seen[start] and seen[end]:
                    cv2.line(canvas, points[start], points[end], color, line, cv2.LINE_AA)
            for point, visible in zip(points, seen, strict=True):
                if visible:
                    cv2.circle(canvas, point, line + 1, (255, 255, 255), cv2.FILLED, cv2.LINE_AA)
                    cv2.circle(canvas, point, line, color, cv2.FILLED, cv2.LINE_AA)


def draw_segments(canvas: NDArray[np.uint8], segments: ClassMap, palette: Sequence[tuple[int, int, int]]) -> None:
    """Color the pixels of an image, uint8 [H, W, 3] RGB, by their classes; the background stays as it is."""
    pixels = segments.pixels(Size(canvas.shape[1], canvas.shape[0]))
    for number in segments.shown_ids:
        color = np.array(palette[number % len(palette)]) * _MASK_SHARE
        inside = pixels == number
        canvas[inside] = (canvas[inside] * (1 - _MASK_SHARE) + color).astype(np.uint8)


def _whole(places: NDArray[np.float32] | NDArray[np.float64]) -> NDArray[np.int32]:
    return np.clip(places, -_FAR, _FAR).astype(np.int32)
