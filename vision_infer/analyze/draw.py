"""Draws detections on images: boxes and their details, and labels above them, whose sizes follow the size of the image."""

from __future__ import annotations

from colorsys import hsv_to_rgb
from functools import lru_cache
from typing import NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from vision_infer.analyze.draw_details import draw_above, draw_below, draw_segments
from vision_infer.core.description import Description
from vision_infer.core.details import ClassMap, RotatedBoxes
from vision_infer.core.detections import Detections, LabelText
from vision_infer.core.geometry import Size

_MIN_TEXT_SCALE = 0.4
"""The minimum text scale at which OpenCV's font is readable."""
_TEXT_WIDTH = 1.6
"""The stroke width of the letters at a text scale of 1, pixels."""
_PADDING = 6
"""The padding between a label's text and its edge at a text scale of 1, pixels."""
_LEGEND = 8
"""The maximum number of classes of pixels that are named."""
_GOLDEN_RATIO = 0.618
"""The distance between the hues of neighbors: it keeps any number of them apart."""

Color = tuple[int, int, int]


def _color(number: int) -> Color:
    red, green, blue = hsv_to_rgb((0.76 + number * _GOLDEN_RATIO) % 1, 0.75, 1.0 if number % 2 == 0 else 0.85)
    return round(255 * red), round(255 * green), round(255 * blue)


PALETTE: tuple[Color, ...] = tuple(_color(number) for number in range(20))
"""The colors of classes and tracks in rotation, RGB."""
GRAY: Color = (128, 128, 128)
"""The color of a detection without a track, where detections are tracked, RGB."""


class _Style(NamedTuple):
    """The sizes for images of one size."""

    line: int
    text_scale: float
    stroke: int
    padding: int


class Drawer:
    """Draws boxes with labels such as ``person 0.91``, ``person #3 0.91`` for a track, ``person 0.91 | red 0.80`` with the class
    of a secondary model, and their details: masks, keypoints with the skeleton, or rotated boxes instead of boxes. The class of a
    whole image, from a model for classification, is in the upper left corner. Pixels that have a class are colored.

    Each track has a color (gray without a track); without tracking, each class has one. The same number has the same color in
    every image of every run. Sizes follow the size of the image.

    Args:
        labels: The text at the boxes: labels with ``scores``, ``names`` only, or ``none``.
    """

    def __init__(self, labels: LabelText = "scores") -> None:
        if labels not in get_args(LabelText):
            raise ValueError(f"labels must be one of {', '.join(get_args(LabelText))}, got {labels!r}")
        self._labels = labels

    def __call__(
        self, rgb: NDArray[np.uint8], detections: Detections, description: Description | None = None
    ) -> NDArray[np.uint8]:
        """Draw the detections on the image.

        Args:
            rgb: The image, uint8 [H, W, 3] RGB, writable; it is changed.
            detections: The detections, with boxes in pixels of this image.
            description: The description of the whole image.

        Returns:
            The same array.
        """
        if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
            raise ValueError(f"an image must be uint8 [H, W, 3], got {rgb.dtype} {list(rgb.shape)}")
        best = None if description is None or self._labels == "none" else description.best
        segments = None if description is None else description.segments
        if not len(detections) and best is None and segments is None:
            return rgb
        style = _style(Size(rgb.shape[1], rgb.shape[0]))
        canvas = np.ascontiguousarray(rgb)  # OpenCV requires contiguous memory
        if len(detections):
            _draw_boxes(canvas, detections, style, self._labels)
        if segments is not None:
            draw_segments(canvas, segments, PALETTE)
            _draw_legend(canvas, segments, style, self._labels)
        if best is not None:
            text = best.label + _score(best.score, self._labels)
            _draw_label(canvas, (0, 0), text, PALETTE[best.class_id % len(PALETTE)], style)
        if canvas is not rgb:
            rgb[:] = canvas
        return rgb


