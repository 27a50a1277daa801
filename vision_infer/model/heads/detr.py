"""DETR's grandchildren (RT-DETR, D-FINE, DEIM) exported with their post-processing: labels, boxes, scores, no NMS.

The file takes, beside the pictures, ``orig_target_sizes`` (width, height) and gives boxes in pixels of that size. Here
it is the input's own size, fixed, so that boxes come in input pixels as from every other head.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from vision_infer.core.card import ModelCard
from vision_infer.core.geometry import Size
from vision_infer.model.decode import as_float, gather_rows
from vision_infer.model.graph import GraphBuilder
from vision_infer.model.head import Decoded, HeadDefaults
from vision_infer.model.network import RawNetwork, Tensor

DEFAULTS = HeadDefaults(
    color="rgb",
    mean=(0.0, 0.0, 0.0),
    std=(255.0, 255.0, 255.0),
    fit="stretch",
    fill=(114, 114, 114),
    confidence=0.4,
    iou=None,
    input_size=Size(640, 640),
)
_INTEGERS = (TensorProto.INT64, TensorProto.INT32)


def _find_outputs(network: RawNetwork) -> tuple[Tensor, Tensor, Tensor] | None:
    """Labels, boxes and scores, told apart by their shapes and types; None where they are not all there."""
    if len(network.outputs) != 3 or len(network.other_inputs) != 1 or network.other_inputs[0].shape[1:] != (2,):
        return None
    labels = [tensor for tensor in network.outputs if len(tensor.shape) == 2 and tensor.dtype in _INTEGERS]
    boxes = [tensor for tensor in network.outputs if len(tensor.shape) == 3 and tensor.shape[2] == 4]
    scores = [tensor for tensor in network.outputs if len(tensor.shape) == 2 and tensor.dtype not in _INTEGERS]
    return (labels[0], boxes[0], scores[0]) if labels and boxes and scores else None


def _count_of_top_k(network: RawNetwork, scores: Tensor) -> int | None:
    """What shape inference loses in a Tile further up: the scores come from a TopK with a constant count."""
    node = network.producer(scores, ("Identity", "Cast"))
    count = network.constant(node.input[1]) if node is not None and node.op_type == "TopK" else None
    return int(count.reshape(-1)[0]) if count is not None else None


def recognise(network: RawNetwork) -> str | None:
    """Why a network is of DETR's kind; None if it is not."""
    found = _find_outputs(network)
    if found is None:
        return None
    return f"labels, boxes and scores as outputs, and the picture's size as input '{network.other_inputs[0].name}'"


def append(builder: GraphBuilder, network: RawNetwork, card: ModelCard, candidates: int) -> Decoded:  # noqa: ARG001
    """Add what is left to do; see :class:`vision_infer.model.head.Head`. The card is not used."""
    found = _find_outputs(network)
    if found is None:
        raise network.refuse("detr", "it wants labels [N, K], boxes [N, K, 4], scores [N, K], and an input of sizes [N, 2]")
    labels, boxes, scores = found
    queries = scores.shape[1] or _count_of_top_k(network, scores)
    if queries is None:
        raise network.refuse("detr", "the number of its boxes is not static")
    sizes = network.other_inputs[0]
    size = np.array([[network.size.width, network.size.height]]).astype(helper.tensor_dtype_to_np_dtype(sizes.dtype))
    builder.rename(builder.constant("input_size", size), sizes.inside)

    # The shapes are written out: what is inside the network may hide from inference that they are static.
    count = min(candidates, queries)
    flat, rows = builder.ints("flat_shape", 0, queries), builder.ints("box_shape", 0, queries, 4)
    score = builder.add("Reshape", as_float(builder, scores), flat, name="scores_all")
    box = builder.add("Reshape", as_float(builder, boxes), rows, name="boxes_all")
    label = builder.cast(labels.inside, TensorProto.INT32, "labels_int32")
    label = builder.add("Reshape", label, flat, name="labels_all")
    if count < queries:
        top_count = builder.ints("top_count", count)
        score, top = builder.add_many("TopK", score, top_count, name="scores_top", outputs=2, axis=1)
        box = gather_rows(builder, box, top, "boxes_top")
        label = builder.add("GatherElements", label, top, name="labels_top", axis=1)
    return Decoded(box, score, label)
