"""Draw detections on a picture with supervision's annotators: the look that its users know.

supervision takes pictures for BGR, ours are RGB: its palette is handed over with red and blue exchanged, so that the colours come
out as they are meant.
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
"""below this nobody can read OpenCV's font"""
_TEXT_WIDTH = 1.6
"""width of the letters' strokes at a text scale of 1, pixels"""
_PADDING = 6
"""between a label's text and its edge at a text scale of 1, pixels"""


class _Annotators(NamedTuple):
    boxes: supervision.BoxAnnotator
    labels: supervision.LabelAnnotator
    colors: int
    """how many colours go round; one more, the last, is for what has no track"""


class Drawer:
    """Draws boxes with labels such as ``person 0.91``, ``person #3 0.91`` for a track, ``person 0.91 | red 0.80`` where a second
    network tells a class; what a network for classification says of the whole picture stands in its upper left corner.

    One colour for each track where detections are tracked (grey for those without a track), for each class where they are not;
    the same number has the same colour in every picture of every run. Sizes follow the size of the picture.
    """

    def __call__(
        self, rgb: NDArray[np.uint8], detections: Detections, description: Description | None = None
    ) -> NDArray[np.uint8]:
        """Draw the detections on the picture.

        Args:
            rgb: uint8 [H, W, 3] RGB, writable; changed.
            detections: boxes in pixels of this picture.
            description: of the whole picture.

        Returns:
            The same array.
        """
        if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
            raise ValueError(f"a picture must be uint8 [H, W, 3], got {rgb.dtype} {list(rgb.shape)}")
        best = None if description is None else description.best
        if not len(detections) and best is None:
            return rgb
        annotators = _annotators(Size(rgb.shape[1], rgb.shape[0]))
        canvas = np.ascontiguousarray(rgb)  # OpenCV draws on nothing else
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
    told = detections.descriptions or (None,) * len(detections)
    texts = []
    for label, track, score, description in zip(detections.labels, tracks, detections.scores.tolist(), told, strict=True):
        text = f"{label} #{track} {score:.2f}" if track > 0 else f"{label} {score:.2f}"
        best = None if description is None else description.best
        texts.append(text if best is None else f"{text} | {best.label} {best.score:.2f}")
    return texts


def _label_places(
    boxes: NDArray[np.float32], texts: list[str], labels: supervision.LabelAnnotator, width: int
) -> NDArray[np.float32]:
    """float32 [N, 4]: boxes on whose upper left corner the label, which stands above it, is inside the picture."""
    import cv2

    sizes = [cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, labels.text_scale, labels.text_thickness)[0] for text in texts]
    taken = np.array(sizes, dtype=np.float32) + 2 * labels.text_padding
    left = np.maximum(np.minimum(boxes[:, 0], width - taken[:, 0]), 0)
    top = np.maximum(boxes[:, 1], taken[:, 1])
    return np.stack((left, top, np.maximum(left, boxes[:, 2]), np.maximum(top, boxes[:, 3])), axis=1)


@lru_cache(maxsize=16)
def _annotators(size: Size) -> _Annotators:
    """Annotators whose lines and letters suit the size of the picture."""
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
    """Whether black letters are easier to read on a colour than white ones (its luma, ITU-R BT.601)."""
    red, green, blue = rgb
    return 0.299 * red + 0.587 * green + 0.114 * blue > 140
