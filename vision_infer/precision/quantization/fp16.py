"""FP16: the model in half precision, except for nodes that need more digits or a wider range.

Pre-processing, box decoding and selection (nodes with the package's prefix) stay in FP32, as do sums over many values,
exponentials, sorting, and tensors near FP16's maximum on the calibration frames. Casts are inserted only where the precision
changes, once per tensor.
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
    {"ReduceSum", "ReduceMean", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceProd", "ReduceLogSumExp"}
    | {"Softmax", "LogSoftmax", "Softplus", "Reciprocal", "CumSum", "Pow", "Exp", "Log", "Sum", "Mean", "Einsum"}
    | {"LayerNormalization", "InstanceNormalization", "GroupNormalization", "LpNormalization", "GridSample", "Range"}
    | {"TopK", "NonMaxSuppression", "Cast", "Constant", "ConstantOfShape", "If", "Loop", "Scan"}
    | {"QuantizeLinear", "DequantizeLinear"}
)
"""Operators that stay in FP32: sums, functions with a wide range, sorting, and operators that define their type."""
FP32_INPUTS = {"Resize": (1, 2), "Upsample": (1,)}
"""The inputs that are always FP32: positions and scales."""
LARGEST = float(np.finfo(np.float16).max) / 8
"""The maximum absolute value of a tensor in FP16, with a margin for other frames."""


@dataclass(frozen=True, slots=True)
class Half:
    """A graph in FP16."""

    model: onnx.ModelProto
    kept: tuple[str, ...]
    """The nodes that stay in FP32 because of large values."""


def large_tensors(activations: Mapping[str, Activations]) -> frozenset[str]:
    """Return the tensors with values near FP16's maximum."""
    return frozenset(name for name, one in activations.items() if max(-one.low, one.high) > LARGEST)


def float_tensors(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the float32 tensors that the model computes."""
    floats = {info.name for info in model.graph.value_info if info.type.tensor_type.elem_type == TensorProto.FLOAT}
    return tuple(name for node in model.graph.node if not node.name.startswith(PREFIX) for name in node.output if name in floats)


def to_half(model: onnx.ModelProto, large: frozenset[str], where: str) -> Half:
    """Convert a graph.

    Args:
        model: The simplified graph, which is not changed.
        large: The tensors that stay in FP32.
        where: The name of the model, for errors.

    Returns:
        A checked deployment graph whose card says ``fp16``.

    Raises:
        ModelError: No node can compute in FP16.
    """
    card = read_card(model, where)
    assert card is not None
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    conversion = _Conversion(copy.graph, large)
    if not conversion.half:
        raise ModelError(f"{where}: no node can compute in FP16", "Use the model in FP32.")
    conversion.rewrite()
    made = finish(copy, card.model_copy(update={"precision": "fp16"}), where)
    return Half(made, tuple(conversion.kept))


class _Conversion:
    """Selects the nodes in FP16, and adds the Casts between them and the others."""

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
        """Add the Casts and the constants in FP16."""
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
                    # Outputs keep their name and type.
                    inner = f"{PREFIX}fp16/{name}"
                    node.output[place] = inner
                    nodes.append(helper.make_node("Cast", [inner], [name], f"{PREFIX}fp32/{name}", to=TensorProto.FLOAT))
                    self._made_half.discard(name)
                    self._casts[name] = inner
        del self._graph.node[:]
        self._graph.node.extend(nodes)

    def _as(self, name: str, half: bool, nodes: list[onnx.NodeProto]) -> str:
        """Return the name of a tensor in FP16 or FP32, adding a Cast if necessary."""
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
