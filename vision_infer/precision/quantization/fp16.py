"""FP16: the network in half precision, its border and what needs more digits or a wider range in FP32.

Everything that carries our prefix stays in FP32: pre-processing, box decoding, selection. So do sums over many values,
exponentials and sorting, and what held values near the largest that FP16 knows on the calibration frames. Runtimes remove the
Casts between neighbours of one kind, for there are none: a Cast stands only where the kind changes, once for each tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from vision_infer.core.errors import ModelError
from vision_infer.model.graph import PREFIX, finish, read_card
from vision_infer.precision.quantization.ranges import Activations

FP32_OPERATORS = frozenset(
    {
        "ReduceSum",
        "ReduceMean",
        "ReduceL1",
        "ReduceL2",
        "ReduceSumSquare",
        "ReduceProd",
        "ReduceLogSumExp",
        "Softmax",
        "LogSoftmax",
    }
    | {"LayerNormalization", "InstanceNormalization", "GroupNormalization", "LpNormalization", "CumSum", "Pow", "Exp", "Log"}
    | {"Softplus", "Reciprocal", "TopK", "NonMaxSuppression", "GridSample", "Range", "Cast", "Constant", "ConstantOfShape"}
    | {"If", "Loop", "Scan", "Sum", "Mean", "Einsum", "QuantizeLinear", "DequantizeLinear"}
)
"""sums that overflow or lose digits, functions whose results are too wide, what sorts, and what says its type itself"""
FP32_INPUTS = {"Resize": (1, 2), "Upsample": (1,)}
"""inputs that are FP32 whatever the operator computes in: places and scales"""
LARGEST = float(np.finfo(np.float16).max) / 8
"""of the absolute values in a tensor; what was seen on a few frames may be exceeded on others"""


@dataclass(frozen=True, slots=True)
class Half:
    """A graph in FP16."""

    model: onnx.ModelProto
    kept: tuple[str, ...]
    """nodes of the network that stay in FP32 though their operator is none of those that always do: they hold large values"""


def large_tensors(activations: Mapping[str, Activations]) -> frozenset[str]:
    """Tensors that came too near to the largest value of FP16."""
    return frozenset(name for name, one in activations.items() if max(-one.low, one.high) > LARGEST)


def float_tensors(model: onnx.ModelProto) -> tuple[str, ...]:
    """The float32 tensors that the network computes, for a look at what they hold."""
    floats = {info.name for info in model.graph.value_info if info.type.tensor_type.elem_type == TensorProto.FLOAT}
    return tuple(name for node in model.graph.node if not node.name.startswith(PREFIX) for name in node.output if name in floats)


def to_half(model: onnx.ModelProto, large: frozenset[str], where: str) -> Half:
    """Convert a graph.

    Args:
        model: as :func:`vision_infer.precision.quantization.int8.simplify` gives it; it is left as it is.
        large: tensors that have to stay in FP32.
        where: names the model in an error.

    Returns:
        A checked deployment graph whose card says ``fp16``.

    Raises:
        ModelError: no node can compute in FP16.
    """
    card = read_card(model, where)
    assert card is not None
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    conversion = _Conversion(copy.graph, large)
    if not conversion.half:
        raise ModelError(f"{where}: no part of it can compute in FP16", "leave it in FP32")
    conversion.rewrite()
    made = finish(copy, card.model_copy(update={"precision": "fp16"}), where)
    return Half(made, tuple(conversion.kept))


class _Conversion:
    """Which nodes compute in FP16, and the Casts between them and the others."""

    def __init__(self, graph: onnx.GraphProto, large: frozenset[str]) -> None:
        self._graph = graph
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        infos = (*graph.value_info, *graph.input, *graph.output)
        self._floats = {info.name for info in infos if info.type.tensor_type.elem_type == TensorProto.FLOAT}
        self._floats |= {name for name, tensor in self._constants.items() if tensor.data_type == TensorProto.FLOAT}
        self._large = large | {name for name, tensor in self._constants.items() if self._is_large(tensor)}
        self.kept: list[str] = []
        self.half = {node.name for node in graph.node if self._can(node)}
        self._made_half = {name for node in graph.node if node.name in self.half for name in node.output if name in self._floats}
        self._casts: dict[str, str] = {}

    @staticmethod
    def _is_large(tensor: onnx.TensorProto) -> bool:
        if tensor.data_type != TensorProto.FLOAT:
            return False
        return not bool(np.all(np.abs(numpy_helper.to_array(tensor)) <= LARGEST))  # also for NaN

    def _can(self, node: onnx.NodeProto) -> bool:
        if node.name.startswith(PREFIX) or node.op_type in FP32_OPERATORS or node.domain not in ("", "ai.onnx"):
            return False
        floats = [name for name in (*self._data_inputs(node), *node.output) if name in self._floats]
        if not any(name in self._floats for name in node.output):
            return False
        if any(name in self._large for name in floats):
            self.kept.append(node.name)
            return False
        return True

    def _data_inputs(self, node: onnx.NodeProto) -> list[str]:
        apart = FP32_INPUTS.get(node.op_type, ())
        return [name for place, name in enumerate(node.input) if name and place not in apart]

    def rewrite(self) -> None:
        """Put the Casts in, and the constants beside them."""
        nodes: list[onnx.NodeProto] = []
        for node in self._graph.node:
            apart = FP32_INPUTS.get(node.op_type, ())
            half = node.name in self.half
            for place, name in enumerate(node.input):
                if name in self._floats:
                    wanted_half = half and place not in apart
                    node.input[place] = self._as(name, wanted_half, nodes)
            nodes.append(node)
            for place, name in enumerate(node.output):
                if half and name in self._floats and any(info.name == name for info in self._graph.output):
                    # A contract's output has its name and its type.
                    inner = f"{PREFIX}fp16/{name}"
                    node.output[place] = inner
                    nodes.append(helper.make_node("Cast", [inner], [name], f"{PREFIX}fp32/{name}", to=TensorProto.FLOAT))
                    self._made_half.discard(name)
                    self._casts[name] = inner
        del self._graph.node[:]
        self._graph.node.extend(nodes)

    def _as(self, name: str, half: bool, nodes: list[onnx.NodeProto]) -> str:
        """The name under which a tensor is to be had in FP16 or FP32."""
        if (name in self._made_half) == half:
            return name
        if name in self._casts:
            return self._casts[name]
        other = f"{PREFIX}{'fp16' if half else 'fp32'}/{name}"
        self._casts[name] = other
        if name in self._constants:
            values = numpy_helper.to_array(self._constants[name]).astype(np.float16)
            self._graph.initializer.append(numpy_helper.from_array(values, other))
        else:
            kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
            nodes.append(helper.make_node("Cast", [name], [other], other, to=kind))
        return other
