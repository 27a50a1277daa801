"""A raw network, as its authors export it: read safely, at the right operator set, with a dynamic batch and names of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import TensorProto, compose, external_data_helper, numpy_helper, version_converter

from vision_infer.core.errors import ModelError
from vision_infer.core.geometry import Size
from vision_infer.model.graph import OPSET, dims_of, infer_shapes, iter_graphs, opset_of

NETWORK_PREFIX = "network/"
"""of every node and tensor of the raw network; raw graphs already use ``images``, ``boxes`` and ``scores``"""


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output of a raw network."""

    name: str
    """as in the raw file"""
    shape: tuple[int | None, ...]
    """at batch 1; None for a dimension that is not known"""
    dtype: int
    """ONNX element type"""

    @property
    def inside(self) -> str:
        """The tensor's name inside the deployment graph."""
        return NETWORK_PREFIX + self.name

    def __str__(self) -> str:
        return f"{self.name}[{', '.join('?' if dim is None else str(dim) for dim in self.shape)}]"


@dataclass(frozen=True, slots=True)
class RawNetwork:
    """A raw network, ready to be given its pre-processing and its head."""

    where: str
    """the file, for messages"""
    model: onnx.ModelProto
    """batch dynamic, all names prefixed with :data:`NETWORK_PREFIX`"""
    image: Tensor
    """the input that takes the pictures: [1, 3, H, W], float32 or float16"""
    other_inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def size(self) -> Size:
        """The network's input."""
        height, width = self.image.shape[2:]
        assert height is not None
        assert width is not None
        return Size(width, height)

    def has_op(self, op: str) -> bool:
        """Whether an operator occurs in the network."""
        return any(node.op_type == op for graph in iter_graphs(self.model.graph) for node in graph.node)

    def producer(self, tensor: Tensor, through: tuple[str, ...] = ()) -> onnx.NodeProto | None:
        """The node that computes a tensor's values, seen through operators that only move them; None if none does."""
        producers = {name: node for node in self.model.graph.node for name in node.output}
        name = tensor.inside
        while name in producers and producers[name].op_type in through:
            name = producers[name].input[0]
        return producers.get(name)

    def constant(self, name: str) -> NDArray[np.generic] | None:
        """The values of a constant, by its name inside the model; None if it is none."""
        return _constants(self.model).get(name)

    def refuse(self, head: str, why: str) -> ModelError:
        """The error for a network that a head cannot decode."""
        outputs = ", ".join(str(tensor) for tensor in self.outputs)
        return ModelError(f"{self.where}: does not fit head '{head}': {why}; its outputs are {outputs}", "choose another head")


def read_onnx(path: Path) -> onnx.ModelProto:
    """Read an ONNX file; its external data only from its own folder.

    Raises:
        ModelError: no such file, no ONNX file, or external data outside the file's folder, missing or too short.
    """
    where = path.name
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}", "check the path") from error
    except DecodeError as error:
        raise ModelError(f"{where}: not an ONNX file", "give a .onnx file; other formats have to be exported first") from error
    if not model.graph.node or not model.opset_import:  # protobuf reads an empty or a foreign file without complaint
        raise ModelError(f"{where}: not an ONNX file, or one without a graph", "give a .onnx file")
    # A location is read as a path: one that leaves the folder would copy any file of this machine into the model.
    external = [tensor for tensor in _tensors(model) if external_data_helper.uses_external_data(tensor)]
    for tensor in external:
        _check_location(path.parent, tensor, where)
    if external:
        try:
            onnx.load_external_data_for_model(model, str(path.parent))
        except (OSError, ValueError, onnx.checker.ValidationError) as error:
            raise ModelError(f"{where}: its external data cannot be read: {error}", "keep the data file beside it") from error
    return model


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for graph in iter_graphs(model.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    nodes = [node for graph in iter_graphs(model.graph) for node in graph.node]
    nodes += [node for function in model.functions for node in function.node]
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)


def _check_location(folder: Path, tensor: onnx.TensorProto, where: str) -> None:
    location = {entry.key: entry.value for entry in tensor.external_data}.get("location", "")
    windows = PureWindowsPath(location)
    escapes = not location or windows.is_absolute() or windows.drive or windows.root or ".." in windows.parts
    if escapes or not (folder / location).resolve().is_relative_to(folder.resolve()):
        message = f"{where}: tensor '{tensor.name}' has its data outside the file's folder ('{location}')"
        raise ModelError(message, "keep external data beside the file")


