"""Datumaro: ``annotations/train.json`` next to ``images/train``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vision_infer.sink.datasets.dataset import Dataset, Found, Row, corners, json_list, keypoints

IMAGES = "images/train"


def write(dataset: Dataset) -> None:
    """Write the labels."""
    dataset.write("annotations/train.json", _text(dataset))


def _text(dataset: Dataset) -> Iterator[str]:
    labels = [{"name": name, "parent": "", "attributes": []} for name in dataset.names]
    categories: dict[str, Any] = {"label": {"labels": labels, "attributes": []}}
    if dataset.layout is not None:
        names, lines = dataset.layout.names, dataset.layout.skeleton
        items = [{"label_id": class_id, "labels": names, "joints": lines} for class_id in range(len(labels))]
        categories["points"] = {"items": items}
    yield f'{{"infos": {{}}, "categories": {json.dumps(categories, ensure_ascii=False)},\n"items": '
    yield from json_list(_item(row) for row in dataset.rows())
    yield "}\n"


def _item(row: Row) -> dict[str, Any]:
    shapes = [(number, shape) for number, found in enumerate(row["detections"], 1) for shape in _shapes(found, row)]
    annotations = [
        {"id": at, "group": number, "label_id": row["detections"][number - 1]["class_id"], "z_order": 0}
        | {"attributes": {"score": row["detections"][number - 1]["score"]}}
        | shape
        for at, (number, shape) in enumerate(shapes)
    ]
    attributes = {"stream": row["stream"], "frame": row["frame"]}
    image = {"path": row["image"], "size": [row["height"], row["width"]]}
    return {"id": Path(row["image"]).stem, "annotations": annotations, "attr": attributes, "image": image}


def _shapes(found: Found, row: Row) -> Iterator[dict[str, Any]]:
    x1, y1, x2, y2 = found["box"]
    if "mask" in found:
        yield {"type": "mask", "rle": found["mask"]}
    elif "box_rotated" in found:
        yield {"type": "polygon", "points": [round(value, 2) for value in corners(found).ravel().tolist()]}
    else:
        yield {"type": "bbox", "bbox": [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)]}
    if "keypoints" in found:
        points = list(keypoints(found, row))
        shown = [2 if visible else 0 for *_, visible in points]
        yield {"type": "points", "points": [round(value, 2) for x, y, _ in points for value in (x, y)], "visibility": shown}
