"""A small builder over ``onnx.helper``, and the final steps of every rewrite of a graph.

Nodes and tensors that this package adds have the prefix ``vision_infer/``, by which the precision tools skip them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, shape_inference

from vision_infer.core.card import CARD_KEY, ModelCard, parse_card_json
from vision_infer.core.errors import FixedBatchError, ModelError

PREFIX = "vision_infer/"
"""The prefix of each node and tensor that this package adds."""
BATCH = "batch"
"""The symbolic first dimension of each input and output."""
OUTPUTS = {
    "boxes": (TensorProto.FLOAT, 3),
    "scores": (TensorProto.FLOAT, 2),
    "class_ids": (TensorProto.INT32, 2),
    "embedding": (TensorProto.FLOAT, 2),
    "keypoints": (TensorProto.FLOAT, 4),
    "coefficients": (TensorProto.FLOAT, 3),
    "prototypes": (TensorProto.FLOAT, 4),
    "rotated_boxes": (TensorProto.FLOAT, 3),
    "classes": (TensorProto.UINT8, 3),
    "probabilities": (TensorProto.UINT8, 3),
}
"""The element type and rank of a deployment graph's outputs, by name; :attr:`ModelCard.outputs` are those of a model."""
OPSET = 17
"""The minimum operator set of a deployment graph."""


