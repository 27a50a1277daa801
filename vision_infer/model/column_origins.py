"""The origin of an output's values: the operators that compute its columns.

Families whose outputs have the same shape differ here: raw convolutions, decoded boxes, scores after a Sigmoid.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from vision_infer.core.errors import ModelError
from vision_infer.model.network import RawNetwork, ScoreKind, Tensor

MOVES = ("Identity", "Cast", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze")
"""Operators that move values without computing."""
PARTS = ("Split", "Slice", "Gather")
"""Operators that select some of the values."""
LINEAR = frozenset({"Conv", "Gemm", "MatMul"})
"""The last operators of a model that decodes nothing."""
_ENDS = frozenset({"Sigmoid", "Softmax", "HardSigmoid"})
"""Operators that give probabilities."""
_DEPTH = 64


@dataclass(frozen=True, slots=True)
class ColumnGroup:
    """Neighboring columns with one origin."""

    width: int
    """The number of columns."""
    op: str
    """The operator that computes them; empty if unknown."""


class ColumnOrigins:
    """The origins of an output's columns: of the values for each anchor, or of the elements of a vector.

    Args:
        network: The raw model.
        tensor: One of its outputs.
        width: The number of columns.
    """

    def __init__(self, network: RawNetwork, tensor: Tensor, width: int) -> None:
        self._network = network
        self._producers = {name: node for node in network.model.graph.node for name in node.output}
        self._constants = {tensor.name for tensor in network.model.graph.initializer}
        self._constants |= {node.output[0] for node in network.model.graph.node if node.op_type == "Constant"}
        self.parts = self._split(tensor.inside, width, _DEPTH)

    def ops(self, start: int, stop: int) -> frozenset[str]:
        """Return the operators that compute columns ``start`` to ``stop``; an unknown operator has an empty name."""
        found, place = set(), 0
        for part in self.parts:
            if place < stop and place + part.width > start:
                found.add(part.op)
            place += part.width
        return frozenset(found)

    def parted_at(self, column: int) -> bool:
        """Return whether the model concatenates its columns just before this one."""
        place = 0
        for part in self.parts:
            place += part.width
            if place == column:
                return True
        return False

    def _split(self, name: str, width: int, depth: int) -> tuple[ColumnGroup, ...]:
        node = self._producers.get(name)
        if node is None or depth == 0:
            return (ColumnGroup(width, ""),)
        if node.op_type in MOVES:
            return self._split(node.input[0], width, depth - 1)
        if node.op_type in PARTS:
            return (ColumnGroup(width, self._op(node.input[0], depth - 1)),)
        if node.op_type == "Concat":
            widths = self._widths(node)
            if sum(widths) == width:
                return tuple(
                    part for one, wide in zip(node.input, widths, strict=True) for part in self._split(one, wide, depth - 1)
                )
            found = {self._split(one, width, depth - 1) for one in node.input}
            return found.pop() if len(found) == 1 else (ColumnGroup(width, ""),)
        return (ColumnGroup(width, self._computing(node, depth)),)

    def _widths(self, node: onnx.NodeProto) -> tuple[int, ...]:
        """Return the width of each input of a Concat of columns; empty for a Concat of anchors."""
        axis = next(attribute.i for attribute in node.attribute if attribute.name == "axis")
        sides = []
        for name in node.input:
            shape = self._network.shapes.get(name, ())
            side = shape[axis] if -len(shape) <= axis < len(shape) else None
            sides.append(side or 0)
        return tuple(sides) if all(sides) else ()

    def _op(self, name: str, depth: int) -> str:
        """Return the one operator that computes the values; empty if there are several."""
        node = self._producers.get(name)
        if node is None or depth <= 0:
            return ""
        if node.op_type in MOVES or node.op_type in PARTS:
            return self._op(node.input[0], depth - 1)
        if node.op_type == "Concat":
            found = {self._op(one, depth - 1) for one in node.input}
            return found.pop() if len(found) == 1 else ""
        return self._computing(node, depth)

    def _computing(self, node: onnx.NodeProto, depth: int) -> str:
        if node.op_type == "Add" and depth > 0:  # the bias of a layer
            others = [name for name in node.input if name not in self._constants]
            if len(others) == 1 and self._op(others[0], depth - 1) in LINEAR:
                return self._op(others[0], depth - 1)
        return node.op_type


def find_score_kind(network: RawNetwork, tensor: Tensor, width: int, logits: ScoreKind | None) -> tuple[ScoreKind, str]:
    """Return the kind of an output's class scores, and a note how it was detected.

    Args:
        network: The raw model.
        tensor: The output.
        width: The number of classes.
        logits: The function for logits; None: the user must specify it.

    Raises:
        ModelError: The graph does not show the kind, and the user did not specify it.
    """
    ops = ColumnOrigins(network, tensor, width).ops(0, width)
    if network.scores is not None:
        if network.scores != "probabilities" and ops <= _ENDS:
            message = f"{network.where}: the class scores '{tensor.name}' already end in {' and '.join(sorted(ops))}"
            raise ModelError(message, "Remove --scores, or use --scores probabilities.")
        return network.scores, f"class scores: {network.scores}, as specified"
    if ops <= _ENDS:
        return "probabilities", f"class scores: probabilities, because they end in {' and '.join(sorted(ops))}"
    if ops == {"LogSoftmax"}:
        return "softmax", "class scores: logarithms of probabilities (LogSoftmax), so a softmax is added"
    if ops <= LINEAR and logits is not None:
        return logits, f"class scores: logits, because they end in {' and '.join(sorted(ops))}, so a {logits} is added"
    if ops <= LINEAR:
        found = f"are logits, because they end in {' and '.join(sorted(ops))}; the graph does not show which function to add"
    else:
        found = "may be logits or probabilities; the graph does not show which"
    message = f"{network.where}: the class scores '{tensor.name}' {found}"
    hint = "Add --scores probabilities, sigmoid (independent classes) or softmax (exclusive classes)"
    raise ModelError(message, hint + (", or --labels, whose number shows it." if logits is None else "."))
