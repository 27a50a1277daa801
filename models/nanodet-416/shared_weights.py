"""Graphs of one model for several input sizes have the same weights; all but the first can read them from the first one's file.

ONNX allows a tensor's values in another file at an offset (external data), which may be the .onnx file of the other graph.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import external_data_helper, numpy_helper

MIN_BYTES = 1024
"""The minimum size of a shared tensor; a reference to smaller ones takes nearly as much space."""


def share_weights(model: onnx.ModelProto, others: Mapping[str, bytes]) -> onnx.ModelProto:
    """Replace a graph's weights that are in other files by references to these files.

    Args:
        model: The graph, which is not changed.
        others: The contents by file name. The files must be in the graph's folder, and must not change afterwards.

    Returns:
        A copy of the graph without the weights that are in the other files.
    """
    shared = onnx.ModelProto()
    shared.CopyFrom(model)
    for tensor in shared.graph.initializer:
        content = numpy_helper.to_array(tensor).tobytes()
        if len(content) < MIN_BYTES:
            continue
        for name, other in others.items():
            place = other.find(content)
            if place < 0:
                continue
            for field in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
                tensor.ClearField(field)
            tensor.raw_data = content
            external_data_helper.set_external_data(tensor, name, place, len(content))
            tensor.ClearField("raw_data")
            break
    return shared
