"""Raw models as their authors export them, prepared: operator set, input size, dynamic batch, and prefixed names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, compose, helper, version_converter

from vision_infer.core.errors import ModelError
from vision_infer.core.geometry import Size
from vision_infer.model.free_batch import free_batch, int_constants
from vision_infer.model.graph import OPSET, dims_of, infer_shapes, iter_graphs, opset_of
from vision_infer.model.resize import known_shapes, resize_network

NETWORK_PREFIX = "network/"
"""The prefix of each node and tensor of the raw model; raw graphs already use ``images``, ``boxes`` and ``scores``."""

ScoreKind = Literal["probabilities", "sigmoid", "softmax"]
"""The kind of class scores: probabilities; or logits for a sigmoid (independent classes) or a softmax (exclusive classes)."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output of a raw model."""

    name: str
    """The name in the raw file."""
    shape: tuple[int | None, ...]
    """The shape at batch 1; None for an unknown dimension."""
    dtype: int
    """The ONNX element type."""

    @property
    def inside(self) -> str:
        """The tensor's name inside the deployment graph."""
        return NETWORK_PREFIX + self.name

    def __str__(self) -> str:
        return f"{self.name}[{', '.join('?' if dim is None else str(dim) for dim in self.shape)}]"


@dataclass(frozen=True, slots=True)
class RawNetwork:
    """A raw model, ready for its pre-processing and its head."""

    where: str
    """The name of the file, for messages."""
    model: onnx.ModelProto
    """The model, with a dynamic batch and :data:`NETWORK_PREFIX` before all names."""
    image: Tensor
    """The image input, [1, 3, H, W], float32 or float16."""
    other_inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    shapes: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)
    """The shape of each tensor at batch 1, by its prefixed name."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """The metadata that the exporter wrote into the file."""
    scores: ScoreKind | None = None
    """The kind of the class scores where the user specified it."""

    @property
    def size(self) -> Size:
        """The input size."""
        height, width = self.image.shape[2:]
        assert height is not None
        assert width is not None
        return Size(width, height)

    def has_op(self, op: str) -> bool:
        """Return whether the model contains an operator."""
        return any(node.op_type == op for graph in iter_graphs(self.model.graph) for node in graph.node)

    def producer(self, tensor: Tensor, through: tuple[str, ...] = ()) -> onnx.NodeProto | None:
        """Return the node that computes a tensor, skipping the operators ``through``; None if no node does."""
        producers = {name: node for node in self.model.graph.node for name in node.output}
        name = tensor.inside
        while name in producers and producers[name].op_type in through:
            name = producers[name].input[0]
        return producers.get(name)

    def constant(self, name: str) -> NDArray[np.generic] | None:
        """Return the values of a constant by its prefixed name; None if the tensor is not a constant."""
        return int_constants(self.model).get(name)

    def refuse(self, head: str, why: str) -> ModelError:
        """Return the error for a model that a head cannot decode."""
        outputs = ", ".join(str(tensor) for tensor in self.outputs)
        return ModelError(f"{self.where}: does not fit head '{head}': {why}; its outputs are {outputs}", "Choose another head.")


def prepare_network(
    model: onnx.ModelProto, where: str, size: Size | None = None, scores: ScoreKind | None = None, single: bool = False
) -> RawNetwork:
    """Prepare a raw model for its head.

    Args:
        model: The model as read by :func:`vision_infer.model.reading.read_onnx`, which is not changed.
        where: The name of the file, for errors.
        size: The input size; None: the file's own. A file for another size is rewritten.
        scores: The kind of the class scores where the user specified it.
        single: Keep a batch of 1 instead of making it dynamic.

    Raises:
        ModelError: An operator is unknown, there is no image input, the input size is open, the model cannot be rewritten for
            another size, or shapes contradict each other.
    """
    _check_operators(model, where)
    model = channels_first(_at_opset(model, where))
    image = find_image(model, where)
    own = fixed_size(image)
    if own is None and size is None:
        raise ModelError(f"{where}: the input size is not fixed", "Add it as HEIGHTxWIDTH, for example --input 640x640.")
    batch = dims_of(image)[0] or 1
    _fix_shapes(model, image, own or size or Size(1, 1), batch)
    shapes = _shapes(model, where, size if own is None else None)
    if size is not None and own is not None and size != own:
        shapes = resize_network(model, image, shapes, size, where)
    if not single:
        free_batch(model, image.name, shapes, batch)
    if batch != 1:
        for info in (info for info in model.graph.input if dims_of(info)[:1] == (batch,)):
            info.type.tensor_type.shape.dim[0].dim_value = 1
        shapes = _shapes(model, where, None)

    def describe(info: onnx.ValueInfoProto) -> Tensor:
        return Tensor(info.name, shapes.get(info.name, ()), info.type.tensor_type.elem_type)

    taken = describe(image)
    others = tuple(describe(info) for info in model.graph.input if info.name != image.name)
    outputs = tuple(describe(info) for info in model.graph.output)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    name_nodes(model)
    compose.add_prefix(model, NETWORK_PREFIX, inplace=True)
    inside = {NETWORK_PREFIX + name: shape for name, shape in shapes.items()}
    return RawNetwork(where, model, taken, others, outputs, inside, metadata, scores)


def channels_first(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with each image input [N, H, W, 3] replaced by one [N, 3, H, W], and integers by float32; the same model
    if it has none.
    """
    model = _float_images(model)
    last = [info.name for info in model.graph.input if is_channels_last(dims_of(info)) and _is_float(info)]
    if not last:
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    for info in (info for info in graph.input if info.name in last):
        shape = info.type.tensor_type.shape
        dims = list(shape.dim)
        reordered = [onnx.TensorShapeProto.Dimension.FromString(dims[axis].SerializeToString()) for axis in (0, 3, 1, 2)]
        shape.ClearField("dim")
        shape.dim.extend(reordered)
        inside = f"{info.name}/channels_last"
        for node in (node for part in iter_graphs(graph) for node in part.node):
            node.input[:] = [inside if name == info.name else name for name in node.input]
        graph.node.insert(0, helper.make_node("Transpose", [info.name], [inside], perm=[0, 2, 3, 1], name=inside))
    return changed


