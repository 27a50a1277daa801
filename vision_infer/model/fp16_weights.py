"""Storage of weights as float16 with float32 computation: half the file size, the same engine.

Each weight tensor becomes a float16 constant and a Cast, which runtimes fold back into a float32 constant when they load the
graph. NanoDet's weights are exact in float16; for others the rounding is bounded.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from vision_infer.model.graph import PREFIX

MIN_ELEMENTS = 1024
"""The minimum size of a stored tensor; smaller ones, such as biases and scales, save no space."""
TOLERANCE = 2.0**-11
"""The maximum rounding error of a weight, as a share of its tensor's largest weight: that of float16's 11 bits."""


def store_weights_fp16(model: onnx.ModelProto, tolerance: float = TOLERANCE) -> onnx.ModelProto:
    """Store large float32 weights as float16, with a Cast to float32 after each.

    Args:
        model: A deployment graph, which is not changed.
        tolerance: The maximum rounding error of a tensor, as a share of its largest weight; tensors with a larger error stay
            float32. With 0, only tensors that are exact in float16 are stored.

    Returns:
        A graph with the same inputs, outputs, card and, within the tolerance, the same weights. Constants of the
        pre-processing and the head are not changed, because boxes are decoded in FP32.
    """
    stored = onnx.ModelProto()
    stored.CopyFrom(model)
    graph = stored.graph
    outputs = {info.name for info in graph.output}
    casts: list[onnx.NodeProto] = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or tensor.name.startswith(PREFIX) or tensor.name in outputs:
            continue
        values = numpy_helper.to_array(tensor)
        half = _to_half(values, tolerance) if values.size >= MIN_ELEMENTS else None
        if half is None:
            continue
        name = f"{PREFIX}fp16/{tensor.name}"
        casts.append(helper.make_node("Cast", [name], [tensor.name], name=f"{PREFIX}fp32/{tensor.name}", to=TensorProto.FLOAT))
        tensor.CopyFrom(numpy_helper.from_array(half, name))
    # After the pre-processing, which reads no weights: the first node of a deployment graph is its Cast from uint8.
    nodes = list(graph.node)
    start = next((index for index, node in enumerate(nodes) if not node.name.startswith(PREFIX)), 0)
    del graph.node[:]
    graph.node.extend([*nodes[:start], *casts, *nodes[start:]])
    return stored


def _to_half(values: NDArray[np.generic], tolerance: float) -> NDArray[np.float16] | None:
    """Return the values as float16; None if one of them changes by more than the tolerance."""
    largest = float(np.max(np.abs(values)))
    if not largest <= float(np.finfo(np.float16).max):  # also for NaN
        return None
    half = values.astype(np.float16)
    error = float(np.max(np.abs(half.astype(np.float64) - values.astype(np.float64))))
    return half if error <= tolerance * largest else None
