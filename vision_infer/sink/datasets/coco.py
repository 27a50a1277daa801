"""COCO with images: ``annotations/instances_train.json`` next to ``images/train``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from vision_infer.sink.datasets.dataset import Dataset, Found, Row, corners, json_list, keypoints
from vision_infer.sink.files.coco import category_id

IMAGES = "images/train"


def write(dataset: Dataset) -> None:
    """Write the labels. Category numbers are those of the format ``json``."""
    categories = []
    for class_id, name in enumerate(dataset.names):
        entry: dict[str, Any] = {"id": category_id(class_id, dataset.names), "name": name, "supercategory": ""}
        if dataset.layout is not None:  # COCO counts keypoints from 1
            lines = [[start + 1, end + 1] for start, end in dataset.layout.skeleton]
            entry |= {"keypoints": dataset.layout.names, "skeleton": lines}
        categories.append(entry)
    dataset.write("annotations/instances_train.json", _text(dataset, categories))


def _text(dataset: Dataset, categories: list[dict[str, Any]]) -> Iterator[str]:
    yield f'{{"categories": {json.dumps(categories, ensure_ascii=False)},\n"images": '
    yield from json_list(
        {"id": number, "file_name": row["image"], "width": row["width"], "height": row["height"]}
        for number, row in enumerate(dataset.rows(), 1)
    )
    yield ',\n"annotations": '
    pairs = ((image, row, found) for image, row in enumerate(dataset.rows(), 1) for found in row["detections"])
    yield from json_list(
        {"id": number, "image_id": image, "category_id": category_id(found["class_id"], dataset.names)} | _annotation(found, row)
        for number, (image, row, found) in enumerate(pairs, 1)
    )
    yield "}\n"


def _annotation(found: Found, row: Row) -> dict[str, Any]:
    x1, y1, x2, y2 = found["box"]
    values: dict[str, Any] = {"bbox": [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)], "iscrowd": 0}
    values |= {"area": round((x2 - x1) * (y2 - y1), 2), "score": found["score"], "segmentation": []}
    if "mask" in found:
        values["segmentation"] = found["mask"]
    elif "box_rotated" in found:
        values["segmentation"] = [[round(value, 2) for value in corners(found).ravel().tolist()]]
    elif "keypoints" in found:
        points = [(x, y, 2) if visible else (0, 0, 0) for x, y, visible in keypoints(found, row)]
        values |= {"keypoints": [value for point in points for value in point], "num_keypoints": sum(v > 0 for *_, v in points)}
    return values
