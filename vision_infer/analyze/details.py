"""From an engine's outputs to the details of the detections that were kept, in pixels of the source image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.card import KeypointLayout
from vision_infer.core.details import Details, Keypoints, Masks, RotatedBoxes
from vision_infer.core.geometry import Letterbox

Outputs = Mapping[str, NDArray[Any]]


def without_gaps(outputs: Outputs) -> NDArray[np.float32]:
    """Return the scores, float32 [B, K], with NaN for each candidate whose details are not finite, so that it is not chosen."""
    scores: NDArray[np.float32] = outputs["scores"]
    for name in ("keypoints", "coefficients", "rotated_boxes"):
        if name in outputs:
            finite = np.isfinite(outputs[name]).reshape(*scores.shape, -1).all(axis=2)
            scores = np.where(finite, scores, np.float32(np.nan))
    return scores


def details_of(
    outputs: Outputs,
    image: int,
    kept: NDArray[np.intp],
    letterbox: Letterbox,
    boxes: NDArray[np.float32],
    layout: KeypointLayout | None,
) -> Details | None:
    """Return the details of the chosen candidates of an image.

    Args:
        outputs: The outputs of the engine, see :class:`vision_infer.engine.engine.RawResults`.
        image: The index of the image in the batch.
        kept: The indices of the candidates, intp [N].
        letterbox: The position of the image in its slot.
        boxes: Their boxes in pixels of the source image, float32 [N, 4].
        layout: The names and the skeleton of keypoints.

    Returns:
        Their details; None for a model without details.
    """
    scale = letterbox.source.width / letterbox.content.width, letterbox.source.height / letterbox.content.height
    if "keypoints" in outputs:
        return Keypoints(outputs["keypoints"][image][kept] - np.array([letterbox.x, letterbox.y, 0], np.float32), layout).scaled(
            *scale
        )
    if "rotated_boxes" in outputs:
        offset = np.array([letterbox.x, letterbox.y, 0, 0, 0], np.float32)
        return RotatedBoxes(outputs["rotated_boxes"][image][kept] - offset).scaled(*scale)
    if "coefficients" in outputs:
        return _masks(
            outputs["coefficients"][image][kept], outputs["prototypes"][image], outputs["boxes"][image][kept], letterbox, boxes
        )
    return None


def _masks(
    coefficients: NDArray[np.float32],
    prototypes: NDArray[np.float32],
    inputs: NDArray[np.float32],
    letterbox: Letterbox,
    boxes: NDArray[np.float32],
) -> Masks:
    """Multiply coefficients [N, M] with prototypes [M, h, w], for the part of each box in input pixels [N, 4] only."""
    height, width = prototypes.shape[1:]
    step = np.array([letterbox.input.width / width, letterbox.input.height / height] * 2)
    cells = inputs / step
    limits = np.array([width, height])
    first = np.clip(np.floor(cells[:, :2]) - 1, 0, limits - 1).astype(np.intp)  # one more on each side, to interpolate
    last = np.clip(np.ceil(cells[:, 2:]) + 1, first + 1, limits).astype(np.intp)
    places = letterbox.to_source(np.concatenate([first, last], axis=1) * step)
    parts = zip(coefficients, first.tolist(), last.tolist(), strict=True)
    # Not by a matrix product: BLAS divides it among threads, which takes up to 30 ms while all cores are busy.
    logits = [np.einsum("m,mhw->hw", one, prototypes[:, y1:y2, x1:x2]) for one, (x1, y1), (x2, y2) in parts]
    return Masks(letterbox.source, boxes, places, tuple(logits))
