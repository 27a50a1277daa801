"""YOLO: a text file for each image, with coordinates relative to its size; ``data.yaml`` names the classes.

Lines are boxes, or with details of the model polygons (segment), corners (OBB) or keypoints (pose), as Ultralytics reads them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from vision_infer.sink.datasets.dataset import Dataset, Found, Row, corners, keypoints, polygons

IMAGES = "images/train"


def write(dataset: Dataset) -> None:
    """Write the labels. ``val`` is ``train`` until the user splits the images."""
    (dataset.folder / "labels/train").mkdir(parents=True)
    for row in dataset.rows():
        dataset.write(f"labels/train/{Path(row['image']).stem}.txt", (_line(found, row) for found in row["detections"]))
    about: dict[str, Any] = {"train": IMAGES, "val": IMAGES, "names": dict(enumerate(dataset.names))}
    if dataset.layout is not None:
        about["kpt_shape"] = [len(dataset.layout.names), 3]
    dataset.write("data.yaml", [yaml.safe_dump(about, allow_unicode=True, sort_keys=False)])


def _line(found: Found, row: Row) -> str:
    width, height = row["width"], row["height"]
    x1, y1, x2, y2 = found["box"]
    shapes = polygons(found)[:1] if "mask" in found else [corners(found)] if "box_rotated" in found else []
    if shapes:
        return _joined(found, (min(max(value, 0.0), 1.0) for x, y in shapes[0].tolist() for value in (x / width, y / height)))
    values = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
    for x, y, visible in keypoints(found, row) if "keypoints" in found else ():
        values += [x / width, y / height, 2] if visible else [0, 0, 0]
    return _joined(found, values)


def _joined(found: Found, values: Iterable[float]) -> str:
    return f"{found['class_id']} {' '.join(f'{value:.6g}' for value in values)}\n"
