"""Where an output's values come from: which of its columns the network makes by which operator.

Families whose outputs have the same shape differ here: raw convolutions, boxes that are decoded already, scores behind a Sigmoid.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from vision_infer.core.errors import ModelError
from vision_infer.model.network import RawNetwork, ScoreKind, Tensor

MOVES = ("Identity", "Cast", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze")
"""operators that move values and compute nothing"""
PARTS = ("Split", "Slice", "Gather")
"""operators that pick some of the values"""
LINEAR = frozenset({"Conv", "Gemm", "MatMul"})
"""what a head ends with where nothing is decoded"""
_ENDS = frozenset({"Sigmoid", "Softmax", "HardSigmoid"})
"""what makes probabilities"""
_DEPTH = 64


@dataclass(frozen=True, slots=True)
class Part:
    """Neighbouring columns with one origin."""

    width: int
    op: str
    """the operator that computes them; empty where that is not known"""


class Columns:
    """The origin of an output's columns: of what it has for each anchor, or, of a vector, of its elements.

    Args:
        network: the raw network.
        tensor: one of its outputs.
        width: the number of its columns.
    """

    def __init__(self, network: RawNetwork, tensor: Tensor, width: int) -> None:
        self._network = network
        self._producers = {name: node for node in network.model.graph.node for name in node.output}
        self._constants = {tensor.name for tensor in network.model.graph.initializer}
        self._constants |= {node.output[0] for node in network.model.graph.node if node.op_type == "Constant"}
        self.parts = self._split(tensor.inside, width, _DEPTH)

    def ops(self, start: int, stop: int) -> frozenset[str]:
        """The operators that make columns ``start`` to ``stop``; with an empty name among them where that is not known."""
        found, place = set(), 0
        for part in self.parts:
            if place < stop and place + part.width > start:
                found.add(part.op)
            place += part.width
        return frozenset(found)

    def parted_at(self, column: int) -> bool:
        """Whether the network puts its columns together just before this one."""
        place = 0
        for part in self.parts:
            place += part.width
            if place == column:
                return True
        return False

    def _split(self, name: str, width: int, depth: int) -> tuple[Part, ...]:
        node = self._producers.get(name)
        if node is None or depth == 0:
            return (Part(width, ""),)
        if node.op_type in MOVES:
            return self._split(node.input[0], width, depth - 1)
        if node.op_type in PARTS:
            return (Part(width, self._op(node.input[0], depth - 1)),)
        if node.op_type == "Concat":
            widths = self._widths(node)
            if sum(widths) == width:
                return tuple(
                    part for one, wide in zip(node.input, widths, strict=True) for part in self._split(one, wide, depth - 1)
                )
            found = {self._split(one, width, depth - 1) for one in node.input}
            return found.pop() if len(found) == 1 else (Part(width, ""),)
        return (Part(width, self._computing(node, depth)),)

    def _widths(self, node: onnx.NodeProto) -> tuple[int, ...]:
        """What each input of a Concat adds to the columns; nothing where it is no such Concat, but one of anchors."""
        axis = next(attribute.i for attribute in node.attribute if attribute.name == "axis")
        sides = []
        for name in node.input:
            shape = self._network.shapes.get(name, ())
            side = shape[axis] if -len(shape) <= axis < len(shape) else None
            sides.append(side or 0)
        return tuple(sides) if all(sides) else ()

    def _op(self, name: str, depth: int) -> str:
        """The one operator behind values of which some are picked; empty where there are several."""
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
    """What an output's class scores are, and how that was found out.

    Args:
        network: the raw network.
        tensor: the output.
        width: the number of its classes.
        logits: what is to be taken of logits; None: that has to be asked for.

    Raises:
        ModelError: it cannot be told from the graph, and nobody said it.
    """
    ops = Columns(network, tensor, width).ops(0, width)
    if network.scores is not None:
        if network.scores != "probabilities" and ops <= _ENDS:
            message = f"{network.where}: the class scores '{tensor.name}' end in {' and '.join(sorted(ops))} already"
            raise ModelError(message, "leave --scores out, or say --scores probabilities")
        return network.scores, f"class scores: {network.scores}, as told"
    if ops <= _ENDS:
        return "probabilities", f"class scores: probabilities, for they end in {' and '.join(sorted(ops))}"
    if ops == {"LogSoftmax"}:
        return "softmax", "class scores: logarithms of probabilities (LogSoftmax), so that a softmax is put behind"
    if ops <= LINEAR and logits is not None:
        return logits, f"class scores: logits, for they end in {' and '.join(sorted(ops))}, so that a {logits} is put behind"
    if ops <= LINEAR:
        found = (
            f"are logits, for they end in {' and '.join(sorted(ops))}, and their graph does not say which function belongs behind"
        )
    else:
        found = "may be logits or probabilities: their graph does not tell"
    message = f"{network.where}: the class scores '{tensor.name}' {found}"
    hint = "say --scores probabilities, sigmoid (each class apart) or softmax (one of all)"
    raise ModelError(message, hint + ("; the number of --labels tells it too" if logits is None else ""))
