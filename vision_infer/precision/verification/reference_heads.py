"""Each head once more, in NumPy and float64: what a deployment graph is held against.

Written apart from the graphs, and decided by other signs: where the importer looks at nodes, this looks at the values that come
out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.geometry import Size

Arrays = dict[str, NDArray[Any]]
_STRIDES = (4, 8, 16, 32, 64, 128)
_USUAL_WIDTHS = (32, 44, 68)  # four distributions of reg_max 7, 10, 16


@dataclass(frozen=True, slots=True)
class Raw:
    """What a raw network gave for some pictures."""

    outputs: Arrays
    """by name, [P, …]"""
    size: Size
    """of the input"""
    labels: int | None
    """how many the card has"""
    scores: str | None
    """``probabilities``, ``sigmoid`` or ``softmax``, where a person said so"""


@dataclass(frozen=True, slots=True)
class Pairs:
    """All boxes that a graph may choose from, for some pictures."""

    boxes: NDArray[np.float64]
    """[P, N, 4], xyxy in input pixels"""
    scores: NDArray[np.float64]
    """[P, N, C], or [P, N] where each box has one class"""
    class_ids: NDArray[np.int64] | None = None
    """[P, N], where each box has one class; None: the column is the class"""
    first_class: int = 0
    """the number of the first column's class"""

    def above(self, image: int, score: float) -> Arrays:
        """The pairs of box and class of a picture from a score on, best first: boxes [n, 4], scores [n], class_ids [n]."""
        scores = self.scores[image]
        chosen = np.flatnonzero(scores.ravel() >= score)
        order = chosen[np.argsort(-scores.ravel()[chosen], kind="stable")]
        if self.class_ids is not None:
            return {"boxes": self.boxes[image][order], "scores": scores[order], "class_ids": self.class_ids[image][order]}
        anchors, classes = np.unravel_index(order, scores.shape)
        return {
            "boxes": self.boxes[image][anchors],
            "scores": scores[anchors, classes],
            "class_ids": classes + self.first_class,
        }


def _sigmoid(values: NDArray[Any]) -> NDArray[np.float64]:
    return np.exp(-np.logaddexp(0, -values.astype(np.float64)))


def _softmax(values: NDArray[Any]) -> NDArray[np.float64]:
    grown = np.exp(values.astype(np.float64) - values.max(axis=-1, keepdims=True))
    return np.asarray(grown / grown.sum(axis=-1, keepdims=True))


def _as_scores(values: NDArray[Any], raw: Raw, logits: str) -> NDArray[np.float64]:
    """Class scores as 0–1: as told, or as the values themselves show."""
    kind = raw.scores or ("probabilities" if values.min() >= 0 and values.max() <= 1 else logits)
    return {"sigmoid": _sigmoid, "softmax": _softmax}.get(kind, lambda same: same.astype(np.float64))(values)


def _corners(xywh: NDArray[Any]) -> NDArray[np.float64]:
    xy, wh = xywh[..., :2].astype(np.float64), xywh[..., 2:].astype(np.float64)
    return np.concatenate([xy - wh / 2, xy + wh / 2], axis=-1)


def _cells(size: Size, strides: tuple[int, ...]) -> NDArray[np.float64]:
    """Column, row and stride of each cell, [N, 3]."""
    return np.array(
        [
            (column, row, stride)
            for stride in strides
            for row in range(math.ceil(size.height / stride))
            for column in range(math.ceil(size.width / stride))
        ],
        np.float64,
    )


def _cells_of(count: int, size: Size) -> NDArray[np.float64]:
    """The cells of neighbouring strides that are so many; of several sets the one that begins nearest to 8."""
    runs = [_STRIDES[i:j] for i, j in itertools.combinations(range(len(_STRIDES) + 1), 2)]
    for strides in sorted(runs, key=lambda run: (run[0] != 8, len(run) not in (3, 4))):
        if sum(math.ceil(size.width / one) * math.ceil(size.height / one) for one in strides) == count:
            return _cells(size, strides)
    raise ValueError(f"no strides have {count} cells")


def _only(raw: Raw) -> NDArray[Any]:
    (output,) = (array for array in raw.outputs.values() if array.ndim < 5)
    return output


def _named(arrays: Arrays, *words: str) -> NDArray[Any]:
    """The one array whose name holds one of some words, or the only one."""
    found = [array for name, array in arrays.items() if len(arrays) == 1 or any(word in name.lower() for word in words)]
    if len(found) != 1:
        raise ValueError(f"none or several of the outputs {', '.join(arrays)} are named {' or '.join(words)}")
    return found[0]


def _boxes_and_scores(raw: Raw) -> tuple[NDArray[Any], NDArray[Any]]:
    """The two outputs [P, N, 4] and [P, N, C]."""
    boxes = _named({name: array for name, array in raw.outputs.items() if array.ndim == 3 and array.shape[2] == 4}, "box", "reg")
    rest = {name: array for name, array in raw.outputs.items() if array is not boxes and array.shape[1] == boxes.shape[1]}
    return boxes, _named(rest, "logit", "cls", "score")


