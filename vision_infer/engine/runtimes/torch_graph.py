"""A deployment graph that PyTorch runs operator by operator.

Values that depend on weights only are computed once, when the graph is loaded. Shapes stay on the host, so that nothing waits for
the device between the first operator and the last: capturing a CUDA graph requires that.
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
    """A node that is ready to run."""

    name: str
    """The operator and the output, for errors."""
    operator: Operator
    attributes: Attributes
    inputs: tuple[Tensor | str | None, ...]
    """Each input: a constant on the right device, the name of an earlier step's output, or None."""
    to_device: tuple[int, ...]
    """The inputs that are computed on the host for each batch and needed on the device."""
    outputs: tuple[str, ...]
    last_uses: tuple[str, ...]
    """The values that no later step reads."""


class TorchGraph:
    """Loads a deployment graph, with its weights on a device of PyTorch.

    Raises:
        ModelError: It cannot be read, or has an operator that is not supported here; the message names it.
    """

    def __init__(self, path: Path, device: str) -> None:
        try:
            model = onnx.load(str(path))
        except Exception as error:  # the library's errors have no common base class
            raise ModelError(f"{path} cannot be loaded: {type(error).__name__}", "Check that the file is complete.") from error
        graph = model.graph
        self._path = path
        self._device = torch.device(device)
        self._outputs = tuple(one.name for one in graph.output)
        self.ports = [_port(one) for one in graph.input], [_port(one) for one in graph.output]
        """The inputs and the outputs."""
        self._constants: dict[str, Tensor] = {one.name: torch.from_numpy(_array(one)) for one in graph.initializer}
        self._moved: dict[str, Tensor] = {}
        self._steps = self._prepare(list(graph.node), [one.name for one in graph.input])
        self._constants.clear()

    @torch.inference_mode()
    def run(self, images: Tensor) -> dict[str, Tensor]:
        """Run a batch, uint8 [B, H, W, 3] on the device; return the outputs by name, on the device as well."""
        values: dict[str, Any] = {"images": images}
        for step in self._steps:
            inputs: list[Any] = [values[source] if isinstance(source, str) else source for source in step.inputs]
            for number in step.to_device:
                inputs[number] = inputs[number].to(self._device)
            given = step.operator(inputs, step.attributes)
            if len(step.outputs) == 1 and isinstance(given, Tensor):
                values[step.outputs[0]] = given
            else:
                values.update(zip(step.outputs, given, strict=False))
            for name in step.last_uses:
                values.pop(name, None)
        return {name: values[name] for name in self._outputs}

    def close(self) -> None:
        """Free the weights."""
        self._moved.clear()
        self._steps = ()

    def _prepare(self, nodes: list[onnx.NodeProto], inputs: list[str]) -> tuple[_GraphStep, ...]:
        unknown = sorted({node.op_type for node in nodes if node.op_type not in OPERATORS and node.op_type != "Constant"})
        if unknown:
            raise ModelError(
                f"{self._path} has operators that are not supported with PyTorch: {', '.join(unknown)}", "Use another engine."
            )
        # Compute what depends on constants only, and find the last reader of each value.
        left = [node for node in nodes if not self._fold(node)]
        last = {name: at for at, node in enumerate(left) for name in node.input}
        on_device, host = set(inputs), set[str]()
        steps = []
        for at, node in enumerate(left):
            # A node runs on the host if it gives a shape, or reads only values of the host; its parameters are there always.
            data = list(node.input)[: DATA_INPUTS.get(node.op_type)]
            given = [name for name in data if name and name not in self._constants]
            on_host = node.op_type == "Shape" or not data or (bool(given) and all(name in host for name in given))
            (host if on_host else on_device).update(node.output)
            sources = tuple(self._source(name, not on_host and number < len(data)) for number, name in enumerate(node.input))
            done = tuple(name for name in {*node.input} if last[name] == at and name not in self._outputs)
            name = f"{node.op_type} ({node.output[0]})"
            to_device = tuple(number for number, source in enumerate(data) if source in host and not on_host)
            steps.append(
                _GraphStep(name, OPERATORS[node.op_type], _attributes(node), sources, to_device, tuple(node.output), done)
            )
        return tuple(steps)

    @torch.inference_mode()
    def _fold(self, node: onnx.NodeProto) -> bool:
        """Compute a node that depends on constants only; return False if it does not."""
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
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        found[attribute.name] = torch.from_numpy(_array(value)) if isinstance(value, onnx.TensorProto) else value
    return found


def _port(value: onnx.ValueInfoProto) -> Port:
    kind = value.type.tensor_type
    shape = tuple(side.dim_value if side.HasField("dim_value") else side.dim_param or "?" for side in kind.shape.dim)
    return Port(value.name, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name, shape)
