"""NanoDet: class scores and, for each side of a box, a distribution over distances from the center of a cell.

Each stride has two outputs, scores [B, n, C] and distributions [B, n, 4·bins], in any order; n pairs them and identifies the
stride. NanoDet-Plus has one output [B, N, C + 4·bins] for all strides. The distance of a side is the mean of its distribution:
Σ softmax(bins)·index·stride.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.card import ModelCard
from vision_infer.core.geometry import Size
from vision_infer.model.column_origins import LINEAR, ColumnOrigins
from vision_infer.model.decode import (
    as_float,
    as_probabilities,
    check_labels,
    columns,
    find_strides,
    gather_rows,
    grid,
    grid_counts,
    top_pairs,
)
from vision_infer.model.graph import GraphBuilder
from vision_infer.model.head import HeadDefaults, HeadOutputs, detections
from vision_infer.model.network import RawNetwork, Tensor
from vision_infer.model.reference import RawOutputs, ReferenceBoxes, cells_of, class_scores, only_array, softmax
from vision_infer.model.yolo import only_output

DEFAULTS = HeadDefaults(
    color="bgr",
    mean=(103.53, 116.28, 123.675),
    std=(57.375, 57.12, 58.395),
    fit="center",
    fill=(114, 114, 114),  # trained with black; gray is slightly more accurate (models/nanodet-416/README.md)
    confidence=0.35,
    iou=0.6,
    input_size=Size(416, 416),
)
_STRIDES = (4, 8, 16, 32, 64, 128)
_ONE_OUTPUT = ((8, 16, 32, 64), (8, 16, 32), (4, 8, 16, 32), (4, 8, 16, 32, 64), (8, 16, 32, 64, 128), (16, 32, 64), (16, 32))
_USUAL_BINS = (8, 11, 17)  # reg_max 7, 10, 16
_MOVES = ("Identity", "Transpose", "Reshape", "Concat", "Squeeze", "Unsqueeze", "Cast", "Flatten")


@dataclass(frozen=True, slots=True)
class _Levels:
    strides: tuple[int, ...]
    scores: tuple[Tensor, ...]
    distances: tuple[Tensor, ...]
    has_sigmoid: bool

    @property
    def classes(self) -> int:
        return self.scores[0].shape[2] or 0

    @property
    def bins(self) -> int:
        return (self.distances[0].shape[2] or 0) // 4


def _find_levels(network: RawNetwork) -> _Levels | None:
    """Pair the outputs by their number of anchors, finest stride first."""
    by_count: dict[int, list[Tensor]] = {}
    for tensor in network.outputs:
        if network.other_inputs or len(tensor.shape) != 3 or None in tensor.shape:
            return None
        by_count.setdefault(tensor.shape[1] or 0, []).append(tensor)
    # Coarse strides of a small input may all have one cell: the finest of them is used.
    stride_of = {count: stride for stride in reversed(_STRIDES) for count in grid_counts(network.size, (stride,))}
    if any(len(pair) != 2 for pair in by_count.values()) or not by_count.keys() <= stride_of.keys():
        return None
    counts = sorted(by_count, reverse=True)
    # The widths do not show which of a pair has the scores: try each.
    for has_sigmoid in (True, False):
        for width in {tensor.shape[2] for tensor in network.outputs}:
            scores = tuple(tensor for count in counts for tensor in by_count[count] if tensor.shape[2] == width)
            distances = tuple(tensor for count in counts for tensor in by_count[count] if tensor.shape[2] != width)
            levels = _Levels(tuple(stride_of[count] for count in counts), scores, distances, has_sigmoid)
            if _plausible(network, levels):
                return levels
    return None


def _plausible(network: RawNetwork, levels: _Levels) -> bool:
    """Return whether the outputs can be scores and distributions; both widths may be multiples of four."""
    if len(levels.scores) != len(levels.distances) or len({tensor.shape[2] for tensor in levels.distances}) != 1:
        return False
    if (levels.distances[0].shape[2] or 0) % 4 or levels.bins < 2:
        return False
    nodes = [network.producer(tensor, _MOVES) for tensor in (*levels.scores, *levels.distances)]
    sigmoid = [node is not None and node.op_type == "Sigmoid" for node in nodes]
    if levels.has_sigmoid:
        return sigmoid == [True] * len(levels.scores) + [False] * len(levels.distances)
    return not any(sigmoid) and levels.bins in _USUAL_BINS


@dataclass(frozen=True, slots=True)
class _SingleOutput:
    """One output for all strides: scores, then distributions."""

    strides: tuple[int, ...]
    classes: int
    bins: int
    has_sigmoid: bool


def _find_one(network: RawNetwork, labels: int | None) -> _SingleOutput | None:
    """Return the layout of a single output; a Sigmoid over the class columns, or the labels, show their number."""
    tensor = only_output(network)
    strides = find_strides(network.size, tensor.shape[1], _ONE_OUTPUT) if tensor is not None else None
    if tensor is None or strides is None:
        return None
    width = tensor.shape[2] or 0
    inside = ColumnOrigins(network, tensor, width)
    classes, has_sigmoid = inside.parts[0].width, True
    if not (inside.ops(0, classes) == {"Sigmoid"} and classes < width and inside.ops(classes, width) <= LINEAR):
        if labels is None or not inside.ops(0, width) <= LINEAR:
            return None
        classes, has_sigmoid = labels, False
    bins = (width - classes) // 4
    return _SingleOutput(strides, classes, bins, has_sigmoid) if bins >= 2 and classes + 4 * bins == width else None


def recognize(network: RawNetwork) -> str | None:
    """Return why a raw model is a NanoDet; None if it is not."""
    one = _find_one(network, None)
    if one is not None:
        return f"one output of {one.classes} scores after a Sigmoid and 4 x {one.bins} distance bins for each anchor"
    levels = _find_levels(network)
    if levels is None:
        return None
    return f"{len(levels.strides)} pairs of outputs: {levels.classes} scores and 4 x {levels.bins} distance bins for each anchor"


def append(builder: GraphBuilder, network: RawNetwork, card: ModelCard, candidates: int) -> HeadOutputs:
    """Add NanoDet's decoding; see :class:`vision_infer.model.head.Head`."""
    levels, one = _find_levels(network), _find_one(network, None if card.labels is None else len(card.labels))
    found = levels or one
    if found is None:
        why = "it needs, for each stride, one output of class scores [1, n, C] and one of distances [1, n, 4 x bins]"
        raise network.refuse("nanodet", f"{why}; or one output [1, N, C + 4 x bins] with a Sigmoid over its C, or C labels")
    check_labels(network, card, found.classes)
    if levels is not None:
        scores = builder.add("Concat", *(as_float(builder, tensor) for tensor in levels.scores), name="scores_all", axis=1)
        rows = builder.add("Concat", *(as_float(builder, tensor) for tensor in levels.distances), name="distances_all", axis=1)
    else:
        output, width = as_float(builder, network.outputs[0]), found.classes + 4 * found.bins
        scores = columns(builder, output, 0, found.classes, "scores_all")
        rows = columns(builder, output, found.classes, width, "distances_all")
    scores = as_probabilities(builder, scores, "probabilities" if found.has_sigmoid else "sigmoid")
    anchors = sum(grid_counts(network.size, found.strides))
    top = top_pairs(builder, scores, anchors, found.classes, candidates)

    rows = gather_rows(builder, rows, top.anchors, "distances_top")
    shape = builder.ints("distances_shape", 0, top.count, 4, found.bins)
    share = builder.add("Softmax", builder.add("Reshape", rows, shape, name="distances_bins"), name="distances_softmax", axis=3)
    index = builder.constant("bin_index", np.arange(found.bins, dtype=np.float32))
    weighted = builder.add("Mul", share, index, name="distances_weighted")
    distance = builder.add("ReduceSum", weighted, builder.ints("bin_axis", 3), name="distances", keepdims=0)

    cells, steps = grid(network.size, found.strides)
    centers = np.tile((cells + np.float32(0.5)) * steps, (1, 2))
    signed_steps = steps * np.array([-1, -1, 1, 1], np.float32)
    center = builder.add("Gather", builder.constant("centres", centers), top.anchors, name="centres_top", axis=0)
    step = builder.add("Gather", builder.constant("signed_strides", signed_steps), top.anchors, name="strides_top", axis=0)
    offset = builder.add("Mul", distance, step, name="box_offset")
    return detections(builder.add("Add", center, offset, name="box"), top.scores, top.class_ids)


