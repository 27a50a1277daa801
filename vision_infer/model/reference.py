"""What the references of the heads share: a reference decodes the outputs of a raw model in NumPy and float64.

The references are written independently of the graphs, and they decide by other signs: where ``append`` looks at the nodes of a
graph, ``reference`` looks at the values of its outputs. Each import compares the two.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.geometry import Size

Arrays = dict[str, NDArray[Any]]
_STRIDES = (4, 8, 16, 32, 64, 128)


@dataclass(frozen=True, slots=True)
class RawOutputs:
    """The outputs of a raw model for some images."""

    outputs: Arrays
    """The arrays by name, [P, …]."""
    size: Size
    """The input size."""
    labels: int | None
    """The number of labels on the card."""
    scores: str | None
    """``probabilities``, ``sigmoid`` or ``softmax`` where the user specified it."""
    keypoints: int = 0
    """The number of keypoints on the card."""


@dataclass(frozen=True, slots=True)
class ReferenceBoxes:
    """All boxes that a graph may choose from, for some images."""

    boxes: NDArray[np.float64]
    """The corners, [P, N, 4], xyxy in input pixels."""
    scores: NDArray[np.float64]
    """The scores, [P, N, C], or [P, N] where each box has one class."""
    class_ids: NDArray[np.int64] | None = None
    """The class numbers, [P, N], where each box has one class; None: the column is the class."""
    first_class: int = 0
    """The class number of the first column."""
    details: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """The details of each box, [P, N, …], by output of the deployment graph."""
    prototypes: NDArray[Any] | None = None
    """The prototypes of masks, [P, M, h, w]."""

    def above(self, image: int, score: float) -> Arrays:
        """Return an image's pairs of box and class with at least a score, best first.

        Returns:
            boxes [n, 4], scores [n], class_ids [n], and the details [n, …]; prototypes [M, h, w].
        """
        scores = self.scores[image]
        chosen = np.flatnonzero(scores.ravel() >= score)
        order = chosen[np.argsort(-scores.ravel()[chosen], kind="stable")]
        if self.class_ids is None:
            anchors, classes = np.unravel_index(order, scores.shape)
            classes = classes + self.first_class
        else:
            anchors, classes = order, self.class_ids[image][order]
        found = {"boxes": self.boxes[image][anchors], "scores": scores.ravel()[order], "class_ids": classes}
        found |= {name: array[image][anchors] for name, array in self.details.items()}
        return found if self.prototypes is None else found | {"prototypes": self.prototypes[image]}


def sigmoid(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the logistic function of each value."""
    return np.exp(-np.logaddexp(0, -values.astype(np.float64)))


def softmax(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the softmax over the last axis."""
    grown = np.exp(values.astype(np.float64) - values.max(axis=-1, keepdims=True))
    return np.asarray(grown / grown.sum(axis=-1, keepdims=True))


def class_scores(values: NDArray[Any], raw: RawOutputs, logits: str) -> NDArray[np.float64]:
    """Return class scores in 0–1, by what the user specified or else by the range of the values.

    Args:
        values: The class scores as the model computes them.
        raw: All outputs of the model.
        logits: The function for values outside 0–1: ``sigmoid`` or ``softmax``.
    """
    kind = raw.scores or ("probabilities" if values.min() >= 0 and values.max() <= 1 else logits)
    return {"sigmoid": sigmoid, "softmax": softmax}.get(kind, lambda same: same.astype(np.float64))(values)


def corners_of(xywh: NDArray[Any]) -> NDArray[np.float64]:
    """Return the corners of boxes that are center and size, [..., 4]."""
    xy, wh = xywh[..., :2].astype(np.float64), xywh[..., 2:].astype(np.float64)
    return np.concatenate([xy - wh / 2, xy + wh / 2], axis=-1)


def cells_of(count: int, size: Size) -> NDArray[np.float64]:
    """Return column, row and stride of each cell, [N, 3], for the neighboring strides that have ``count`` cells.

    Of several sets of strides the one that begins nearest to 8 is used.

    Raises:
        ValueError: No set of strides has that number of cells.
    """
    runs = [_STRIDES[i:j] for i, j in itertools.combinations(range(len(_STRIDES) + 1), 2)]
    for strides in sorted(runs, key=lambda run: (run[0] != 8, len(run) not in (3, 4))):
        grids = [(stride, math.ceil(size.height / stride), math.ceil(size.width / stride)) for stride in strides]
        if sum(rows * columns for _, rows, columns in grids) == count:
            cells = [(column, row, stride) for stride, rows, columns in grids for row in range(rows) for column in range(columns)]
            return np.array(cells, np.float64)
    raise ValueError(f"no strides have {count} cells")


def only_array(raw: RawOutputs) -> NDArray[Any]:
    """Return the one output; maps [P, anchors, H, W, …] are ignored."""
    (output,) = (array for array in raw.outputs.values() if array.ndim < 5)
    return output


def anchors_first(output: NDArray[Any], raw: RawOutputs) -> NDArray[np.float64]:
    """Return an output of a YOLO as [P, N, D]: its last axis has the anchors if there is a cell for each of its elements.

    With very small inputs the columns may outnumber the anchors.
    """
    values = output.astype(np.float64)
    try:
        cells_of(output.shape[2], raw.size)
    except ValueError:
        return values
    return values.transpose(0, 2, 1)


def boxes_and_scores(raw: RawOutputs) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the two outputs [P, N, 4] and [P, N, C].

    Raises:
        ValueError: No output or several outputs can be the boxes or the scores.
    """
    boxes = _find_named(
        {name: array for name, array in raw.outputs.items() if array.ndim == 3 and array.shape[2] == 4}, "box", "reg"
    )
    rest = {name: array for name, array in raw.outputs.items() if array is not boxes and array.shape[1] == boxes.shape[1]}
    return boxes, _find_named(rest, "logit", "cls", "score")


def _find_named(arrays: Arrays, *words: str) -> NDArray[Any]:
    """Return the one array whose name contains one of some words, or the only one."""
    found = [array for name, array in arrays.items() if len(arrays) == 1 or any(word in name.lower() for word in words)]
    if len(found) != 1:
        raise ValueError(f"none or several of the outputs {', '.join(arrays)} are named {' or '.join(words)}")
    return found[0]


def boxes_from_anchors(anchors: NDArray[np.float64], deltas: NDArray[Any], center: float, side: float) -> NDArray[np.float64]:
    """Return the corners of boxes that are differences to anchors.

    Args:
        anchors: The anchors, [N, 4], xyxy.
        deltas: The differences, [P, N, 4].
        center: The weight of the differences of centers.
        side: The weight of the differences of sizes.
    """
    low, high = anchors[:, :2], anchors[:, 2:]
    moved = (low + high) / 2 + deltas[..., :2].astype(np.float64) / center * (high - low)
    sides = np.exp(np.minimum(deltas[..., 2:].astype(np.float64) / side, math.log(62.5))) * (high - low)
    return corners_of(np.concatenate([moved, sides], axis=-1))


def halved_grids(size: Size, first: int, levels: int) -> list[tuple[int, int]]:
    """Return columns and rows of each level, where each level halves the grid of the previous one."""
    grids = [(math.ceil(size.width / first), math.ceil(size.height / first))]
    while len(grids) < levels:
        grids.append((math.ceil(grids[-1][0] / 2), math.ceil(grids[-1][1] / 2)))
    return grids
