"""INT8: a deployment graph with QuantizeLinear and DequantizeLinear, in two forms.

**cpu**: activations as uint8, weights as int8 with a scale for each channel, biases as int32. **tensorrt**: both as int8,
symmetric, biases left in FP32: its parser takes neither uint8 activations nor int32 biases. Only what a convolution reads is
quantized there: a pair behind it would keep TensorRT from fusing it with its activation function and the sum of a residual.

Convolutions and, for the CPU, the activation functions behind them are quantized. What decides boxes and scores by small
differences is not: the convolutions whose results the head reads, and everything that carries our prefix.
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
from onnx import TensorProto

from vision_infer.core.errors import ModelError
from vision_infer.engine.runtimes.onnxruntime import load_onnxruntime
from vision_infer.model.graph import PREFIX, finish, read_card

Form = Literal["cpu", "tensorrt"]
FORMS: tuple[Form, ...] = ("cpu", "tensorrt")
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""operators with weights, on which a network's time goes"""
ACTIVATIONS = frozenset({"LeakyRelu", "Relu", "Clip"})
"""functions that are quantized together with the convolution before them"""


@dataclass(frozen=True, slots=True)
class Int8Recipe:
    """How a graph is quantized."""

    form: Form = "cpu"
    kept: frozenset[str] = frozenset()
    """convolutions that stay in FP32, by the names of their nodes"""
    reduced_range: bool = False
    """7-bit weights: without VNNI, sums of two products of uint8 and int8 saturate at 16 bits"""


def simplify(model: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """ONNX Runtime's basic optimisation: constants folded, batch normalisation into convolutions; no operators of its own.

    Raises:
        ModelError: the runtime refuses the graph.
    """
    card = read_card(model, where)
    if card is None:
        raise ModelError(f"{where}: is no deployment graph", "import it first: vision-infer model import")
    runtime = load_onnxruntime()
    with tempfile.TemporaryDirectory(prefix="vision-infer-") as folder:
        path = Path(folder) / "simple.onnx"
        options = runtime.SessionOptions()
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 4
        try:
            runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's errors have no common type of their own
            raise ModelError(f"{where}: ONNX Runtime refuses it: {str(error).splitlines()[0][:200]}") from error
        simple = onnx.load(path)
    used = {node.domain for node in simple.graph.node} | {""}
    kept = [entry for entry in simple.opset_import if entry.domain in used]
    del simple.opset_import[:]
    simple.opset_import.extend(kept)
    _name_nodes(simple.graph)
    return finish(simple, card, where)


def quantizable(model: onnx.ModelProto) -> tuple[str, ...]:
    """The convolutions that may be quantized, in the order of the graph, by the names of their nodes.

    Left out are ours, those whose weights are no constants, and those whose results reach the head through no other operator with
    weights.
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
    """The tensors whose ranges :func:`quantize` may ask for."""
    nodes = _chosen_nodes(model, frozenset())
    constants = {tensor.name for tensor in model.graph.initializer}
    found = {name for node in nodes for name in (node.input[0], node.output[0])}
    return tuple(sorted(found - constants))


def quantize(
    model: onnx.ModelProto, ranges: Mapping[str, tuple[float, float]], recipe: Int8Recipe, where: str
) -> onnx.ModelProto:
    """Put QuantizeLinear and DequantizeLinear into a graph.

    Args:
        model: as :func:`simplify` gives it; it is left as it is.
        ranges: of the tensors of :func:`calibrated_tensors`.
        recipe: form, and what is kept.
        where: names the model in an error.

    Returns:
        A checked deployment graph whose card says ``int8``.

    Raises:
        ModelError: nothing is left to quantize.
    """
    card = read_card(model, where)
    assert card is not None
    chosen = _chosen_nodes(model, recipe.kept)
    if recipe.form == "tensorrt":
        chosen = [node for node in chosen if node.op_type == "Conv"]
    if not any(node.op_type == "Conv" for node in chosen):
        raise ModelError(f"{where}: has no convolution that could be quantized", "use --precision fp16, or leave it in FP32")
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
    logging.getLogger().setLevel(logging.ERROR)  # it names each tensor that it cannot find a range for
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
    _name_nodes(made.graph)
    return finish(made, card.model_copy(update={"precision": "int8"}), where)


def _chosen_nodes(model: onnx.ModelProto, kept: frozenset[str]) -> list[onnx.NodeProto]:
    """The convolutions that are quantized, and the activation functions that read nothing but one of them."""
    names = frozenset(quantizable(model)) - kept
    made = {node.output[0] for node in model.graph.node if node.name in names}
    return [
        node
        for node in model.graph.node
        if node.name in names or (node.op_type in ACTIVATIONS and node.input[0] in made and not node.name.startswith(PREFIX))
    ]


def _prediction_nodes(nodes: list[onnx.NodeProto]) -> frozenset[str]:
    """The operators with weights that our head sees first, looking back from it."""
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


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Give every node a name of its own."""
    taken = {node.name for node in graph.node}
    seen = {""}
    for number, node in enumerate(graph.node):
        if node.name in seen:
            name = f"{node.op_type}_{number}"
            while name in taken:
                name += "_"
            taken.add(name)
            node.name = name
        seen.add(node.name)


def element_types(model: onnx.ModelProto) -> frozenset[int]:
    """ONNX element types of the zero points, and so of what is quantized."""
    zeros = {node.input[2] for node in model.graph.node if node.op_type == "QuantizeLinear" and len(node.input) > 2}
    return frozenset(tensor.data_type for tensor in model.graph.initializer if tensor.name in zeros) or frozenset(
        {TensorProto.UINT8}
    )
