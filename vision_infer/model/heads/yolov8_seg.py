"""YOLOv8-seg and its successors: decoded boxes, class scores, and coefficients of masks, without NMS; and the masks' prototypes.

Two outputs: [B, 4 + C + M, N], or [B, N, 4 + C + M], as YOLOv8, then M coefficients; and the prototypes [B, M, h, w]. A mask is
where the sum of the prototypes, multiplied by its coefficients, is above 0.
"""

from __future__ import annotations

from dataclasses import replace

from vision_infer.core.card import ModelCard
from vision_infer.core.errors import ModelError
from vision_infer.model.decode import as_float, check_labels, columns, corners
from vision_infer.model.graph import GraphBuilder
from vision_infer.model.head import HeadOutputs, detections
from vision_infer.model.network import RawNetwork, Tensor
from vision_infer.model.reference import RawOutputs, ReferenceBoxes, anchors_first, corners_of
from vision_infer.model.yolo import USUAL, YoloLayout, best_rows, columns_after_scores, find_layout

DEFAULTS = replace(USUAL, iou=0.7, detail="masks")


def _find_outputs(network: RawNetwork) -> tuple[YoloLayout, Tensor] | None:
    """Return the layout of the boxes, and the prototypes; None for other outputs."""
    if network.other_inputs or len(network.outputs) != 2:
        return None
    layouts = [layout for tensor in network.outputs if (layout := find_layout(network, tensor)) is not None]
    maps = [tensor for tensor in network.outputs if len(tensor.shape) == 4 and None not in tensor.shape]
    return (layouts[0], maps[0]) if len(layouts) == len(maps) == 1 else None


def _classes(network: RawNetwork, layout: YoloLayout, prototypes: Tensor) -> tuple[int, str]:
    """Return the number of classes, and why the coefficients do not fit the prototypes; empty if they do."""
    count = prototypes.shape[1] or 0
    after, classes = columns_after_scores(network, layout), layout.width - 4 - count
    found = layout.width - 5 if after is None else sum(part.width for part in after)
    if classes < 1 or (after is not None and found != count):
        return classes, f"it has {count} prototypes of masks, but {found} values follow its class scores"
    return classes, ""


def recognize(network: RawNetwork) -> str | None:
    """Return why a raw model is a YOLOv8-seg; None if it is not."""
    found = _find_outputs(network)
    if found is None:
        return None
    layout, prototypes = found
    classes, wrong = _classes(network, layout, prototypes)
    shape = layout.shape(4, classes, layout.width - 4 - classes)
    return None if wrong else f"an output {shape} of boxes, scores and coefficients of masks, and their prototypes {prototypes}"


def append(builder: GraphBuilder, network: RawNetwork, card: ModelCard, candidates: int) -> HeadOutputs:
    """Add the remaining decoding of YOLOv8-seg; see :class:`vision_infer.model.head.Head`."""
    found = _find_outputs(network)
    if found is None:
        raise network.refuse("yolov8_seg", "it needs the outputs [1, 4 + classes + M, N] and prototypes [1, M, h, w]")
    layout, prototypes = found
    classes, wrong = _classes(network, layout, prototypes)
    if wrong:
        raise ModelError(f"{network.where}: {wrong}", "Export the model again, with all of its outputs.")
    check_labels(network, card, classes)
    top, (rows, coefficients) = best_rows(
        builder, layout, classes, candidates, [(0, 4, "xywh"), (4 + classes, layout.width, "coefficients")]
    )
    box = corners(builder, columns(builder, rows, 0, 2, "xy"), columns(builder, rows, 2, 4, "wh"))
    maps = builder.add("Identity", as_float(builder, prototypes), name="prototypes")
    return detections(box, top.scores, top.class_ids, coefficients=coefficients, prototypes=maps)


def reference(raw: RawOutputs) -> ReferenceBoxes:
    """Decode the outputs in NumPy; see :class:`vision_infer.model.head.Head`."""
    (values,) = (array for array in raw.outputs.values() if array.ndim == 3)
    (prototypes,) = (array for array in raw.outputs.values() if array.ndim == 4)
    output = anchors_first(values, raw)
    end = output.shape[2] - prototypes.shape[1]
    details = {"coefficients": output[..., end:]}
    return ReferenceBoxes(corners_of(output[..., :4]), output[..., 4:end], details=details, prototypes=prototypes)
