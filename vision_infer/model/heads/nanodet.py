"""NanoDet: class scores and, for each side of a box, a distribution over distances from the centre of a cell.

Each stride has two outputs, [B, n, C] scores and [B, n, 4·bins] distributions, in any order; they are paired by n, and
n tells the stride. The distance of a side is the mean of its distribution: Σ softmax(bins)·index·stride.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vision_infer.core.card import ModelCard
from vision_infer.core.geometry import Size
from vision_infer.model.decode import as_float, check_labels, gather_rows, grid, grid_counts, top_pairs
from vision_infer.model.graph import GraphBuilder
from vision_infer.model.head import Decoded, HeadDefaults
from vision_infer.model.network import RawNetwork, Tensor

DEFAULTS = HeadDefaults(
    color="bgr",
    mean=(103.53, 116.28, 123.675),
    std=(57.375, 57.12, 58.395),
    fit="center",
    fill=(114, 114, 114),  # trained with black; grey finds a little more (models/nanodet-416/README.md)
    confidence=0.35,
    iou=0.6,
    input_size=Size(416, 416),
)
_STRIDES = (4, 8, 16, 32, 64, 128)
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
    if network.other_inputs or len(network.outputs) % 2:
        return None
    if any(len(tensor.shape) != 3 or None in tensor.shape for tensor in network.outputs):
        return None
    by_count: dict[int, list[Tensor]] = {}
    for tensor in network.outputs:
        by_count.setdefault(tensor.shape[1] or 0, []).append(tensor)
    if any(len(pair) != 2 for pair in by_count.values()):
        return None
    # Coarse strides of a small input have one cell alike: the finest of them goes.
    stride_of = {count: stride for stride in reversed(_STRIDES) for count in grid_counts(network.size, (stride,))}
    if not by_count.keys() <= stride_of.keys():
        return None
    pairs = [(stride_of[count], by_count[count]) for count in sorted(by_count, reverse=True)]
    channels = {tensor.shape[2] or 0 for tensor in network.outputs}
    for has_sigmoid in (True, False):
        for width in channels:
            scores = tuple(tensor for _, pair in pairs for tensor in pair if tensor.shape[2] == width)
            distances = tuple(tensor for _, pair in pairs for tensor in pair if tensor.shape[2] != width)
            levels = _Levels(tuple(stride for stride, _ in pairs), scores, distances, has_sigmoid)
            if _plausible(network, levels):
                return levels
    return None


def _plausible(network: RawNetwork, levels: _Levels) -> bool:
    """Whether the outputs taken for scores and distributions can be these: both widths may be multiples of four."""
    if len(levels.scores) != len(levels.distances) or len({tensor.shape[2] for tensor in levels.distances}) != 1:
        return False
    if (levels.distances[0].shape[2] or 0) % 4 or levels.bins < 2:
        return False
    nodes = [network.producer(tensor, _MOVES) for tensor in (*levels.scores, *levels.distances)]
    sigmoid = [node is not None and node.op_type == "Sigmoid" for node in nodes]
    if levels.has_sigmoid:
        return sigmoid == [True] * len(levels.scores) + [False] * len(levels.distances)
    return not any(sigmoid) and levels.bins in _USUAL_BINS


def recognise(network: RawNetwork) -> str | None:
    """Why a network is a NanoDet; None if it is not."""
    levels = _find_levels(network)
    if levels is None:
        return None
    return f"{len(levels.strides)} pairs of outputs: {levels.classes} scores and 4 x {levels.bins} distance bins for each anchor"


def append(builder: GraphBuilder, network: RawNetwork, card: ModelCard, candidates: int) -> Decoded:
    """Add NanoDet's decoding; see :class:`vision_infer.model.head.Head`."""
    levels = _find_levels(network)
    if levels is None:
        why = "it wants, for each stride, one output of class scores [1, n, C] and one of distances [1, n, 4 x bins]"
        raise network.refuse("nanodet", why)
    check_labels(network, card, levels.classes)
    scores = builder.add("Concat", *(as_float(builder, tensor) for tensor in levels.scores), name="scores_all", axis=1)
    if not levels.has_sigmoid:
        scores = builder.add("Sigmoid", scores, name="scores_sigmoid")
    anchors = sum(grid_counts(network.size, levels.strides))
    top = top_pairs(builder, scores, anchors, levels.classes, candidates)

    rows = builder.add("Concat", *(as_float(builder, tensor) for tensor in levels.distances), name="distances_all", axis=1)
    rows = gather_rows(builder, rows, top.anchors, "distances_top")
    shape = builder.ints("distances_shape", 0, top.count, 4, levels.bins)
    share = builder.add("Softmax", builder.add("Reshape", rows, shape, name="distances_bins"), name="distances_softmax", axis=3)
    index = builder.constant("bin_index", np.arange(levels.bins, dtype=np.float32))
    weighted = builder.add("Mul", share, index, name="distances_weighted")
    distance = builder.add("ReduceSum", weighted, builder.ints("bin_axis", 3), name="distances", keepdims=0)

    cells, steps = grid(network.size, levels.strides)
    centres = np.tile((cells + np.float32(0.5)) * steps, (1, 2))
    signed_steps = steps * np.array([-1, -1, 1, 1], np.float32)
    centre = builder.add("Gather", builder.constant("centres", centres), top.anchors, name="centres_top", axis=0)
    step = builder.add("Gather", builder.constant("signed_strides", signed_steps), top.anchors, name="strides_top", axis=0)
    offset = builder.add("Mul", distance, step, name="box_offset")
    return Decoded(builder.add("Add", centre, offset, name="box"), top.scores, top.class_ids)
