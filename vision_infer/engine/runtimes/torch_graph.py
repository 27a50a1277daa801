"""A deployment graph, run by PyTorch operator by operator.

What depends on nothing but weights is computed once, when it is loaded. What is shape and not picture stays on the host, so that
on a device nothing is waited for between the first operator and the last: that a CUDA graph can be captured depends on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from vision_infer.core.errors import ModelError
from vision_infer.engine.contract import Port
from vision_infer.engine.runtimes.torch_operators import DATA_INPUTS, OPERATORS, Attributes, Operator


@dataclass(frozen=True, slots=True)
class _GraphStep:
    """A node, ready to run."""

    name: str
    """operator and output, for errors"""
    operator: Operator
    attributes: Attributes
    inputs: tuple[Tensor | str | None, ...]
    """a constant where it is needed, the name of what an earlier step gives, or None"""
    late: tuple[int, ...]
    """those inputs that are computed on the host, batch by batch, and needed on the device"""
    outputs: tuple[str, ...]
    done_with: tuple[str, ...]
    """what no later step reads"""


class TorchGraph:
    """Loads a deployment graph.

    Args:
        path: the file.
        device: of PyTorch, where its weights go.

    Raises:
        ModelError: it cannot be read, or has an operator that is not known here; names it.
    """

    def __init__(self, path: Path, device: str) -> None:
        try:
            model = onnx.load(str(path))
        except Exception as error:  # the library's errors have no common type of their own
            raise ModelError(f"{path} cannot be loaded: {type(error).__name__}", "is it whole?") from error
        graph = model.graph
        self._path = path
        self._device = torch.device(device)
        self._outputs = tuple(one.name for one in graph.output)
        self.ports = [_port(one) for one in graph.input], [_port(one) for one in graph.output]
        """inputs and outputs"""
        self._constants: dict[str, Tensor] = {one.name: torch.from_numpy(_array(one)) for one in graph.initializer}
        self._moved: dict[str, Tensor] = {}
        self._steps = self._prepare(list(graph.node), [one.name for one in graph.input])
        self.weight_bytes = sum(tensor.nbytes for tensor in self._moved.values())
        """of the constants on the device"""
        self._constants.clear()

    @torch.inference_mode()
    def run(self, images: Tensor) -> dict[str, Tensor]:
        """Run it.

        Args:
            images: uint8 [B, H, W, 3] on the device.

        Returns:
            The outputs by name, on the device.
        """
        values: dict[str, Any] = {"images": images}
        for step in self._steps:
            inputs: list[Any] = [values[one] if isinstance(one, str) else one for one in step.inputs]
            for number in step.late:
                inputs[number] = inputs[number].to(self._device)
            given = step.operator(inputs, step.attributes)
            if len(step.outputs) == 1 and isinstance(given, Tensor):
                values[step.outputs[0]] = given
            else:
                values.update(zip(step.outputs, given, strict=False))
            for name in step.done_with:
                values.pop(name, None)
        return {name: values[name] for name in self._outputs}

    def close(self) -> None:
        """Let go of the weights."""
        self._moved.clear()
        self._steps = ()

    def _prepare(self, nodes: list[onnx.NodeProto], inputs: list[str]) -> tuple[_GraphStep, ...]:
        unknown = sorted({node.op_type for node in nodes if node.op_type not in OPERATORS and node.op_type != "Constant"})
        if unknown:
            raise ModelError(
                f"{self._path} has operators that PyTorch is not taught here: {', '.join(unknown)}", "use another engine"
            )
        left = [node for node in nodes if not self._fold(node)]
        last = {name: at for at, node in enumerate(left) for name in node.input}
        on_device, host = set(inputs), set[str]()
        steps = []
        for at, node in enumerate(left):
            data = list(node.input)[: DATA_INPUTS.get(node.op_type)]
            given = [name for name in data if name and name not in self._constants]
            on_host = node.op_type == "Shape" or not data or (bool(given) and all(name in host for name in given))
            (host if on_host else on_device).update(node.output)
            sources = tuple(self._source(name, not on_host and number < len(data)) for number, name in enumerate(node.input))
            done = tuple(name for name in {*node.input} if last[name] == at and name not in self._outputs)
            name = f"{node.op_type} ({node.output[0]})"
            late = tuple(number for number, one in enumerate(data) if one in host and not on_host)
            steps.append(_GraphStep(name, OPERATORS[node.op_type], _attributes(node), sources, late, tuple(node.output), done))
        return tuple(steps)

    @torch.inference_mode()
    def _fold(self, node: onnx.NodeProto) -> bool:
        """Compute a node that depends on constants only; False where it does not."""
        attributes = _attributes(node)
        if node.op_type == "Constant":
            self._constants[node.output[0]] = next(torch.as_tensor(value) for value in attributes.values())
            return True
        if not all(not name or name in self._constants for name in node.input):
            return False
        given = OPERATORS[node.op_type]([self._constants[name] if name else None for name in node.input], attributes)
        for name, value in zip(node.output, [given] if isinstance(given, Tensor) else given, strict=False):
            self._constants[name] = value
        return True

    def _source(self, name: str, data: bool) -> Tensor | str | None:
        if not name:
            return None
        constant = self._constants.get(name)
        if constant is None or not data:
            return name if constant is None else constant
        if name not in self._moved:
            self._moved[name] = constant.to(self._device)
        return self._moved[name]


def _array(tensor: onnx.TensorProto) -> Any:
    return numpy_helper.to_array(tensor).copy()


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    found: dict[str, Any] = {"outputs": len(node.output)}
    for one in node.attribute:
        value = onnx.helper.get_attribute_value(one)
        found[one.name] = torch.from_numpy(_array(value)) if isinstance(value, onnx.TensorProto) else value
    return found


def _port(value: onnx.ValueInfoProto) -> Port:
    kind = value.type.tensor_type
    shape = tuple(side.dim_value if side.HasField("dim_value") else side.dim_param or "?" for side in kind.shape.dim)
    return Port(value.name, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name, shape)