class GraphBuilder:
    """Collects nodes and constants until they are joined with a raw model.

    Args:
        opset: The operator set of the graph, at least :data:`OPSET`.
    """

    def __init__(self, opset: int = OPSET) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._taken: set[str] = set()

    def _unique(self, name: str) -> str:
        full, number = PREFIX + name, 1
        while full in self._taken:
            number += 1
            full = f"{PREFIX}{name}_{number}"
        self._taken.add(full)
        return full

    def constant(self, name: str, values: NDArray[Any]) -> str:
        """Add a constant and return its tensor name."""
        full = self._unique(name)
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(values), full))
        return full

    def ints(self, name: str, *values: int) -> str:
        """Add an int64 vector (a shape, axes, a count) and return its tensor name."""
        return self.constant(name, np.array(values, np.int64))

    def add(self, op: str, *inputs: str, name: str, **attributes: Any) -> str:
        """Add a node with one output and return its tensor name."""
        return self.add_many(op, *inputs, name=name, outputs=1, **attributes)[0]

    def add_many(self, op: str, *inputs: str, name: str, outputs: int, **attributes: Any) -> tuple[str, ...]:
        """Add a node with several outputs and return their tensor names."""
        full = self._unique(name)
        tensors = (full, *(f"{full}:{number}" for number in range(1, outputs)))
        self.nodes.append(helper.make_node(op, inputs, tensors, name=full, **attributes))
        return tensors

    def cast(self, tensor: str, dtype: int, name: str) -> str:
        """Add a Cast to an ONNX element type and return its tensor name."""
        return self.add("Cast", tensor, name=name, to=dtype)

    def reduce_max(self, tensor: str, axis: int, name: str) -> str:
        """Add a maximum over one axis, without keeping the axis, and return its tensor name."""
        if self.opset >= 18:  # since opset 18 the axes are an input
            return self.add("ReduceMax", tensor, self.ints(f"{name}_axis", axis), name=name, keepdims=0)
        return self.add("ReduceMax", tensor, name=name, axes=[axis], keepdims=0)

    def rename(self, old: str, new: str) -> None:
        """Rename a tensor that the builder added, for example to a graph output."""
        for constant in self.initializers:
            constant.name = new if constant.name == old else constant.name
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [new if name == old else name for name in names]

    def take_nodes(self) -> list[onnx.NodeProto]:
        """Return and remove the nodes added since the last call."""
        nodes, self.nodes = self.nodes, []
        return nodes


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of the default operator set; 0 if none is declared."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def dims_of(info: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    """Return the shape of a tensor, with None for each symbolic dimension; empty if no shape is known."""
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in info.type.tensor_type.shape.dim)


def iter_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and all graphs inside its nodes (branches, loop bodies)."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from iter_graphs(inner)


def infer_shapes(model: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """Run strict shape inference.

    Raises:
        ModelError: Shapes or types of the graph contradict each other.
    """
    try:
        return shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (shape_inference.InferenceError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1][:200]
        raise ModelError(f"{where}: the shapes are inconsistent: {reason}", "Export the model again.") from error


def read_card(model: onnx.ModelProto, where: str) -> ModelCard | None:
    """Return the card inside a graph; None if it has none.

    Raises:
        ModelError: The card is invalid.
    """
    for entry in model.metadata_props:
        if entry.key == CARD_KEY:
            return parse_card_json(entry.value, where)
    return None


def write_card(model: onnx.ModelProto, card: ModelCard) -> None:
    """Write the card into a graph, replacing an existing one."""
    kept = {entry.key: entry.value for entry in model.metadata_props if entry.key != CARD_KEY}
    helper.set_model_props(model, {**kept, CARD_KEY: card.to_json()})


def assert_batch(model: onnx.ModelProto, where: str, max_batch: int | None = None) -> None:
    """Check that the first dimension of every input and output is a symbol, or the only batch size of the card.

    Raises:
        FixedBatchError: The batch of an input or output is another one.
    """
    for info in (*model.graph.input, *model.graph.output):
        dims = info.type.tensor_type.shape.dim
        if not dims or not (dims[0].dim_param or (max_batch is not None and dims[0].dim_value == max_batch)):
            fixed = dims[0].dim_value if dims else "unknown"
            message = f"{where}: the batch of '{info.name}' is fixed ({fixed}), not symbolic"
            raise FixedBatchError(message, "Export the model with a dynamic batch dimension.")


def check_contract(model: onnx.ModelProto, card: ModelCard, where: str) -> None:
    """Check the contract of deployment graphs: inputs, outputs, their types, and a symbolic batch unless the card limits it.

    Raises:
        ModelError: The graph violates the contract.
    """
    wanted = [("images", (TensorProto.UINT8, 4)), *((name, OUTPUTS[name]) for name in card.outputs)]
    infos = (*model.graph.input, *model.graph.output)
    found = [(info.name, (info.type.tensor_type.elem_type, len(dims_of(info)))) for info in infos]
    if sorted(found) != sorted(wanted) or dims_of(infos[0])[1:] != (card.input.height, card.input.width, 3):
        listed = ", ".join(f"{info.name}{list(dims_of(info))}" for info in infos)
        message = f"{where}: not a deployment graph for {card.task} at {card.input_size}: its inputs and outputs are {listed}"
        raise ModelError(message, "Import the raw model again.")
    assert_batch(model, where, card.max_batch)


def finish(model: onnx.ModelProto, card: ModelCard, where: str) -> onnx.ModelProto:
    """Finish a rewrite: remove unused parts, infer the shapes, check the symbolic batch, and write the card.

    Args:
        model: A deployment graph, which is not changed.
        card: The card of the graph.
        where: The name of the file, for errors.

    Returns:
        The checked graph with new shapes; its outputs are ``[batch, …]`` and static from the second dimension on.

    Raises:
        ModelError: Shapes contradict each other, the batch is fixed, or another dimension of an output is unknown.
    """
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    _prune(bare.graph)
    del bare.graph.value_info[:]
    for info in bare.graph.output:
        info.type.tensor_type.ClearField("shape")
    inferred = infer_shapes(bare, where)
    for info in inferred.graph.output:
        dims = info.type.tensor_type.shape.dim
        # Shape inference may lose the name of a symbolic batch; a number is a batch that the model or the card fixes.
        if dims and not dims[0].HasField("dim_value"):
            dims[0].dim_param = BATCH
        if None in dims_of(info)[1:]:
            raise ModelError(f"{where}: the shape of output '{info.name}' is not static", "Export the model with static shapes.")
    check_contract(inferred, card, where)
    write_card(inferred, card)
    try:
        onnx.checker.check_model(inferred)
    except onnx.checker.ValidationError as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise ModelError(f"{where}: the rewritten graph is not valid ONNX: {reason}", "Export the model again.") from error
    return inferred


def _prune(graph: onnx.GraphProto) -> None:
    """Remove nodes that lead to no output and constants that no node reads, which raw outputs that a head ignores leave."""
    wanted = {info.name for info in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if wanted.isdisjoint(node.output):
            continue
        kept.append(node)
        wanted.update(name for name in node.input if name)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):  # a branch reads outer tensors that are not inputs of its node
                wanted.update(name for body in iter_graphs(inner) for step in body.node for name in step.input)
                wanted.update(info.name for body in iter_graphs(inner) for info in body.output)
    initializers = [tensor for tensor in graph.initializer if tensor.name in wanted]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(initializers)


def tensor_info(name: str, dtype: int, *shape: int | str) -> onnx.ValueInfoProto:
    """Declare an input or output."""
    dims: Sequence[int | str] = shape
    return helper.make_tensor_value_info(name, dtype, dims)
