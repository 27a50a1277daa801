"""INT8: a deployment graph with QuantizeLinear and DequantizeLinear, in two forms.

**cpu**: activations as uint8, weights as int8 with a scale per channel, biases as int32. **tensorrt**: both as symmetric int8,
biases in FP32, because its parser accepts neither uint8 activations nor int32 biases. Only inputs of convolutions are quantized
there, because a pair after a convolution prevents TensorRT from fusing it with its activation function and residual sum.

Convolutions and, for the CPU, their activation functions are quantized. Convolutions whose results the head reads, and nodes with
the package's prefix, are not, because boxes and scores depend on small differences there.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from vision_infer.core.errors import ModelError
from vision_infer.engine.runtimes.onnxruntime import load_onnxruntime
from vision_infer.model.graph import PREFIX, finish, read_card
from vision_infer.model.network import name_nodes

Form = Literal["cpu", "tensorrt"]
FORMS: tuple[Form, ...] = ("cpu", "tensorrt")
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators with weights, which take most of the time."""
ACTIVATIONS = frozenset({"LeakyRelu", "Relu", "Clip"})
"""Functions that are quantized together with the convolution before them."""


@dataclass(frozen=True, slots=True)
class Int8Recipe:
    """How a graph is quantized."""

    form: Form = "cpu"
    kept: frozenset[str] = frozenset()
    """The convolutions that stay in FP32, by node name."""
    reduced_range: bool = False
    """Whether weights have 7 bits: without VNNI, sums of two products of uint8 and int8 saturate at 16 bits."""


def simplify(model: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """Apply ONNX Runtime's basic optimizations, which fold constants and batch normalizations.

    Raises:
        ModelError: The runtime refuses the graph.
    """
    card = read_card(model, where)
    if card is None:
        raise ModelError(f"{where}: not a deployment graph", "Import it with 'vision-infer model import' first.")
    runtime = load_onnxruntime()
    with tempfile.TemporaryDirectory(prefix="vision-infer-") as folder:
        path = Path(folder) / "simple.onnx"
        options = runtime.SessionOptions()
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 4
        try:
            runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's errors have no common type
            raise ModelError(f"{where}: ONNX Runtime refuses it: {str(error).splitlines()[0][:200]}") from error
        simple = onnx.load(path)
    used = {node.domain for node in simple.graph.node} | {""}
    kept = [entry for entry in simple.opset_import if entry.domain in used]
    del simple.opset_import[:]
    simple.opset_import.extend(kept)
    name_nodes(simple)
    return finish(simple, card, where)


def quantizable(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the convolutions that can be quantized, by node name, in the order of the graph.

    Excluded are nodes with the package's prefix, convolutions whose weights are not constant, and the last ones before the head.
    """
    nodes = list(model.graph.node)
    constants = {tensor.name for tensor in model.graph.initializer}
    last = _prediction_nodes(nodes)
    return tuple(
        node.name
        for node in nodes
        if node.op_type == "Conv" and not node.name.startswith(PREFIX) and node.input[1] in constants and node.name not in last
    )


def calibrated_tensors(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the tensors whose ranges :func:`quantize` may need."""
    nodes = _chosen_nodes(model, frozenset())
    constants = {tensor.name for tensor in model.graph.initializer}
    found = {name for node in nodes for name in (node.input[0], node.output[0])}
    return tuple(sorted(found - constants))


def quantize(
    model: onnx.ModelProto, ranges: Mapping[str, tuple[float, float]], recipe: Int8Recipe, where: str
) -> onnx.ModelProto:
    """Add QuantizeLinear and DequantizeLinear to a graph.

    Args:
        model: The simplified graph, which is not changed.
        ranges: The ranges of the tensors of :func:`calibrated_tensors`.
        recipe: The form, and the layers in FP32.
        where: The name of the model, for errors.

    Returns:
        A checked deployment graph whose card says ``int8``.

    Raises:
        ModelError: There is nothing to quantize.
    """
    card = read_card(model, where)
    assert card is not None
    chosen = _chosen_nodes(model, recipe.kept)
    if recipe.form == "tensorrt":
        chosen = [node for node in chosen if node.op_type == "Conv"]
    if not any(node.op_type == "Conv" for node in chosen):
        raise ModelError(f"{where}: the model has no convolution that can be quantized", "Add --precision fp16, or use FP32.")
    load_onnxruntime()
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorsData

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    limits = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    extra: dict[str, Any] = {"WeightSymmetric": True}
    activation = QuantType.QUInt8
    if recipe.form == "tensorrt":
        extra |= {"ActivationSymmetric": True, "QuantizeBias": False, "AddQDQPairToWeight": False}
        extra["OpTypesToExcludeOutputQuantization"] = ["Conv"]
        activation = QuantType.QInt8
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # it logs each tensor without a range
    try:
        quantizer = QDQQuantizer(
            copy,
            True,
            recipe.reduced_range,
            QuantType.QInt8,
            activation,
            TensorsData(CalibrationMethod.MinMax, limits),
            [node.name for node in chosen],
            [],
            sorted({node.op_type for node in chosen}),
            extra,
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    finally:
        logging.getLogger().setLevel(level)
    made = quantizer.model.model
    name_nodes(made)
    return finish(made, card.model_copy(update={"precision": "int8"}), where)


def _chosen_nodes(model: onnx.ModelProto, kept: frozenset[str]) -> list[onnx.NodeProto]:
    """Return the convolutions to quantize, and the activation functions that read one of them."""
    names = frozenset(quantizable(model)) - kept
    made = {node.output[0] for node in model.graph.node if node.name in names}
    return [
        node
        for node in model.graph.node
        if node.name in names or (node.op_type in ACTIVATIONS and node.input[0] in made and not node.name.startswith(PREFIX))
    ]


def _prediction_nodes(nodes: list[onnx.NodeProto]) -> frozenset[str]:
    """Return the last operators with weights before the head."""
    producers = {name: node for node in nodes for name in node.output}
    reads = {name for node in nodes if node.name.startswith(PREFIX) for name in node.input}
    todo = [producers[name] for name in reads if name in producers and not producers[name].name.startswith(PREFIX)]
    seen: set[str] = set()
    found: set[str] = set()
    while todo:
        node = todo.pop()
        if node.name in seen:
            continue
        seen.add(node.name)
        if node.op_type in WEIGHTED:
            found.add(node.name)
            continue
        todo += [producers[name] for name in node.input if name in producers]
    return frozenset(found)