def reference(raw: RawOutputs) -> ReferenceBoxes:
    """Decode the outputs in NumPy; see :class:`vision_infer.model.head.Head`."""
    if len(raw.outputs) == 1:
        output = only_array(raw).astype(np.float64)
        ready = [bool(column.min() >= 0 and column.max() <= 1) for column in output.reshape(-1, output.shape[2]).T]
        classes = raw.labels or (ready.index(False) if False in ready else len(ready))
        scores, bins = output[..., :classes], output[..., classes:]
    else:
        levels: dict[int, list[NDArray[Any]]] = {}
        for array in raw.outputs.values():
            levels.setdefault(array.shape[1], []).append(array.astype(np.float64))
        pairs = [_scores_first(levels[count], raw.labels) for count in sorted(levels, reverse=True)]
        scores, bins = (np.concatenate([pair[place] for pair in pairs], axis=1) for place in (0, 1))
    share = softmax(bins.reshape(*bins.shape[:2], 4, -1))
    cells = cells_of(bins.shape[1], raw.size)
    distance = (share * np.arange(share.shape[-1])).sum(axis=-1) * cells[:, 2:]
    center = (cells[:, :2] + 0.5) * cells[:, 2:]
    boxes = np.concatenate([center - distance[..., :2], center + distance[..., 2:]], axis=-1)
    return ReferenceBoxes(boxes, class_scores(scores, raw, "sigmoid"))


def _scores_first(pair: list[NDArray[Any]], labels: int | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Order a pair: scores are probabilities, or have as many columns as labels, or have no usual width of distributions."""
    signs: tuple[Callable[[NDArray[Any]], bool], ...] = (
        lambda array: bool(array.min() >= 0 and array.max() <= 1),
        lambda array: array.shape[2] == labels,
        lambda array: array.shape[2] not in [4 * bins for bins in _USUAL_BINS],
    )
    for sign in signs:
        if sign(pair[0]) != sign(pair[1]):
            return (pair[0], pair[1]) if sign(pair[0]) else (pair[1], pair[0])
    return pair[0], pair[1]
