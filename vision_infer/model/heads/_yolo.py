"""What the YOLO families share: one output of a box, perhaps objectness, and classes for each anchor; how they differ inside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vision_infer.core.geometry import Size
from vision_infer.model.head import HeadDefaults
from vision_infer.model.network import RawNetwork, Tensor
from vision_infer.model.origin import LINEAR, Columns

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
"""how these families are trained and used; each has an IoU of its own"""
STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (4, 8, 16, 32, 64), (16, 32), (8, 16))
"""sets of strides that are in use, the most usual first"""


@dataclass(frozen=True, slots=True)
class Inside:
    """How a network makes the columns of its one output."""

    boxes: Literal["raw", "decoded", ""]
    """straight from convolutions; computed from them; empty where that is not known"""
    objectness: bool | None
    """whether the first score is made apart from the others; None where that is not known"""
    scores_only: bool
    """False where something behind the box is known to be no score"""


def only_output(network: RawNetwork) -> Tensor | None:
    """The output [1, …, …] of a network with one, and one input; None for others.

    Older exporters give the maps [1, anchors, H, W, …] that it was made of as well, which are left aside.
    """
    outputs = [tensor for tensor in network.outputs if len(tensor.shape) != 5]
    if network.other_inputs or len(outputs) != 1 or len(outputs[0].shape) != 3:
        return None
    return outputs[0]


def look_inside(network: RawNetwork, tensor: Tensor, width: int) -> Inside:
    """Find out how the columns of an output are made: four of a box, and scores behind them."""
    columns = Columns(network, tensor, width)
    box, scores = columns.ops(0, 4), columns.ops(4, width)
    boxes: Literal["raw", "decoded", ""] = ""
    if box <= LINEAR:
        boxes = "raw"
    elif columns.parted_at(4) and "" not in box and not box & LINEAR:
        boxes = "decoded"
    sigmoid = columns.parted_at(4) and scores == {"Sigmoid"}
    first_is_sigmoid = len(columns.parts) > 1 and box == {"Sigmoid"}
    only = not scores <= LINEAR and (not columns.parted_at(4) or scores <= {"Sigmoid", ""})
    return Inside(boxes, columns.parted_at(5) and width > 5 if sigmoid else None, only and not first_is_sigmoid)