def yolox(raw: Raw) -> Pairs:
    """Raw YOLOX."""
    output = _only(raw).astype(np.float64)
    cells = _cells_of(output.shape[1], raw.size)
    xy, wh = (output[..., :2] + cells[:, :2]) * cells[:, 2:], np.exp(output[..., 2:4]) * cells[:, 2:]
    return Pairs(_corners(np.concatenate([xy, wh], axis=-1)), output[..., 4:5] * output[..., 5:])


def yolov5(raw: Raw) -> Pairs:
    """Boxes decoded, objectness and classes."""
    output = _only(raw).astype(np.float64)
    return Pairs(_corners(output[..., :4]), output[..., 4:5] * output[..., 5:])


def yolov8(raw: Raw) -> Pairs:
    """Boxes decoded, classes; the anchors are the longer side but in networks for very small inputs."""
    output = _only(raw).astype(np.float64)
    try:
        _cells_of(output.shape[2], raw.size)
        output = output.transpose(0, 2, 1)
    except ValueError:
        pass
    return Pairs(_corners(output[..., :4]), output[..., 4:])


def end2end(raw: Raw) -> Pairs:
    """Boxes chosen inside."""
    output = _only(raw).astype(np.float64)
    return Pairs(output[..., :4], output[..., 4], output[..., 5].astype(np.int64))


def nanodet(raw: Raw) -> Pairs:
    """Distributions of distances; an output for each stride and kind, or one for all."""
    if len(raw.outputs) == 1:
        output = _only(raw).astype(np.float64)
        ready = [bool(column.min() >= 0 and column.max() <= 1) for column in output.reshape(-1, output.shape[2]).T]
        classes = raw.labels or (ready.index(False) if False in ready else len(ready))
        scores, bins = output[..., :classes], output[..., classes:]
    else:
        levels: dict[int, list[NDArray[Any]]] = {}
        for array in raw.outputs.values():
            levels.setdefault(array.shape[1], []).append(array.astype(np.float64))
        pairs = [_apart(levels[count], raw.labels) for count in sorted(levels, reverse=True)]
        scores, bins = (np.concatenate([pair[place] for pair in pairs], axis=1) for place in (0, 1))
    share = _softmax(bins.reshape(*bins.shape[:2], 4, -1))
    cells = _cells_of(bins.shape[1], raw.size)
    distance = (share * np.arange(share.shape[-1])).sum(axis=-1) * cells[:, 2:]
    centre = (cells[:, :2] + 0.5) * cells[:, 2:]
    boxes = np.concatenate([centre - distance[..., :2], centre + distance[..., 2:]], axis=-1)
    return Pairs(boxes, _as_scores(scores, raw, "sigmoid"))


