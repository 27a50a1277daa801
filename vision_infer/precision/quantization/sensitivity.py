"""Sensitivity of layers: the effect of quantizing one convolution alone on the inputs of the head.

Only that layer's weights and the tensors before and after it are rounded as in the INT8 graph. The error is measured at the
inputs of the head, before any selection, so that a few frames are enough to rank the layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from vision_infer.model.graph import PREFIX
from vision_infer.precision.quantization.int8 import Int8Recipe, quantizable
from vision_infer.precision.quantization.ranges import open_session

FRAMES = 6


@dataclass(frozen=True, slots=True)
class LayerError:
    """A convolution and the error of its rounding."""

    name: str
    error: float
    """The ratio of noise to signal power at the inputs of the head."""


def rank_layers(
    model: onnx.ModelProto,
    ranges: Mapping[str, tuple[float, float]],
    recipe: Int8Recipe,
    frames: Sequence[NDArray[np.uint8]],
    report: Callable[[int, int], bool] = lambda _done, _all: True,
) -> tuple[LayerError, ...]:
    """Return all layers that can be quantized, the most sensitive first.

    Args:
        model: The simplified graph.
        ranges: The ranges of its activations.
        recipe: The form and the range of the weights.
        frames: A few frames, uint8 [H, W, 3] each.
        report: Receives the number of finished layers and of all; if it returns False, the remaining layers get error 0.
    """
    ends = border_tensors(model)
    clean = _run(model, ends, frames)
    names = quantizable(model)
    found = []
    for number, name in enumerate(names):
        rounded = _run(_round_layer(model, name, ranges, recipe), ends, frames)
        found.append(LayerError(name, _noise(clean, rounded)))
        if not report(number + 1, len(names)):
            found += [LayerError(rest, 0.0) for rest in names[number + 1 :]]
            break
    return tuple(sorted(found, key=lambda one: -one.error))


def border_tensors(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the float32 tensors that the head reads from the model; the graph's outputs if there are none."""
    ours = {name for node in model.graph.node if node.name.startswith(PREFIX) for name in node.input}
    floats = {info.name for info in model.graph.value_info if info.type.tensor_type.elem_type == TensorProto.FLOAT}
    made = {name for node in model.graph.node if not node.name.startswith(PREFIX) for name in node.output}
    border = tuple(sorted(ours & floats & made))
    return border or tuple(info.name for info in model.graph.output if info.type.tensor_type.elem_type == TensorProto.FLOAT)


def _noise(clean: Sequence[NDArray[np.float64]], rounded: Sequence[NDArray[np.float64]]) -> float:
    parts = []
    for a, b in zip(clean, rounded, strict=True):
        signal = float(np.square(a - a.mean()).mean())
        noise = float(np.square(a - b).mean())
        parts.append(noise / signal if signal > 0 else noise)
    worst = float(np.mean(parts))
    return worst if np.isfinite(worst) else np.inf


def _run(model: onnx.ModelProto, ends: Sequence[str], frames: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float64]]:
    """Return the values of some tensors for each frame."""
    session = open_session(model, ends)
    return [
        values.astype(np.float64)
        for frame in frames
        for values in session.run(list(ends), {"images": np.ascontiguousarray(frame)[None]})
    ]


def _round_layer(
    model: onnx.ModelProto, name: str, ranges: Mapping[str, tuple[float, float]], recipe: Int8Recipe
) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    place, node = next((place, node) for place, node in enumerate(graph.node) if node.name == name)
    weights = next(tensor for tensor in graph.initializer if tensor.name == node.input[1])
    own = f"{PREFIX}rounded"
    graph.initializer.append(numpy_helper.from_array(round_weights(numpy_helper.to_array(weights), recipe), own))
    node.input[1] = own
    before = _pair(graph, node.input[0], f"{own}/in", ranges[node.input[0]], recipe)
    result = node.output[0]
    node.input[0] = before[-1].output[0]
    node.output[0] = f"{own}/raw"
    after = _pair(graph, node.output[0], f"{own}/out", ranges[result], recipe)
    after[-1].output[0] = result
    nodes = [*graph.node[:place], *before, node, *after, *graph.node[place + 1 :]]
    kept = [onnx.NodeProto.FromString(one.SerializeToString()) for one in nodes]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(kept)
    return copy


def round_weights(weights: NDArray[Any], recipe: Int8Recipe) -> NDArray[np.float32]:
    """Return weights rounded to INT8 with a scale per output channel, float32, of the same shape."""
    levels = 63 if recipe.reduced_range else 127
    largest = np.abs(weights).max(axis=tuple(range(1, weights.ndim)), keepdims=True)
    scale = np.where(largest > 0, largest / levels, 1.0)
    rounded: NDArray[np.float32] = (np.clip(np.rint(weights / scale), -levels, levels) * scale).astype(np.float32)
    return rounded


def _pair(
    graph: onnx.GraphProto, tensor: str, name: str, limits: tuple[float, float], recipe: Int8Recipe
) -> list[onnx.NodeProto]:
    low, high = limits
    if recipe.form == "cpu":
        scale = max(high - low, 1e-8) / 255
        zero: NDArray[Any] = np.array(np.clip(round(-low / scale), 0, 255), np.uint8)
    else:
        scale, zero = max(-low, high, 1e-8) / 127, np.array(0, np.int8)
    constants = (
        numpy_helper.from_array(np.array(scale, np.float32), f"{name}/scale"),
        numpy_helper.from_array(zero, f"{name}/zero"),
    )
    graph.initializer.extend(constants)
    parts = [constant.name for constant in constants]
    return [
        helper.make_node("QuantizeLinear", [tensor, *parts], [f"{name}/q"], f"{name}/q"),
        helper.make_node("DequantizeLinear", [f"{name}/q", *parts], [f"{name}/dq"], f"{name}/dq"),
    ]
