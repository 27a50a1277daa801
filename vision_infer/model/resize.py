"""Rewriting of a raw model for another input size, unless a node depends on the old size."""

from __future__ import annotations

import re
from collections.abc import Callable
from math import prod

import numpy as np
import onnx
from onnx import numpy_helper, shape_inference

from vision_infer.core.errors import ModelError
from vision_infer.core.geometry import Size
from vision_infer.model.free_batch import Shapes, int_constants
from vision_infer.model.graph import dims_of, infer_shapes

_NODE = re.compile(r"\(op_type:\s*(\w+)(?:, node name:\s*([^)]*))?\)")


def resize_network(model: onnx.ModelProto, image: onnx.ValueInfoProto, shapes: Shapes, size: Size, where: str) -> Shapes:
    """Write another input size into a raw model, and into the constants of its Reshape and Resize nodes.

    All other nodes must work at any size, as convolutions do.

    Args:
        model: The model at its own size, which is changed.
        image: The image input of the model.
        shapes: The shapes of the tensors at the model's own size.
        size: The new input size.
        where: The name of the file, for errors.

    Returns:
        The shapes at the new size.

    Raises:
        ModelError: A node depends on the old size.
    """
    height, width = shapes[image.name][2:]
    old = str(Size(width or 0, height or 0))
    for dim, value in zip(list(image.type.tensor_type.shape.dim)[2:], (size.height, size.width), strict=True):
        dim.dim_value = value
    # Each repair reveals the shapes up to the next node; inference that is not strict continues after a mismatch.
    done: set[str] = set()
    for _ in range(len(model.graph.node)):
        new = known_shapes(shape_inference.infer_shapes(model, data_prop=True))
        if not _repair_next(
            model, shapes, new, size, done, lambda node: _tied(where, old, size, node.op_type, node.name or node.output[0])
        ):
            break
    try:
        return known_shapes(infer_shapes(model, where))
    except ModelError as error:
        found = _NODE.search(str(error.__cause__))  # the first mismatch
        op, name = (found[1], found[2] or "") if found else ("", "")
        raise _tied(where, old, size, op, name) from error


def _repair_next(
    model: onnx.ModelProto, shapes: Shapes, new: Shapes, size: Size, done: set[str], tied: Callable[[onnx.NodeProto], ModelError]
) -> bool:
    """Replace the constants of the first node where they no longer match; return False if there is none."""
    constants = int_constants(model)
    producers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        reader, place = node, {"Reshape": 1, "Resize": 3}.get(node.op_type, len(node.input))
        if place >= len(node.input):
            continue
        numbers = producers.get(node.input[place])
        if numbers is not None and numbers.op_type == "Concat":  # of the input's batch and channels, and a constant
            reader, place = numbers, len(numbers.input) - 1
        before, after = shapes.get(node.input[0], ()), new.get(node.input[0], ())
        if reader.input[place] not in constants or reader.output[0] in done:
            continue
        if before == after or not before or not after or None in (*before, *after):
            continue
        done.add(reader.output[0])
        target = [int(value) for value in constants[reader.input[place]].ravel()]
        if reader is not node:
            before, after = before[-len(target) :], after[-len(target) :]
        changed = (_reshaped if node.op_type == "Reshape" else _resized)(target, before, after)
        if changed is None:
            raise tied(node)
        if changed != target:
            name = f"{node.output[0]}/at_{size}"
            model.graph.initializer.append(numpy_helper.from_array(np.array(changed, np.int64), name))
            reader.input[place] = name
            return True
    return False


def known_shapes(inferred: onnx.ModelProto) -> Shapes:
    """Return the shapes of all tensors of an inferred graph."""
    return {info.name: dims_of(info) for info in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)}


def _tied(where: str, old: str, size: Size, op: str, name: str) -> ModelError:
    node = f"node '{name}' ({op})" if name else f"a node {op}".rstrip()
    message = f"{where}: cannot be rewritten for {size}: {node} depends on the input size {old}"
    return ModelError(message, "Export it with dynamic height and width, or at that size.")


def _reshaped(target: list[int], before: tuple[int | None, ...], after: tuple[int | None, ...]) -> list[int] | None:
    """Return the constants of a Reshape for the new shape of its input; None if they are ambiguous."""
    old, new = [dim or 0 for dim in before], [dim or 0 for dim in after]
    if len(old) != len(new):
        return None
    # A number may be the product of neighboring dimensions of the input.
    meaning: dict[int, set[int]] = {}
    for start in range(len(old)):
        for stop in range(start + 1, len(old) + 1):
            meaning.setdefault(prod(old[start:stop]), set()).add(prod(new[start:stop]))
    made, last = list(target), 1
    while last <= min(len(target), len(old)) and target[-last] == old[-last]:  # height and width keep their places
        made[-last] = new[-last]
        last += 1
    if -1 not in target and _holds(made, new):
        return made
    for place, value in enumerate(target[: len(target) - last + 1]):
        meant = meaning.get(value, {value})
        if value in (-1, 0, 1) or value in meant:
            continue
        if len(meant) > 1:
            return None
        made[place] = meant.pop()
    return made if _holds(made, new) else None


def _holds(target: list[int], shape: list[int]) -> bool:
    """Return whether a Reshape to ``target`` fits a tensor of a shape."""
    filled = [shape[place] if value == 0 and place < len(shape) else value for place, value in enumerate(target)]
    rest = prod(value for value in filled if value != -1)
    return rest != 0 and (prod(shape) % rest == 0 if -1 in filled else rest == prod(shape))


def _resized(target: list[int], before: tuple[int | None, ...], after: tuple[int | None, ...]) -> list[int] | None:
    """Return the sizes of a Resize for the new shape of its input, with the same factor; None if they are not integers."""
    if not len(target) == len(before) == len(after):
        return None
    made = []
    for size, old, new in zip(target, before, after, strict=True):
        if not old or not new or (old != new and size * new % old):
            return None
        made.append(size if old == new else size * new // old)
    return made