def _apart(pair: list[NDArray[Any]], labels: int | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Scores first, distributions behind: scores are probabilities, as many as labels, or not of a usual width."""
    signs: tuple[Callable[[NDArray[Any]], bool], ...] = (
        lambda array: bool(array.min() >= 0 and array.max() <= 1),
        lambda array: array.shape[2] == labels,
        lambda array: array.shape[2] not in _USUAL_WIDTHS,
    )
    for sign in signs:
        if sign(pair[0]) != sign(pair[1]):
            return (pair[0], pair[1]) if sign(pair[0]) else (pair[1], pair[0])
    return pair[0], pair[1]


def detr(raw: Raw) -> Pairs:
    """Queries, chosen by the network's own post-processing or not."""
    labels = [array for array in raw.outputs.values() if array.ndim == 2 and np.issubdtype(array.dtype, np.integer)]
    if labels:
        boxes = next(array for array in raw.outputs.values() if array.ndim == 3)
        scores = next(array for array in raw.outputs.values() if array.ndim == 2 and not np.issubdtype(array.dtype, np.integer))
        return Pairs(boxes.astype(np.float64), scores.astype(np.float64), labels[0])
    boxes, logits = _boxes_and_scores(raw)
    width = logits.shape[2]
    scores = _as_scores(logits, raw, "softmax" if raw.labels == width - 1 else "sigmoid")
    pixels = _corners(boxes.astype(np.float64) * ([raw.size.width, raw.size.height] * 2))
    told = raw.scores == "softmax" or raw.labels == width - 1
    if told or (raw.labels != width and np.allclose(scores.sum(axis=-1), 1, atol=1e-3)):
        things = scores[..., :-1]
        return Pairs(pixels, things.max(axis=-1), things.argmax(axis=-1))
    return Pairs(pixels, scores)


def _against(anchors: NDArray[np.float64], deltas: NDArray[Any], centre: float, side: float) -> NDArray[np.float64]:
    """Boxes from their differences to anchors xyxy."""
    low, high = anchors[:, :2], anchors[:, 2:]
    moved = (low + high) / 2 + deltas[..., :2].astype(np.float64) / centre * (high - low)
    sides = np.exp(np.minimum(deltas[..., 2:].astype(np.float64) / side, math.log(62.5))) * (high - low)
    return _corners(np.concatenate([moved, sides], axis=-1))


def _halved(size: Size, first: int, levels: int) -> list[tuple[int, int]]:
    """Columns and rows of each level."""
    grids = [(math.ceil(size.width / first), math.ceil(size.height / first))]
    while len(grids) < levels:
        grids.append((math.ceil(grids[-1][0] / 2), math.ceil(grids[-1][1] / 2)))
    return grids


def ssd(raw: Raw) -> Pairs:
    """Default boxes of SSDLite, or of SSD300."""
    deltas, logits = _boxes_and_scores(raw)
    large = deltas.shape[1] == 8732 and raw.size == Size(300, 300)
    grids = [(n, n) for n in (38, 19, 10, 5, 3, 1)] if large else _halved(raw.size, 16, 6)
    scales = [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05] if large else [*np.linspace(0.2, 0.95, 6), 1.0]
    anchors = []
    for level, (wide, high) in enumerate(grids):
        both = [2.0] if large and level in (0, 4, 5) else [2.0, 3.0]
        sides = [(scales[level],) * 2, (math.sqrt(scales[level] * scales[level + 1]),) * 2]
        for ratio in both:
            root = math.sqrt(ratio)
            sides += [(scales[level] * root, scales[level] / root), (scales[level] / root, scales[level] * root)]
        step = 300 / (8, 16, 32, 64, 100, 300)[level] if large else 0.0
        for row, column, (w, h) in itertools.product(range(high), range(wide), sides):
            x, y, w, h = (column + 0.5) / (step or wide), (row + 0.5) / (step or high), min(w, 1.0), min(h, 1.0)
            anchors.append((x - w / 2, y - h / 2, x + w / 2, y + h / 2))
    boxes = np.array(anchors) * ([raw.size.width, raw.size.height] * 2)
    return Pairs(_against(boxes, deltas, 10, 5), _as_scores(logits, raw, "softmax")[..., 1:], first_class=1)


def retinanet(raw: Raw) -> Pairs:
    """Nine anchors a cell, on its upper left corner."""
    deltas, logits = _boxes_and_scores(raw)
    anchors = []
    for (wide, high), base in zip(_halved(raw.size, 8, 5), (32, 64, 128, 256, 512), strict=True):
        scales = (base, int(base * 2 ** (1 / 3)), int(base * 2 ** (2 / 3)))
        shapes = [(scale / math.sqrt(ratio), scale * math.sqrt(ratio)) for ratio in (0.5, 1.0, 2.0) for scale in scales]
        for row, column, (w, h) in itertools.product(range(high), range(wide), shapes):
            x, y = column * (raw.size.width // wide), row * (raw.size.height // high)
            anchors.append((x + round(-w / 2), y + round(-h / 2), x + round(w / 2), y + round(h / 2)))
    return Pairs(_against(np.array(anchors, np.float64), deltas, 1, 1), _as_scores(logits, raw, "sigmoid"))


def fcos(raw: Raw) -> Pairs:
    """Distances from points on the cells' upper left corners."""
    distances, logits = _boxes_and_scores(raw)
    near = next(array for array in raw.outputs.values() if array.shape[2] == 1 and array is not logits)
    points = []
    for (wide, high), unit in zip(_halved(raw.size, 8, 5), (8, 16, 32, 64, 128), strict=True):
        for row, column in itertools.product(range(high), range(wide)):
            points.append((column * (raw.size.width // wide), row * (raw.size.height // high), unit))
    places = np.array(points, np.float64)
    away = distances.astype(np.float64) * places[:, 2:]
    boxes = np.concatenate([places[:, :2] - away[..., :2], places[:, :2] + away[..., 2:]], axis=-1)
    return Pairs(boxes, np.sqrt(_as_scores(logits, raw, "sigmoid") * _as_scores(near, raw, "sigmoid")))


def classify(raw: Raw) -> NDArray[np.float64]:
    """Probabilities [P, C]."""
    output = _only(raw)
    return _as_scores(output.reshape(output.shape[:2]), raw, "softmax")


def embed(raw: Raw) -> NDArray[np.float64]:
    """Vectors of length 1, [P, D]."""
    output = _only(raw).astype(np.float64)
    output = output.reshape(output.shape[:2])
    return np.asarray(output / np.maximum(np.linalg.norm(output, axis=1, keepdims=True), 1e-12))


DETECTORS: dict[str, Callable[[Raw], Pairs]] = {
    one.__name__: one for one in (yolox, yolov5, yolov8, end2end, nanodet, detr, ssd, retinanet, fcos)
}
VECTORS: dict[str, Callable[[Raw], NDArray[np.float64]]] = {"classify": classify, "embed": embed}
