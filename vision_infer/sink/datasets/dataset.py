"""What a writer of labels gets: the images of a dataset, and the rows of what was found on them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.card import KeypointLayout
from vision_infer.core.details import Masks, RotatedBoxes
from vision_infer.core.details.keypoints import VISIBLE_SCORE

Row = dict[str, Any]
"""A result row with the file name of its ``image``; its boxes are inside the image and not empty."""
Found = dict[str, Any]
"""A detection of a row."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """The images of a dataset, and what was found on them."""

    folder: Path
    images: Path
    row_file: Path
    names: tuple[str, ...]
    """The labels by class number: all labels of the model."""
    layout: KeypointLayout | None
    """The names of keypoints; None if the model has none."""

    def rows(self) -> Iterator[Row]:
        """Yield the row of each image, read from the disk."""
        with self.row_file.open(encoding="utf-8") as file:
            for line in file:
                if not line.endswith("\n"):  # the disk was full
                    return
                row: Row = json.loads(line)
                if (self.images / row["image"]).exists():  # otherwise a better sample has replaced it
                    row["detections"] = [found for found in row["detections"] if _inside(found, row["width"], row["height"])]
                    yield row

    def write(self, name: str, parts: Iterable[str]) -> None:
        """Write a file of labels: its path in the folder, and its text in parts."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            file.writelines(parts)


def _inside(found: Found, width: int, height: int) -> bool:
    """Cut the box off at the edges of the image, and return whether it is not empty."""
    x1, y1, x2, y2 = found["box"]
    x1, y1, x2, y2 = found["box"] = [max(0.0, x1), max(0.0, y1), min(float(width), x2), min(float(height), y2)]
    return bool(x2 > x1 and y2 > y1)


def json_list(items: Iterable[Any]) -> Iterator[str]:
    """Yield the text of a JSON list, one line for each item."""
    separator = "[\n"
    for item in items:
        yield separator + json.dumps(item, ensure_ascii=False)
        separator = ",\n"
    yield "[]" if separator == "[\n" else "\n]"


def corners(found: Found) -> NDArray[np.float64]:
    """Return the corners of a rotated box, [4, 2], pixels."""
    around: NDArray[np.float64] = RotatedBoxes(np.array([found["box_rotated"]], np.float32)).corners()[0]
    return around


def polygons(found: Found) -> list[NDArray[np.float64]]:
    """Return the outer contours of a mask, largest first, [N, 2] each, pixels. A contour deviates by at most half a pixel."""
    from vision_infer.core.opencv import cv2

    left, top, inside = Masks.from_rows([found["mask"]]).patch(0)
    # The corners of the pixels inside, so that contours follow the edges of pixels and not their centers.
    padded = np.pad(inside, 1)
    edges = (padded[1:, 1:] | padded[1:, :-1] | padded[:-1, 1:] | padded[:-1, :-1]).astype(np.uint8)
    contours, _ = cv2.findContours(edges, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    shapes = [cv2.approxPolyDP(contour, 0.5, True)[:, 0] for contour in sorted(contours, key=cv2.contourArea, reverse=True)]
    return [shape.astype(np.float64) + np.array([left, top], np.float64) for shape in shapes if len(shape) > 2]


def keypoints(found: Found, row: Row) -> Iterator[tuple[float, float, bool]]:
    """Yield x and y of each keypoint, pixels, and whether it is visible: in the image, with a score of 0.3 or more."""
    for x, y, score in found["keypoints"]:
        yield x, y, score >= VISIBLE_SCORE and 0 <= x <= row["width"] and 0 <= y <= row["height"]
