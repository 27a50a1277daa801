"""Large images with small objects of known truth: photographs of objects, shrunk and pasted on a blurred photograph."""

from __future__ import annotations

import json
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from tests.support.assets import coco_annotations, photographs
from vision_infer.analyze.matching import box_overlap
from vision_infer.core.detections import Detections
from vision_infer.core.geometry import Size

OBJECTS = ("astronaut", "chelsea", "horse")
"""The photographs with a single object: a person, a cat and a horse."""
ALIKE = ({"horse", "cat", "dog", "cow", "sheep"},)
"""Labels that a detector confuses when an object is small: they count as right."""
MATCH_IOU = 0.5
SIZE = Size(3840, 2160)
Rgb = NDArray[np.uint8]


@dataclass(frozen=True)
class SmallObjects:
    """An image and the truth about it."""

    rgb: Rgb
    boxes: NDArray[np.float32]
    """float32 [N, 4] xyxy, pixels."""
    labels: list[str]


@dataclass(frozen=True)
class Found:
    """What a run found of the objects of an image."""

    objects: int
    found: int
    doubles: int
    """The number of further detections of objects that are found already, with the same label."""
    others: int
    """The number of detections that are of no object."""


def scene(height: int, seed: int = 0, columns: int = 10, rows: int = 6) -> SmallObjects:
    """Return a 4K image with an object at a random position of each cell of a grid; the cells must be larger than the objects.

    Args:
        height: The height of the objects, pixels.
        seed: Selects the objects and positions.
        columns: The columns of the grid.
        rows: The rows of the grid.
    """
    size = SIZE
    chance = np.random.default_rng(seed)
    photos = _photos()
    canvas = cv2.resize(cv2.GaussianBlur(_read("coffee.jpg"), (0, 0), 25), (size.width, size.height))
    boxes, labels = [], []
    for cell in range(columns * rows):
        patch, (x1, y1, x2, y2), label = photos[int(chance.integers(len(photos)))]
        scale = height / (y2 - y1)
        small = cv2.resize(patch, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        high, wide = small.shape[:2]
        room = np.array([size.width / columns - wide, size.height / rows - high])
        left, top = np.round(
            [(cell % columns) * size.width / columns, (cell // columns) * size.height / rows] + room * chance.random(2)
        ).astype(int)
        mask = np.zeros((high, wide, 1), np.float32)
        edge = max(1, min(high, wide) // 16)
        mask[edge:-edge, edge:-edge] = 1
        mask = cv2.GaussianBlur(mask, (0, 0), edge)[..., None]
        place = canvas[top : top + high, left : left + wide]
        place[:] = np.round(place * (1 - mask) + small * mask).astype(np.uint8)
        boxes.append([left + x1 * scale, top + y1 * scale, left + x2 * scale, top + y2 * scale])
        labels.append(label)
    return SmallObjects(np.ascontiguousarray(canvas), np.array(boxes, np.float32), labels)


def score(truth: SmallObjects, detections: Detections) -> Found:
    """Compare detections with the truth: each object is found by one detection of its class at an IoU of at least 0.5."""
    overlap = box_overlap(truth.boxes, detections.boxes)
    alike = np.array([[_alike(label, other) for other in detections.labels] for label in truth.labels], bool)
    matches = (overlap >= MATCH_IOU) & alike.reshape(overlap.shape)
    doubles = sum(len(row) - len({detections.labels[at] for at in row}) for row in map(np.flatnonzero, matches))
    return Found(len(truth.labels), int(matches.any(axis=1).sum()), doubles, int((~matches.any(axis=0)).sum()))


def _alike(label: str, other: str) -> bool:
    return label == other or any(label in group and other in group for group in ALIKE)


def _read(name: str) -> Rgb:
    image = cv2.imread(str(photographs() / name))
    assert image is not None
    return np.asarray(image[..., ::-1], np.uint8)


def _photos() -> list[tuple[Rgb, tuple[float, float, float, float], str]]:
    """Return photographs of single objects with some space around them, the box inside, and the label."""
    truth = json.loads(coco_annotations().read_text(encoding="utf-8"))
    names = {one["id"]: one["file_name"].removesuffix(".jpg") for one in truth["images"]}
    labels = {one["id"]: one["name"] for one in truth["categories"]}
    found = []
    for one in truth["annotations"]:
        name = names[one["image_id"]]
        if name not in OBJECTS:
            continue
        image = _read(f"{name}.jpg")
        x, y, width, height = one["bbox"]
        left, top = max(0, round(x - width / 5)), max(0, round(y - height / 5))
        right, bottom = min(image.shape[1], round(x + width * 1.2)), min(image.shape[0], round(y + height * 1.2))
        box = (x - left, y - top, x + width - left, y + height - top)
        found.append((image[top:bottom, left:right], box, labels[one["category_id"]]))
    return found
