"""Recognition of the family of a raw model, and refusal of models for other tasks."""

from __future__ import annotations

import math

from vision_infer.core.errors import ModelError
from vision_infer.core.geometry import Size
from vision_infer.model.column_origins import ColumnOrigins
from vision_infer.model.decode import find_strides
from vision_infer.model.heads import find_head, head_names
from vision_infer.model.heads._yolo import STRIDES
from vision_infer.model.network import RawNetwork, Tensor

_TASKS = {"segment": "a segmentation model", "pose": "a pose model", "obb": "a model for oriented boxes"}
"""The unsupported tasks, by their names in an exporter's metadata."""
_GRID_STRIDES = (8, 16, 32, 64)
"""The strides of the cells of detectors."""


def recognize_head(network: RawNetwork, labels: bool = False) -> tuple[str, str]:
    """Find the head of a raw model by its inputs and outputs.

    Args:
        network: The raw model.
        labels: Whether its classes have labels, so that it is not an embedder.

    Returns:
        The name of the head, and the reason.

    Raises:
        ModelError: The model is for another task, or no head or several heads fit.
    """
    refuse_other_tasks(network)
    fitting = {name: reason for name in head_names() if (reason := find_head(name).recognize(network)) is not None}
    if labels and "classify" in fitting:
        fitting.pop("embed", None)
    if len(fitting) == 1:
        return fitting.popitem()
    shown = ", ".join(str(tensor) for tensor in network.outputs)
    if fitting:
        choices = "; ".join(f"--head {name} if it has {reason}" for name, reason in fitting.items())
        add = " Labels (--labels) also mean a classifier." if "classify" in fitting else ""
        raise ModelError(f"{network.where}: several heads fit its outputs {shown}", f"Choose one: {choices}.{add}")
    if any(_grid_stride(network, tensor) for tensor in network.outputs):
        hint = "The outputs are undecoded predictions for the cells of a grid. Export the model with decoded boxes."
        raise ModelError(f"{network.where}: no head fits its outputs {shown}", hint)
    raise ModelError(f"{network.where}: no head fits its outputs {shown}", f"Choose one of the heads: {', '.join(head_names())}.")


def refuse_other_tasks(network: RawNetwork) -> None:
    """Refuse models for segmentation, pose and oriented boxes.

    Raises:
        ModelError: The model is for one of these tasks.
    """
    found = _other_task(network)
    if found is not None:
        task, seen = found
        message = f"{network.where}: {task} is not supported ({seen})"
        raise ModelError(message, "Export a detector, classifier or embedder of that family.")


def _other_task(network: RawNetwork) -> tuple[str, str] | None:
    named = _TASKS.get(network.metadata.get("task", ""))
    if named is not None:
        return named, f"the task in the file is '{network.metadata['task']}'"
    for tensor in network.outputs:
        height, width = tensor.shape[2:] if len(tensor.shape) == 4 else (None, None)
        if height and width and height > 1 and width > 1 and not _grid_stride(network, tensor):
            several = len(network.outputs) > 1
            return _TASKS["segment"], f"the output {tensor} has {'masks' if several else 'a value for each pixel'}"
    if any("mask" in tensor.name and len(tensor.shape) > 2 for tensor in network.outputs):
        return _TASKS["segment"], "the name of an output contains 'mask'"
    return _yolo_task(network, network.outputs[0]) if len(network.outputs) == 1 else None


def _grid_stride(network: RawNetwork, tensor: Tensor) -> int | None:
    """Return the stride of a map of predictions for grid cells; None for other outputs.

    Masks are finer: segmentation models predict them at a quarter of the input, and at an eighth at the least.
    """
    if len(tensor.shape) != 4 or None in tensor.shape:
        return None
    strides = [stride for stride in _GRID_STRIDES if tensor.shape[2:] == _cells(network.size, stride)]
    several = len({other.shape[2:] for other in network.outputs if len(other.shape) == 4}) > 1
    return next((stride for stride in strides if stride > 8 or several), None)


def _cells(size: Size, stride: int) -> tuple[int, int]:
    """Return the rows and columns of the cells."""
    return math.ceil(size.height / stride), math.ceil(size.width / stride)


def _yolo_task(network: RawNetwork, tensor: Tensor) -> tuple[str, str] | None:
    """Detect key points or an angle after the class scores of a YOLO."""
    if len(tensor.shape) != 3 or None in tensor.shape:
        return None
    _, first, last = tensor.shape
    anchors_first = find_strides(network.size, first, STRIDES) is not None
    if not anchors_first and find_strides(network.size, last, STRIDES) is None:
        return _chosen_task(network, last or 0)
    width = (last if anchors_first else first) or 0
    parts = ColumnOrigins(network, tensor, width).parts
    place, end = 0, 0
    for part in parts:  # the scores: values after a Sigmoid that follow the box
        if place >= 4 and part.op == "Sigmoid" and end in (0, place):
            end = place + part.width
        place += part.width
    behind = width - end
    if end == 0 or behind == 0 or any(part.op in ("", "Conv") for part in parts[:1]):
        return None
    if behind == 1:
        return _TASKS["obb"], f"an angle follows the {end - 4} class scores"
    return _TASKS["pose"], f"{behind} values of key points follow the {end - 4} class scores"


def _chosen_task(network: RawNetwork, width: int) -> tuple[str, str] | None:
    """Do the same for models that select their boxes themselves: corners, score, class, and more."""
    if width <= 6 or not (network.has_op("TopK") or network.has_op("NonMaxSuppression")):
        return None
    if width == 7:
        return _TASKS["obb"], "an angle follows box, score and class"
    return (_TASKS["pose"], f"{width - 6} values follow box, score and class") if (width - 6) % 3 == 0 else None
