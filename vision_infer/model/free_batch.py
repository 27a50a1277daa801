"""Conversion of a fixed batch to a dynamic one: nodes that contain the batch size copy it from their input instead."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Shapes = dict[str, tuple[int | None, ...]]


def int_constants(model: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    """Return the int64 constants (shapes, counts) by name, from initializers and Constant nodes."""
    graph = model.graph
    held = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            held[node.output[0]] = node.attribute[0].t
    return {name: numpy_helper.to_array(tensor) for name, tensor in held.items() if tensor.data_type == TensorProto.INT64}


def free_batch(model: onnx.ModelProto, image: str, shapes: Shapes, batch: int) -> None:
    """Change each Reshape and Resize that fixes the batch to copy it from its input.

    Args:
        model: The model, which is changed.
        image: The name of the image input.
        shapes: The shapes of the tensors at that batch.
        batch: The batch size that the file is written for.
    """
    constants = int_constants(model)
    depends = {image}
    added: list[tuple[int, list[onnx.NodeProto]]] = []
    for place, node in enumerate(model.graph.node):
        if not depends.intersection(node.input):
            continue
        depends.update(node.output)
        # Weights are reshaped too, and their first size may be 1: only inputs that begin with the batch count.
        if shapes.get(node.input[0], (None,))[:1] != (batch,):
            continue
        if node.op_type == "Reshape":
            _free_reshape(model, node, constants, batch)
        elif node.op_type == "Resize" and len(node.input) > 3:
            added.append((place, _free_resize(model, node, constants, batch)))
    for place, nodes in reversed(added):
        for step in reversed(nodes):
            model.graph.node.insert(place, step)


def _free_reshape(model: onnx.ModelProto, node: onnx.NodeProto, constants: dict[str, NDArray[np.generic]], batch: int) -> None:
    if node.input[1] not in constants:
        return
    shape = constants[node.input[1]].copy()
    zeros = [attribute for attribute in node.attribute if attribute.name == "allowzero" and attribute.i]
    if not shape.size or shape[0] != batch or (zeros and (shape == 0).any()):
        return
    for attribute in zeros:  # 0 must mean "copy from the input", and no dimension is 0
        node.attribute.remove(attribute)
    shape[0] = 0
    name = f"{node.output[0]}/shape"  # a new constant, because another Reshape may use the old one
    model.graph.initializer.append(numpy_helper.from_array(shape, name))
    node.input[1] = name


def _free_resize(
    model: onnx.ModelProto, node: onnx.NodeProto, constants: dict[str, NDArray[np.generic]], batch: int
) -> list[onnx.NodeProto]:
    """Replace the sizes [batch, C, H, W] by the input's batch and the other sizes."""
    sizes = constants.get(node.input[3])
    axes = [attribute for attribute in node.attribute if attribute.name == "axes"]
    if sizes is None or axes or not sizes.size or sizes[0] != batch:
        return []
    own = f"{node.output[0]}/sizes"
    model.graph.initializer.append(numpy_helper.from_array(sizes[1:].copy(), f"{own}_tail"))
    steps = [
        helper.make_node("Shape", [node.input[0]], [f"{own}_batch"], start=0, end=1, name=f"{own}_batch"),
        helper.make_node("Concat", [f"{own}_batch", f"{own}_tail"], [own], axis=0, name=own),
    ]
    node.input[3] = own
    return steps