def _float_images(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with each image input of integers, which are 0–255, replaced by one of float32."""
    found = [info.name for info in model.graph.input if len(dims_of(info)) == 4 and _integer(info) is not None]
    if not found:
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for info in (info for info in changed.graph.input if info.name in found):
        inside, kind = f"{info.name}/integers", _integer(info)
        for node in (node for part in iter_graphs(changed.graph) for node in part.node):
            node.input[:] = [inside if name == info.name else name for name in node.input]
        changed.graph.node.insert(0, helper.make_node("Cast", [info.name], [inside], to=kind, name=inside))
        info.type.tensor_type.elem_type = TensorProto.FLOAT
    return changed


def _integer(info: onnx.ValueInfoProto) -> int | None:
    kind: int = info.type.tensor_type.elem_type
    return kind if kind in (TensorProto.UINT8, TensorProto.INT32) else None


def is_channels_last(shape: Sequence[int | None]) -> bool:
    """Return whether an image input is [N, H, W, 3]."""
    return len(shape) == 4 and shape[3] == 3 and shape[1] != 3


def find_image(model: onnx.ModelProto, where: str) -> onnx.ValueInfoProto:
    """Return the image input; inputs that are weights, as old exporters list them, are removed from the model's inputs.

    Raises:
        ModelError: The model has none, or several.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [info for info in model.graph.input if info.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    images = [info for info in model.graph.input if _takes_images(info)]
    if len(images) != 1:
        listed = ", ".join(f"{info.name}{list(dims_of(info))}" for info in model.graph.input)
        raise ModelError(
            f"{where}: no single input takes images [N, 3, H, W] or [N, H, W, 3]; its inputs are {listed}", "Export it with one."
        )
    found: onnx.ValueInfoProto = images[0]
    return found


def fixed_size(image: onnx.ValueInfoProto) -> Size | None:
    """Return the input size of a file; None if it is open."""
    _, _, height, width = dims_of(image)
    return Size(width, height) if width and height else None


def _shapes(model: onnx.ModelProto, where: str, asked: Size | None) -> dict[str, tuple[int | None, ...]]:
    """Return the shapes of all tensors of a model with fixed inputs."""
    try:
        return known_shapes(infer_shapes(model, where))
    except ModelError as error:
        if asked is None:
            raise
        hint = "Most models need sides that are multiples of 32."
        raise ModelError(f"{error.message} (at {asked})", hint) from error


def _check_operators(model: onnx.ModelProto, where: str) -> None:
    newest = onnx.defs.onnx_opset_version()
    if opset_of(model) > newest:
        message = f"{where}: needs operator set {opset_of(model)}, but the installed package onnx supports at most {newest}"
        raise ModelError(message, "Export it with opset 17–20, or update the package onnx.")
    own = {(function.domain, function.name) for function in model.functions}
    for graph in iter_graphs(model.graph):
        for node in graph.node:
            ours = node.domain in ("", "ai.onnx")
            if ours and (node.domain, node.op_type) not in own and not onnx.defs.has(node.op_type):
                name = node.name or node.output[0]
                raise ModelError(f"{where}: node '{name}' has the unknown operator '{node.op_type}'", "Export it without.")


def name_nodes(model: onnx.ModelProto) -> None:
    """Give each node a unique name: tools exclude nodes by name, and runtimes refuse duplicate names."""
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
            raise ModelError(f"{where}: cannot be converted to opset {OPSET}: {reason}", "Export it with opset 17.") from error
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.ir_version = max(copy.ir_version, 8)
    return copy


def _takes_images(info: onnx.ValueInfoProto) -> bool:
    dims = dims_of(info)
    return _is_float(info) and len(dims) == 4 and dims[1] in (3, None)


def _is_float(info: onnx.ValueInfoProto) -> bool:
    return info.type.tensor_type.elem_type in (TensorProto.FLOAT, TensorProto.FLOAT16)


def _fix_shapes(model: onnx.ModelProto, image: onnx.ValueInfoProto, size: Size, batch: int) -> None:
    """Write batch and input size into the inputs, and remove all other shapes, so that inference finds those of that batch."""
    for dim, value in zip(image.type.tensor_type.shape.dim, (batch, 3, size.height, size.width), strict=True):
        dim.dim_value = value
    for info in model.graph.input:
        dims = info.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            dims[0].dim_value = batch
    for info in model.graph.output:
        info.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
