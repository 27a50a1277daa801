"""A tiny model that finds the bright square of the time-code camera (``tests/support/rtsp_server.py``) to one pixel of 320.

With a detail, it also returns the upper half of the square as its mask, the middles of its left and right edges as keypoints, or
a rotated box.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from vision_infer.core.card import DetailKind, InputSize, KeypointLayout, ModelCard, Weights
from vision_infer.model.graph import BATCH, OPSET, GraphBuilder, finish, tensor_info

WIDTH, HEIGHT = 320, 180
TOP, BOTTOM = HEIGHT // 2, HEIGHT // 2 + HEIGHT // 4
"""The rows of the input in which the square moves from side to side."""
BRIGHT = 120.0
"""A threshold between the level of the square and the level of the background."""


ANGLE = 0.5
"""The angle of rotated boxes, radians."""
ROTATED_SIZE = (30.0, 10.0)
"""The width and height of rotated boxes, pixels of the input."""


def write_square_model(path: Path, detail: DetailKind | None = None) -> None:
    """Write the deployment graph."""
    card = ModelCard(
        name="square",
        input=InputSize(width=WIDTH, height=HEIGHT),
        fit="stretch",
        fill=(0, 0, 0),
        labels=("square",),
        detail=detail,
        keypoints=KeypointLayout(names=("left", "right"), skeleton=((0, 1),)) if detail == "keypoints" else None,
        confidence=0.5,
        iou=None,
        license="Apache-2.0",
        weights=Weights(source="none: the model has no weights"),
    )
    builder = GraphBuilder()
    pixels = builder.cast("images", TensorProto.FLOAT, "pixels")
    lines = builder.ints("lines", *range(TOP + 5, BOTTOM - 5))
    band = builder.add("Gather", pixels, lines, name="band", axis=1)
    profile = builder.add("ReduceMean", band, name="profile", axes=[1, 3], keepdims=0)
    bright = builder.add("Greater", profile, builder.constant("level", np.asarray(BRIGHT, np.float32)), name="bright")
    mask = builder.cast(bright, TensorProto.FLOAT, "mask")
    backwards = builder.add("Gather", mask, builder.ints("backwards", *reversed(range(WIDTH))), name="mask_backwards", axis=1)
    left = _first(builder, mask, "left")
    right = builder.add(
        "Sub",
        builder.constant("width", np.asarray(WIDTH, np.float32)),
        _first(builder, backwards, "from_right"),
        name="right",
    )
    still = builder.add("Mul", left, builder.constant("zero", np.asarray(0, np.float32)), name="still")
    top = builder.add("Add", still, builder.constant("top", np.asarray(TOP, np.float32)), name="tops")
    bottom = builder.add("Add", still, builder.constant("bottom", np.asarray(BOTTOM, np.float32)), name="bottoms")
    flat = builder.add("Concat", left, top, right, bottom, name="flat", axis=1)
    boxes = builder.add("Unsqueeze", flat, builder.ints("one", 1), name="boxes")
    scores = builder.add("ReduceMax", mask, name="scores", axes=[1], keepdims=1)
    classes = builder.cast(still, TensorProto.INT32, "class_ids")
    more = _details(builder, detail, mask, (left, right, still))
    for old, new in ((boxes, "boxes"), (scores, "scores"), (classes, "class_ids"), *more.items()):
        builder.rename(old, new)
    graph = helper.make_graph(
        builder.nodes,
        "square",
        [tensor_info("images", TensorProto.UINT8, BATCH, HEIGHT, WIDTH, 3)],
        [
            tensor_info("boxes", TensorProto.FLOAT, BATCH, 1, 4),
            tensor_info("scores", TensorProto.FLOAT, BATCH, 1),
            tensor_info("class_ids", TensorProto.INT32, BATCH, 1),
            *(tensor_info(name, TensorProto.FLOAT, BATCH, *_SHAPES[name]) for name in more.values()),
        ],
        builder.initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.save(finish(model, card, "square"), path)


def write_segment_model(path: Path) -> None:
    """Write the deployment graph of a model for semantic segmentation: the class of bright pixels is 1."""
    card = ModelCard(
        name="bright", task="segment", input=InputSize(width=WIDTH, height=HEIGHT), fit="stretch", labels=("background", "bright")
    )
    builder = GraphBuilder()
    gray = builder.add("ReduceMean", builder.cast("images", TensorProto.FLOAT, "pixels"), name="gray", axes=[3], keepdims=0)
    bright = builder.add("Greater", gray, builder.constant("level", np.asarray(BRIGHT, np.float32)), name="bright")
    builder.rename(builder.cast(bright, TensorProto.UINT8, "classes"), "classes")
    inputs = [tensor_info("images", TensorProto.UINT8, BATCH, HEIGHT, WIDTH, 3)]
    outputs = [tensor_info("classes", TensorProto.UINT8, BATCH, HEIGHT, WIDTH)]
    graph = helper.make_graph(builder.nodes, "bright", inputs, outputs, builder.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.save(finish(model, card, "bright"), path)


_SHAPES: dict[str, tuple[int, ...]] = {
    "keypoints": (1, 2, 3),
    "coefficients": (1, 1),
    "prototypes": (1, 8, WIDTH),
    "rotated_boxes": (1, 5),
}
"""The shapes of the additional outputs, without the batch."""


def _details(builder: GraphBuilder, detail: DetailKind | None, mask: str, places: tuple[str, str, str]) -> dict[str, str]:
    """Add the outputs of a detail, and return their names in the graph.

    Args:
        builder: The graph.
        detail: The detail.
        mask: 1 for the columns of the square, 0 for the others, float32 [B, WIDTH].
        places: The left and right edge of the square, and zeros, float32 [B, 1] each.
    """
    left, right, still = places

    def value(name: str, number: float) -> str:
        return builder.add("Add", still, builder.constant(f"{name}_value", np.asarray(number, np.float32)), name=name)

    def shaped(name: str, *values: str) -> str:
        flat = builder.add("Concat", *values, name=f"{name}_flat", axis=1)
        return builder.add("Reshape", flat, builder.ints(f"{name}_shape", 0, *_SHAPES[name]), name=f"all_{name}")

    if detail == "keypoints":
        middle, sure = value("middle", (TOP + BOTTOM) / 2), value("sure", 1)
        return {shaped("keypoints", left, middle, sure, right, middle, sure): "keypoints"}
    if detail == "rotated_boxes":
        half = builder.constant("half", np.asarray(0.5, np.float32))
        center = builder.add("Mul", builder.add("Add", left, right, name="both"), half, name="center")
        sides = [value("long", ROTATED_SIZE[0]), value("short", ROTATED_SIZE[1])]
        return {
            shaped("rotated_boxes", center, value("middle", (TOP + BOTTOM) / 2), *sides, value("angle", ANGLE)): "rotated_boxes"
        }
    if detail == "masks":
        below = builder.add("Sub", mask, builder.constant("two", np.asarray(2, np.float32)), name="below")  # negative
        return {
            shaped("coefficients", value("coefficient", 1)): "coefficients",
            shaped("prototypes", *[mask] * 5, *[below] * 3): "prototypes",
        }
    return {}


def _first(builder: GraphBuilder, mask: str, name: str) -> str:
    """Return the index of the first 1 in each row, float32 [B, 1]."""
    return builder.cast(builder.add("ArgMax", mask, name=f"{name}_place", axis=1, keepdims=1), TensorProto.FLOAT, name)
