"""A tiny model that finds the bright square of the time-code camera (``tests/support/rtsp_server.py``) to one pixel of 320."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from vision_infer.core.card import InputSize, ModelCard, Weights
from vision_infer.model.graph import BATCH, OPSET, GraphBuilder, finish, tensor_info

WIDTH, HEIGHT = 320, 180
TOP, BOTTOM = HEIGHT // 2, HEIGHT // 2 + HEIGHT // 4
"""The rows of the input in which the square moves from side to side."""
BRIGHT = 120.0
"""A threshold between the level of the square and the level of the background."""


def write_square_model(path: Path) -> None:
    """Write the deployment graph."""
    card = ModelCard(
        name="square",
        input=InputSize(width=WIDTH, height=HEIGHT),
        fit="stretch",
        fill=(0, 0, 0),
        labels=("square",),
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
    for old, new in ((boxes, "boxes"), (scores, "scores"), (classes, "class_ids")):
        builder.rename(old, new)
    graph = helper.make_graph(
        builder.nodes,
        "square",
        [tensor_info("images", TensorProto.UINT8, BATCH, HEIGHT, WIDTH, 3)],
        [
            tensor_info("boxes", TensorProto.FLOAT, BATCH, 1, 4),
            tensor_info("scores", TensorProto.FLOAT, BATCH, 1),
            tensor_info("class_ids", TensorProto.INT32, BATCH, 1),
        ],
        builder.initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.save(finish(model, card, "square"), path)


def _first(builder: GraphBuilder, mask: str, name: str) -> str:
    """Return the index of the first 1 in each row, float32 [B, 1]."""
    return builder.cast(builder.add("ArgMax", mask, name=f"{name}_place", axis=1, keepdims=1), TensorProto.FLOAT, name)
