"""What the YOLO families share: one output with box, optional objectness, and classes for each anchor; and how they differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.card import KeypointLayout, ModelCard
from vision_infer.core.errors import ModelError
from vision_infer.core.geometry import Size
from vision_infer.model.column_origins import LINEAR, ColumnGroup, ColumnOrigins
from vision_infer.model.decode import (
    TopPairs,
    as_float,
    columns,
    corners,
    find_strides,
    gather_rows,
    top_pairs,
    top_pairs_channels_first,
)
from vision_infer.model.graph import GraphBuilder
from vision_infer.model.head import HeadDefaults
from vision_infer.model.network import RawNetwork, Tensor

USUAL = HeadDefaults(
    color="rgb",
    mean=(0.0, 0.0, 0.0),
    std=(255.0, 255.0, 255.0),
    fit="center",
    fill=(114, 114, 114),
    confidence=0.25,
    iou=None,
    input_size=Size(640, 640),
)
"""The defaults of these families; each has its own IoU threshold."""
COCO_17 = KeypointLayout(
    names=(
        *(
            "nose",
            "left_eye",
            "right_eye",
            "left_ear",
            "right_ear",
            "left_shoulder",
            "right_shoulder",
            "left_elbow",
            "right_elbow",
        ),
        *("left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle"),
    ),
    skeleton=(
        *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8)),
        *((7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
    ),
)
"""The keypoints of a person and the skeleton of COCO, as in its file person_keypoints_val2017.json, with numbers from 0."""
STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (4, 8, 16, 32, 64), (16, 32), (8, 16))
"""The sets of strides in use, the most common first."""


@dataclass(frozen=True, slots=True)
class YoloColumns:
    """How a model computes the columns of its one output."""

    boxes: Literal["raw", "decoded", ""]
    """``raw``: straight from convolutions; ``decoded``: computed from them; empty if unknown."""
    objectness: bool | None
    """Whether the first score is computed separately from the others; None if unknown."""
    scores_only: bool
    """False if something after the box is known not to be a score."""


def only_output(network: RawNetwork) -> Tensor | None:
    """Return the output [1, …, …] of a model with one input and one output; None for others.

    The maps [1, anchors, H, W, …] that older exporters add are ignored.
    """
    outputs = [tensor for tensor in network.outputs if len(tensor.shape) != 5]
    if network.other_inputs or len(outputs) != 1 or len(outputs[0].shape) != 3:
        return None
    return outputs[0]


def look_inside(network: RawNetwork, tensor: Tensor, width: int) -> YoloColumns:
    """Detect how the columns of an output are computed: four of the box, and the scores after them."""
    columns = ColumnOrigins(network, tensor, width)
    box, scores = columns.ops(0, 4), columns.ops(4, width)
    boxes: Literal["raw", "decoded", ""] = ""
    if box <= LINEAR:
        boxes = "raw"
    elif columns.parted_at(4) and "" not in box and not box & LINEAR:
        boxes = "decoded"
    sigmoid = columns.parted_at(4) and scores == {"Sigmoid"}
    first_is_sigmoid = len(columns.parts) > 1 and box == {"Sigmoid"}
    only = not scores <= LINEAR and (not columns.parted_at(4) or scores in ({"Sigmoid"}, {""}))
    return YoloColumns(boxes, columns.parted_at(5) and width > 5 if sigmoid else None, only and not first_is_sigmoid)


class YoloLayout(NamedTuple):
    """The layout of an output [1, columns, anchors] or [1, anchors, columns], with box and class scores first."""

    tensor: Tensor
    anchors: int
    width: int
    """The number of columns."""
    anchors_first: bool

    def shape(self, *parts: str | int) -> str:
        """Return the shape, with the columns in parts, for messages."""
        columns_ = f"({' + '.join(map(str, parts))})"
        return f"{self.anchors} x {columns_}" if self.anchors_first else f"{columns_} x {self.anchors}"


def find_layout(network: RawNetwork, tensor: Tensor | None) -> YoloLayout | None:
    """Return the layout of an output with an anchor for each cell of its strides; None for other outputs."""
    if tensor is None or len(tensor.shape) != 3:
        return None
    _, rows, columns_ = tensor.shape
    if rows is None or columns_ is None:
        return None
    if rows >= 5 and find_strides(network.size, columns_, STRIDES):
        return YoloLayout(tensor, columns_, rows, False)
    if columns_ >= 5 and find_strides(network.size, rows, STRIDES):
        return YoloLayout(tensor, rows, columns_, True)
    return None


def columns_after_scores(network: RawNetwork, layout: YoloLayout) -> tuple[ColumnGroup, ...] | None:
    """Return the columns after decoded boxes and class scores; None if the graph does not show where the scores end."""
    parts = ColumnOrigins(network, layout.tensor, layout.width).parts
    place, end, last = 0, 0, 0
    for number, part in enumerate(parts, 1):  # the scores: values after a Sigmoid that follow the box
        if place >= 4 and part.op == "Sigmoid" and end in (0, place):
            end, last = place + part.width, number
        place += part.width
    return None if end == 0 or parts[0].op in ("", "Conv") else parts[last:]


def best_rows(
    builder: GraphBuilder, layout: YoloLayout, classes: int, candidates: int, pieces: Sequence[tuple[int, int, str]]
) -> tuple[TopPairs, list[str]]:
    """Select the K best pairs of anchor and class, and some columns of these anchors.

    Args:
        builder: Takes the nodes.
        layout: The output, with box, class scores, and possibly other columns.
        classes: The number of classes.
        candidates: K, at most the number of pairs.
        pieces: The first column, the column after the last one, and a name, of each piece.

    Returns:
        The pairs, and the tensor of each piece, float32 [B, K, columns].
    """
    source = as_float(builder, layout.tensor)
    if layout.anchors_first:
        scores = columns(builder, source, 4, 4 + classes, "scores_all")
        top = top_pairs(builder, scores, layout.anchors, classes, candidates)
    else:
        top, source = top_pairs_channels_first(builder, source, 4, classes, layout.anchors, candidates, layout.width)
    rows = [
        gather_rows(builder, columns(builder, source, start, stop, f"{name}_all"), top.anchors, f"{name}_top")
        for start, stop, name in pieces
    ]
    return top, rows


def check_keypoints(network: RawNetwork, card: ModelCard, count: int, after: str) -> None:
    """Check the number of values of keypoints, which follow the values ``after``.

    Raises:
        ModelError: It is not the number that the keypoints of the card need.
    """
    points = 0 if card.keypoints is None else len(card.keypoints.names)
    if count != 3 * points:
        given = f"{count} values follow its {after}"
        message = f"{network.where}: {given}, but the {points} keypoints of the card need {3 * points} (x, y and score each)"
        raise ModelError(message, "Describe the model's keypoints in a file and add --keypoints FILE, or export it with scores.")


def as_keypoints(builder: GraphBuilder, card: ModelCard, values: str) -> str:
    """Return values [B, K, 3P] as keypoints [B, K, P, 3]."""
    points = 0 if card.keypoints is None else len(card.keypoints.names)
    return builder.add("Reshape", values, builder.ints("keypoints_shape", 0, 0, points, 3), name="keypoints_xys")


def as_rotated_boxes(builder: GraphBuilder, network: RawNetwork, card: ModelCard, rows: str, angle: str) -> tuple[str, str]:
    """Return enclosing boxes [B, K, 4] and rotated boxes [B, K, 5], given centers and sizes [B, K, 4] and angles [B, K, 1].

    Raises:
        ModelError: The card stretches images.
    """
    if card.fit == "stretch":
        message = f"{network.where}: rotated boxes are not rectangles in a stretched image"
        raise ModelError(message, "Use --fit center or top_left.")
    rotated = builder.add("Concat", rows, angle, name="rotated", axis=2)
    # The box that encloses it: its sides are the lengths of both sides along each axis.
    along = builder.add("Abs", builder.add("Cos", angle, name="angle_cos"), name="along")
    across = builder.add("Abs", builder.add("Sin", angle, name="angle_sin"), name="across")
    turned = builder.add("Gather", rows, builder.ints("height_width", 3, 2), name="height_width_top", axis=2)
    straight = builder.add("Mul", columns(builder, rows, 2, 4, "wh"), along, name="sides_along")
    enclosing = builder.add("Add", straight, builder.add("Mul", turned, across, name="sides_across"), name="enclosing")
    return corners(builder, columns(builder, rows, 0, 2, "xy"), enclosing), rotated


def enclosing_boxes(rotated: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the boxes [..., 4] that enclose rotated boxes [..., 5], in NumPy."""
    center, half, angle = rotated[..., :2], rotated[..., 2:4] / 2, rotated[..., 4:]
    along = half[..., :1] * np.concatenate([np.cos(angle), np.sin(angle)], axis=-1)
    across = half[..., 1:] * np.concatenate([-np.sin(angle), np.cos(angle)], axis=-1)
    reach = np.maximum(np.abs(along + across), np.abs(along - across))
    return np.concatenate([center - reach, center + reach], axis=-1)
