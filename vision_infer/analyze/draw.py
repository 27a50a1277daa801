"""Draws detections on images with supervision's annotators, in its familiar style.

supervision expects BGR images, ours are RGB: its palette is passed with red and blue exchanged, so that the colors are right.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.description import Description
from vision_infer.core.detections import Detections
from vision_infer.core.geometry import Size

if TYPE_CHECKING:
    import supervision

_MIN_TEXT_SCALE = 0.4
"""The minimum text scale at which OpenCV's font is readable."""
_TEXT_WIDTH = 1.6
"""The stroke width of the letters at a text scale of 1, pixels."""
_PADDING = 6
"""The padding between a label's text and its edge at a text scale of 1, pixels."""


class _Annotators(NamedTuple):
    boxes: supervision.BoxAnnotator
    labels: supervision.LabelAnnotator
    colors: int
    """The number of colors in rotation; the last one, after them, is for detections without a track."""


class Drawer:
    """Draws boxes with labels such as ``person 0.91``, ``person #3 0.91`` for a track, ``person 0.91 | red 0.80`` with the class
    of a secondary model. The class of a whole image, from a model for classification, is in the upper left corner.

    Each track has a color (gray without a track); without tracking, each class has one. The same number has the same color in
    every image of every run. Sizes follow the size of the image.
    """

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
        best = None if description is None else description.best
        if not len(detections) and best is None:
            return rgb
        annotators = _annotators(Size(rgb.shape[1], rgb.shape[0]))
        canvas = np.ascontiguousarray(rgb)  # OpenCV requires contiguous memory
        if len(detections):
            _draw_boxes(canvas, detections, annotators)
        if best is not None:
            corner, color = np.zeros((1, 4), np.float32), np.array([best.class_id % annotators.colors])
            _draw_labels(canvas, corner, [f"{best.label} {best.score:.2f}"], color, annotators.labels)
        if canvas is not rgb:
            rgb[:] = canvas
        return rgb


def _draw_boxes(canvas: NDArray[np.uint8], detections: Detections, annotators: _Annotators) -> None:
    import supervision as sv

    detections = detections[detections.scores.argsort(kind="stable")]  # the best is drawn last, on top
    colors = detections.class_ids.astype(np.int_) % annotators.colors
    if detections.track_ids is not None:
        tracks = detections.track_ids.astype(np.int_)
        colors = np.where(tracks > 0, (tracks - 1) % annotators.colors, annotators.colors)
    annotators.boxes.annotate(canvas, sv.Detections(detections.boxes, class_id=colors), custom_color_lookup=colors)
    _draw_labels(canvas, detections.boxes, _texts(detections), colors, annotators.labels)


def _draw_labels(
    canvas: NDArray[np.uint8],
    boxes: NDArray[np.float32],
    texts: list[str],
    colors: NDArray[np.int_],
    labels: supervision.LabelAnnotator,
) -> None:
    import supervision as sv

    # supervision's own smart_position spreads labels out, but takes 22 ms for 60 boxes, and labels jump between frames.
    places = sv.Detections(_label_places(boxes, texts, labels, canvas.shape[1]), class_id=colors)
    labels.annotate(canvas, places, labels=texts, custom_color_lookup=colors)


def _texts(detections: Detections) -> list[str]:
    tracks = [0] * len(detections) if detections.track_ids is None else detections.track_ids.tolist()
    descriptions = detections.descriptions or (None,) * len(detections)
    texts = []
    for label, track, score, description in zip(detections.labels, tracks, detections.scores.tolist(), descriptions, strict=True):
        text = f"{label} #{track} {score:.2f}" if track > 0 else f"{label} {score:.2f}"
        best = None if description is None else description.best
        texts.append(text if best is None else f"{text} | {best.label} {best.score:.2f}")
    return texts


def _label_places(
    boxes: NDArray[np.float32], texts: list[str], labels: supervision.LabelAnnotator, width: int
) -> NDArray[np.float32]:
    """Return boxes, float32 [N, 4], whose upper left corners keep the labels above them inside the image."""
    import cv2

    sizes = [cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, labels.text_scale, labels.text_thickness)[0] for text in texts]
    taken = np.array(sizes, dtype=np.float32) + 2 * labels.text_padding
    left = np.maximum(np.minimum(boxes[:, 0], width - taken[:, 0]), 0)
    top = np.maximum(boxes[:, 1], taken[:, 1])
    return np.stack((left, top, np.maximum(left, boxes[:, 2]), np.maximum(top, boxes[:, 3])), axis=1)


@lru_cache(maxsize=16)
def _annotators(size: Size) -> _Annotators:
    """Return annotators whose lines and letters suit the size of the image."""
    import supervision as sv  # imported on first use: it takes half a second

    resolution = (size.width, size.height)
    scale = max(_MIN_TEXT_SCALE, sv.calculate_optimal_text_scale(resolution))
    colors = [*sv.ColorPalette.DEFAULT.colors, sv.Color.GREY]
    backgrounds = sv.ColorPalette([sv.Color(r=color.b, g=color.g, b=color.r) for color in colors])
    letters = sv.ColorPalette([sv.Color.BLACK if _is_bright(color.as_rgb()) else sv.Color.WHITE for color in colors])
    return _Annotators(
        sv.BoxAnnotator(color=backgrounds, thickness=sv.calculate_optimal_line_thickness(resolution)),
        sv.LabelAnnotator(
            color=backgrounds,
            text_color=letters,
            text_scale=scale,
            text_thickness=max(1, round(_TEXT_WIDTH * scale)),
            text_padding=max(2, round(_PADDING * scale)),
        ),
        len(colors) - 1,
    )


def _is_bright(rgb: tuple[int, int, int]) -> bool:
    """Return whether black letters are easier to read on a color than white ones (by its luma, ITU-R BT.601)."""
    red, green, blue = rgb
    return 0.299 * red + 0.587 * green + 0.114 * blue > 140
