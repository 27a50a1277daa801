"""What the YOLO families share: one output with box, optional objectness, and classes for each anchor; and how they differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vision_infer.core.geometry import Size
from vision_infer.model.column_origins import LINEAR, ColumnOrigins
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
    only = not scores <= LINEAR and (not columns.parted_at(4) or scores <= {"Sigmoid", ""})
    return YoloColumns(boxes, columns.parted_at(5) and width > 5 if sigmoid else None, only and not first_is_sigmoid)
