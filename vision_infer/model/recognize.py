"""Recognition of the family of a raw model, and refusal of models for other tasks."""

from __future__ import annotations

import math

from vision_infer.core.errors import ModelError
from vision_infer.core.geometry import Size
from vision_infer.model.column_origins import LINEAR
from vision_infer.model.heads import find_head, head_names
from vision_infer.model.heads.end2end import find_detail
from vision_infer.model.network import RawNetwork, Tensor
from vision_infer.model.yolo import columns_after_scores, find_layout, only_output

_GRID_STRIDES = (8, 16, 32, 64)
"""The strides of the cells of detectors."""
_WITH_MAPS = ("yolov8_seg", "end2end", "detr", "semantic", "rtmo", "movenet", "dbnet")
"""The heads of models with outputs of four axes that are not predictions for the cells of a grid."""


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
    shown = _shown(network)
    if fitting:
        choices = "; ".join(f"--head {name} if it has {reason}" for name, reason in fitting.items())
        add = " Labels (--labels) also mean a classifier." if "classify" in fitting else ""
        raise ModelError(f"{network.where}: several heads fit its outputs {shown}", f"Choose one: {choices}.{add}")
    if any(_grid_stride(network, tensor) for tensor in network.outputs):
        hint = "The outputs are undecoded predictions for the cells of a grid. Export the model with decoded boxes."
        raise ModelError(f"{network.where}: no head fits its outputs {shown}", hint)
    hint = f"Choose one of the heads: {', '.join(head_names())}."
    detail = find_detail(network)
    if detail is not None and (network.has_op("TopK") or network.has_op("NonMaxSuppression")):
        words = {"keypoints": "keypoints", "masks": "coefficients of masks", "rotated_boxes": "an angle"}[detail]
        hint = f"Add --head end2end if the outputs are boxes that the model selects: box, score and class, then {words}."
    raise ModelError(f"{network.where}: no head fits its outputs {shown}", hint)


def refuse_other_tasks(network: RawNetwork) -> None:
    """Refuse models for tasks that no head supports.

    Raises:
        ModelError: The model is for one of these tasks, or a part of it is missing.
    """
    if all(find_head(name).recognize(network) is None for name in _WITH_MAPS):
        _refuse_masks(network)


def _refuse_masks(network: RawNetwork) -> None:
    """Refuse maps for pixels, and coefficients of masks without prototypes."""
    maps = [tensor for tensor in network.outputs if len(tensor.shape) == 4]
    for tensor in maps:
        height, width = tensor.shape[2:]
        if height and width and height > 1 and width > 1 and not _grid_stride(network, tensor):
            if len(network.outputs) > 1:
                message = f"{network.where}: the masks {tensor} do not fit the other outputs {_shown(network)}"
                raise ModelError(message, "Masks need the outputs [1, 4 + classes + M, N] and prototypes [1, M, h, w].")
            message = f"{network.where}: the map {tensor} is not one of a class score for each pixel"
            hint = "Semantic segmentation needs one output [1, classes, h, w] of 2 to 256 classes, not larger than the input."
            raise ModelError(message, hint)
    layout = find_layout(network, only_output(network))
    after = None if layout is None else columns_after_scores(network, layout)
    linear = bool(after) and sum(part.width for part in after or ()) > 1 and {part.op for part in after or ()} <= LINEAR
    if linear or (network.metadata.get("task") == "segment" and not maps):
        count = f"{sum(part.width for part in after or ())} coefficients of masks" if linear else "masks"
        raise ModelError(
            f"{network.where}: a model for {count} without their prototypes; its outputs are {_shown(network)}",
            "Export it with both outputs: [1, 4 + classes + M, N] and the prototypes [1, M, h, w].",
        )
    if any("mask" in tensor.name and len(tensor.shape) > 2 for tensor in network.outputs):
        raise ModelError(
            f"{network.where}: the outputs {_shown(network)} have masks in a form that is not supported",
            "Masks need the outputs [1, 4 + classes + M, N] and prototypes [1, M, h, w].",
        )


def _shown(network: RawNetwork) -> str:
    return ", ".join(str(tensor) for tensor in network.outputs)


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