def _draw_boxes(canvas: NDArray[np.uint8], detections: Detections, style: _Style, labels: LabelText) -> None:
    from vision_infer.core.opencv import cv2

    detections = detections[detections.scores.argsort(kind="stable")]  # the best is drawn last, on top
    if detections.track_ids is None:
        colors = [PALETTE[number % len(PALETTE)] for number in detections.class_ids.tolist()]
    else:
        colors = [PALETTE[(number - 1) % len(PALETTE)] if number > 0 else GRAY for number in detections.track_ids.tolist()]
    corners = detections.boxes.astype(np.int32).tolist()
    draw_below(canvas, detections.details, colors)
    if not isinstance(detections.details, RotatedBoxes):
        for (left, top, right, bottom), color in zip(corners, colors, strict=True):
            cv2.rectangle(canvas, (left, top), (right, bottom), color, style.line)
    draw_above(canvas, detections.details, colors, style.line)
    if labels == "none":
        return
    # Labels are drawn after all boxes, so that no line crosses their text.
    for (left, top, _, _), color, text in zip(corners, colors, _texts(detections, labels), strict=True):
        _draw_label(canvas, (left, top), text, color, style)


def _texts(detections: Detections, labels: LabelText) -> list[str]:
    tracks = [0] * len(detections) if detections.track_ids is None else detections.track_ids.tolist()
    identities = [0] * len(detections) if detections.identities is None else detections.identities.tolist()
    descriptions = detections.descriptions or (None,) * len(detections)
    texts = []
    columns = (detections.labels, tracks, identities, detections.scores.tolist(), descriptions)
    for label, track, identity, score, description in zip(*columns, strict=True):
        text = label + (f" #{track}" if track > 0 else "") + (f" id {identity}" if identity > 0 else "")
        text += _score(score, labels)
        best = None if description is None else description.best
        texts.append(text if best is None else f"{text} | {best.label}{_score(best.score, labels)}")
    return texts


def _draw_legend(canvas: NDArray[np.uint8], segments: ClassMap, style: _Style, labels: LabelText) -> None:
    """Draw the labels of the largest classes below each other, in the upper left corner."""
    below = 0
    for number in () if labels == "none" else segments.shown_ids[:_LEGEND]:
        text = segments.label_of(number) + (f" {segments.share(number):.0%}" if labels == "scores" else "")
        below = _draw_label(canvas, (0, below), text, PALETTE[number % len(PALETTE)], style)


def _score(score: float, labels: LabelText) -> str:
    return f" {score:.2f}" if labels == "scores" else ""


def _draw_label(canvas: NDArray[np.uint8], corner: tuple[int, int], text: str, color: Color, style: _Style) -> int:
    """Draw a label above the corner of a box, moved so that it stays inside the image; return the corner for one below."""
    from vision_infer.core.opencv import cv2

    font = cv2.FONT_HERSHEY_SIMPLEX
    (width, height), _ = cv2.getTextSize(text, font, style.text_scale, style.stroke)
    width, height = width + 2 * style.padding, height + 2 * style.padding
    left = max(min(corner[0], canvas.shape[1] - width), 0)
    bottom = max(corner[1], height)
    cv2.rectangle(canvas, (left, bottom - height), (left + width, bottom), color, cv2.FILLED)
    letters = (0, 0, 0) if _is_bright(color) else (255, 255, 255)
    origin = (left + style.padding, bottom - style.padding)
    cv2.putText(canvas, text, origin, font, style.text_scale, letters, style.stroke, cv2.LINE_AA)
    return bottom + height


@lru_cache(maxsize=16)
def _style(size: Size) -> _Style:
    """Return the sizes of lines and letters that suit the size of the image."""
    shorter = min(size.width, size.height)
    scale = max(_MIN_TEXT_SCALE, shorter / 1000)
    line = 2 if shorter < 1080 else 4
    return _Style(line, scale, max(1, round(_TEXT_WIDTH * scale)), max(2, round(_PADDING * scale)))


def _is_bright(rgb: Color) -> bool:
    """Return whether black letters are easier to read on a color than white ones (by its luma, ITU-R BT.601)."""
    red, green, blue = rgb
    return 0.299 * red + 0.587 * green + 0.114 * blue > 140