def prepare_network(model: onnx.ModelProto, where: str, size: Size | None = None) -> RawNetwork:
    """Make a raw network ready for its head.

    Args:
        model: as read by :func:`read_onnx`; it is left as it is.
        where: names the file in an error.
        size: the input to fix where the file leaves it open; must agree with the file where it does not.

    Raises:
        ModelError: no input takes pictures, the input size is open or another one, or shapes contradict each other.
    """
    model = _at_opset(model, where)
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [info for info in model.graph.input if info.name not in constants]  # old exporters list weights as inputs
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    images = [info for info in model.graph.input if _takes_pictures(info)]
    if len(images) != 1:
        listed = ", ".join(f"{info.name}{list(dims_of(info))}" for info in model.graph.input)
        raise ModelError(f"{where}: no single input takes pictures [N, 3, H, W]; its inputs are {listed}", "export it so")
    _fix_shapes(model, images[0], size, where)
    inferred = infer_shapes(model, where)
    shapes = {info.name: dims_of(info) for info in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)}

    def describe(info: onnx.ValueInfoProto) -> Tensor:
        return Tensor(info.name, shapes[info.name], info.type.tensor_type.elem_type)

    image = describe(images[0])
    others = tuple(describe(info) for info in model.graph.input if info.name != image.name)
    outputs = tuple(describe(info) for info in inferred.graph.output)
    _free_reshapes(model, image.name, shapes)
    _name_nodes(model)
    compose.add_prefix(model, NETWORK_PREFIX, inplace=True)
    return RawNetwork(where, model, image, others, outputs)


def _name_nodes(model: onnx.ModelProto) -> None:
    """Give every node a name of its own: tools that leave nodes out do so by name, and runtimes refuse a name twice."""
    taken = {node.name for node in model.graph.node}
    seen = {""}
    for number, node in enumerate(model.graph.node):
        if node.name in seen:
            name = f"{node.op_type}_{number}"
            while name in taken:
                name += "_"
            taken.add(name)
            node.name = name
        seen.add(node.name)


def _at_opset(model: onnx.ModelProto, where: str) -> onnx.ModelProto:
    if opset_of(model) < OPSET:
        try:
            model = version_converter.convert_version(model, OPSET)
        except (RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[-1][:200]
            raise ModelError(f"{where}: cannot be converted to opset {OPSET}: {reason}", "export it with opset 17") from error
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.ir_version = max(copy.ir_version, 8)
    return copy


def _takes_pictures(info: onnx.ValueInfoProto) -> bool:
    dims = dims_of(info)
    return info.type.tensor_type.elem_type in (TensorProto.FLOAT, TensorProto.FLOAT16) and len(dims) == 4 and dims[1] in (3, None)


def _fix_shapes(model: onnx.ModelProto, image: onnx.ValueInfoProto, size: Size | None, where: str) -> None:
    """Batch 1 and the input size into the inputs, all other shapes out: what inference then finds is what batch 1 gives."""
    _, _, height, width = dims_of(image)
    given = Size(width, height) if width and height else None
    if given is None and size is None:
        raise ModelError(f"{where}: leaves its input size open", "give it, such as --input 640x640")
    if given is not None and size is not None and given != size:
        raise ModelError(f"{where}: takes pictures of {given}, not {size}", "leave the input size out, or export it anew")
    chosen = given or size
    assert chosen is not None
    for dim, value in zip(image.type.tensor_type.shape.dim, (1, 3, chosen.height, chosen.width), strict=True):
        dim.dim_value = value
    for info in model.graph.input:
        dims = info.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            dims[0].dim_value = 1
    for info in model.graph.output:
        info.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]


def _constants(model: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    """Shapes, counts and the like: int64 constants by name, however they are written."""
    graph = model.graph
    held = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            held[node.output[0]] = node.attribute[0].t
    return {name: numpy_helper.to_array(tensor) for name, tensor in held.items() if tensor.data_type == TensorProto.INT64}


def _free_reshapes(model: onnx.ModelProto, image: str, shapes: dict[str, tuple[int | None, ...]]) -> None:
    """Let every Reshape that fixes the batch at 1 copy it from its input (0) instead."""
    constants = _constants(model)
    depends = {image}
    for node in model.graph.node:
        if not depends.intersection(node.input):
            continue
        depends.update(node.output)
        if node.op_type != "Reshape" or node.input[1] not in constants:
            continue
        shape = constants[node.input[1]].copy()
        # Weights are reshaped too, and 1 may be a size that only happens to come first: the input has to begin with the batch.
        if shape.size and shape[0] == 1 and shapes.get(node.input[0], (None,))[:1] == (1,):
            shape[0] = 0
            name = f"{node.output[0]}/shape"  # a constant of its own: another Reshape may share the old one
            model.graph.initializer.append(numpy_helper.from_array(shape, name))
            node.input[1] = name
