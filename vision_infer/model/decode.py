"""What heads share: normalization, the exact multi-label top K, and the grid of anchor points."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from vision_infer.core.card import ModelCard
from vision_infer.core.errors import ModelError
from vision_infer.core.geometry import Size
from vision_infer.model.graph import GraphBuilder
from vision_infer.model.network import RawNetwork, ScoreKind, Tensor


@dataclass(frozen=True, slots=True)
class TopPairs:
    """The tensors of the K best (anchor, class) pairs, best first, by name."""

    scores: str
    """The scores, float32 [B, K]."""
    class_ids: str
    """The class numbers, int32 [B, K]."""
    anchors: str
    """The indices of the anchors, int64 [B, K]."""
    count: int
    """K."""


def normalize_images(builder: GraphBuilder, images: str, card: ModelCard, dtype: int) -> str:
    """Add the conversion of a batch of images to the input of the raw model.

    Args:
        builder: Takes the nodes.
        images: The images, uint8 [B, H, W, 3], RGB.
        card: The color order, mean and standard deviation.
        dtype: The ONNX element type of the model's input.

    Returns:
        The name of a tensor [B, 3, H, W] of ``dtype``.
    """
    # The Cast is first, because TensorRT accepts a uint8 input for a Cast only.
    tensor = builder.cast(images, TensorProto.FLOAT, "images_float")
    tensor = builder.add("Transpose", tensor, name="images_nchw", perm=[0, 3, 1, 2])
    if card.color == "bgr":
        tensor = builder.add("Gather", tensor, builder.ints("bgr_order", 2, 1, 0), name="images_bgr", axis=1)
    mean = np.array(card.mean, np.float64).reshape(1, 3, 1, 1)
    std = np.array(card.std, np.float64).reshape(1, 3, 1, 1)
    if np.any(mean != 0):
        tensor = builder.add("Sub", tensor, builder.constant("mean", mean.astype(np.float32)), name="images_centred")
    if np.any(std != 1):
        tensor = builder.add("Mul", tensor, builder.constant("inverse_std", (1 / std).astype(np.float32)), name="images_scaled")
    if dtype != TensorProto.FLOAT:
        tensor = builder.cast(tensor, dtype, "images_cast")
    return tensor


def as_float(builder: GraphBuilder, tensor: Tensor) -> str:
    """Return an output of the raw model as float32, because boxes are decoded in FP32."""
    if tensor.dtype == TensorProto.FLOAT:
        return tensor.inside
    return builder.cast(tensor.inside, TensorProto.FLOAT, f"{tensor.name}_float")


def gather_rows(builder: GraphBuilder, rows: str, index: str, name: str) -> str:
    """Select rows in each image: [B, N, D] and int64 [B, K] give [B, K, D]."""
    axis = builder.ints(f"{name}_axis", 2)
    index = builder.add("Unsqueeze", index, axis, name=f"{name}_index")
    return builder.add("GatherND", rows, index, name=name, batch_dims=1)


def top_pairs(builder: GraphBuilder, scores: str, anchors: int, classes: int, candidates: int) -> TopPairs:
    """Select the exact K best (anchor, class) pairs without sorting all of them.

    The K best pairs are in the K anchors with the best single scores: for an anchor outside them, K others have at least one
    better pair each. So two small sorts are enough, of N values and of K times C.

    Args:
        builder: Takes the nodes.
        scores: The scores, float32 [B, N, C].
        anchors: N.
        classes: C.
        candidates: K, at most the number of pairs.
    """
    kept = min(candidates, anchors)
    count = min(candidates, kept * classes)
    best = builder.reduce_max(scores, 2, "anchor_best")
    _, top = builder.add_many("TopK", best, builder.ints("anchor_count", kept), name="anchor_top", outputs=2, axis=1)
    rows = gather_rows(builder, scores, top, "anchor_scores")
    pairs = _pairs_of(builder, rows, kept, classes, count)
    return replace(pairs, anchors=builder.add("GatherElements", top, pairs.anchors, name="top_anchors", axis=1))


def _pairs_of(builder: GraphBuilder, scores: str, rows: int, classes: int, count: int) -> TopPairs:
    """Select the best pairs of a few rows [B, rows, C]; ``anchors`` are the row numbers."""
    flat = builder.add("Reshape", scores, builder.ints("pair_shape", 0, rows * classes), name="pair_scores")
    values, pairs = builder.add_many("TopK", flat, builder.ints("pair_count", count), name="pair_top", outputs=2, axis=1)
    number = builder.ints("class_count", classes)
    position = builder.add("Div", pairs, number, name="pair_anchor")
    # The remainder, without Mod, which not every runtime has for int64.
    start = builder.add("Mul", position, number, name="pair_start")
    class_ids = builder.cast(builder.add("Sub", pairs, start, name="pair_class"), TensorProto.INT32, "pair_class_int32")
    return TopPairs(values, class_ids, position, count)


def top_pairs_channels_first(
    builder: GraphBuilder, output: str, first: int, classes: int, anchors: int, candidates: int, width: int | None = None
) -> tuple[TopPairs, str]:
    """Do the same as :func:`top_pairs` for an output [B, D, N] with other values first, without transposing all of it.

    Args:
        builder: Takes the nodes.
        output: The output, float32 [B, D, N].
        first: The first row of scores.
        classes: C.
        anchors: N.
        candidates: K, at most the number of pairs.
        width: D; None: ``first`` + C.

    Returns:
        The pairs, whose ``anchors`` are row numbers of the second result, and the best anchors' values, [B, n, D].
    """
    kept, stop = min(candidates, anchors), first + classes
    bounds = (builder.ints("scores_start", first), builder.ints("scores_stop", stop), builder.ints("scores_axis", 1))
    best = builder.reduce_max(builder.add("Slice", output, *bounds, name="scores_all"), 1, "anchor_best")
    _, top = builder.add_many("TopK", best, builder.ints("anchor_count", kept), name="anchor_top", outputs=2, axis=1)
    index = builder.add("Unsqueeze", top, builder.ints("anchor_axis", 1), name="anchor_column")
    index = builder.add("Expand", index, builder.ints("anchor_rows", 1, width or stop, 1), name="anchor_index")
    rows = builder.add("GatherElements", output, index, name="anchor_values", axis=2)
    rows = builder.add("Transpose", rows, name="rows", perm=[0, 2, 1])
    scores = columns(builder, rows, first, stop, "anchor_scores")
    return _pairs_of(builder, scores, kept, classes, min(candidates, kept * classes)), rows


def grid_counts(size: Size, strides: tuple[int, ...]) -> tuple[int, ...]:
    """Return the number of cells for each stride, including partial cells."""
    return tuple(math.ceil(size.width / stride) * math.ceil(size.height / stride) for stride in strides)


def grid(size: Size, strides: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the cells and strides of all anchors, row by row, in the order of the strides.

    Returns:
        The (column, row) of each cell, float32 [N, 2], and its stride in input pixels, float32 [N, 1].
    """
    cells, steps = [], []
    for stride in strides:
        rows, columns = np.indices((math.ceil(size.height / stride), math.ceil(size.width / stride)))
        cells.append(np.stack([columns.ravel(), rows.ravel()], axis=1))
        steps.append(np.full((cells[-1].shape[0], 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(steps).astype(np.float32)


def check_labels(network: RawNetwork, card: ModelCard, classes: int) -> None:
    """Check that the card names all classes of the model, or none.

    Raises:
        ModelError: The numbers differ.
    """
    if card.labels is not None and len(card.labels) != classes:
        message = f"{network.where}: the model has {classes} classes, but there are {len(card.labels)} labels"
        raise ModelError(message, "Use a file with one label per line in the model's order, or no labels.")


def columns(builder: GraphBuilder, tensor: str, start: int, stop: int, name: str) -> str:
    """Return columns ``start`` to ``stop`` of [B, N, D]."""
    bounds = (builder.ints(f"{name}_start", start), builder.ints(f"{name}_stop", stop), builder.ints(f"{name}_axis", 2))
    return builder.add("Slice", tensor, *bounds, name=name)


def corners(builder: GraphBuilder, center: str, size: str) -> str:
    """Return boxes xyxy [B, K, 4] from their centers and sizes, [B, K, 2] each."""
    half = builder.add("Mul", size, builder.constant("half", np.array(0.5, np.float32)), name="wh_half")
    ends = (builder.add("Sub", center, half, name="box_min"), builder.add("Add", center, half, name="box_max"))
    return builder.add("Concat", *ends, name="box", axis=2)


def as_probabilities(builder: GraphBuilder, scores: str, kind: ScoreKind) -> str:
    """Convert class scores [B, …, C] to 0–1."""
    if kind == "sigmoid":
        return builder.add("Sigmoid", scores, name="scores_sigmoid")
    return builder.add("Softmax", scores, name="scores_softmax", axis=-1) if kind == "softmax" else scores


def top_of_best(builder: GraphBuilder, scores: str, anchors: int, candidates: int) -> TopPairs:
    """Select the K anchors with the best single scores, with that class only, for exclusive classes.

    Args:
        builder: Takes the nodes.
        scores: The scores, float32 [B, N, C].
        anchors: N.
        candidates: K, at most the number of anchors.
    """
    count = min(candidates, anchors)
    best = builder.reduce_max(scores, 2, "query_best")
    classes = builder.add("ArgMax", scores, name="query_class", axis=2, keepdims=0)
    values, top = builder.add_many("TopK", best, builder.ints("query_count", count), name="query_top", outputs=2, axis=1)
    chosen = builder.add("GatherElements", classes, top, name="query_class_top", axis=1)
    return TopPairs(values, builder.cast(chosen, TensorProto.INT32, "query_class_int32"), top, count)


def find_strides(size: Size, anchors: int | None, choices: tuple[tuple[int, ...], ...], each: int = 1) -> tuple[int, ...] | None:
    """Return the strides whose number of cells matches the number of anchors; None if no choice matches.

    Args:
        size: The input size.
        anchors: The number of anchors.
        choices: The sets of strides, the most common first.
        each: The number of anchors per cell.
    """
    return next((strides for strides in choices if each * sum(grid_counts(size, strides)) == anchors), None)
