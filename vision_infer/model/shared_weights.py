"""Graphs of one network for several input sizes hold the same weights: all but the first may read them from the first one's file.

ONNX lets a tensor's values lie in another file, at an offset (external data). That file may be any, and so also the .onnx file of
the other graph, which holds the very bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import external_data_helper, numpy_helper

MIN_BYTES = 1024
"""smaller tensors stay inside: naming another place takes nearly as much"""


def share_weights(model: onnx.ModelProto, others: Mapping[str, bytes]) -> onnx.ModelProto:
    """Let a graph read those weights from other graphs' files that are in them.

    Args:
        model: is left as it is.
        others: content by file name; the files have to lie in the graph's folder, and to stay the very same from then on.

    Returns:
        The graph without the weights that the other files hold.
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
