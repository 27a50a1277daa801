"""FiftyOne: ``FiftyOneImageDetectionDataset``, images in ``data`` and ``labels.json``, with boxes only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vision_infer.sink.datasets.dataset import Dataset, Row

IMAGES = "data"


def write(dataset: Dataset) -> None:
    """Write the labels."""
    dataset.write("labels.json", _text(dataset))


def _text(dataset: Dataset) -> Iterator[str]:
    yield f'{{"classes": {json.dumps(dataset.names, ensure_ascii=False)},\n"labels": {{'
    separator = "\n"
    for row in dataset.rows():
        yield f"{separator}{json.dumps(Path(row['image']).stem)}: {json.dumps(_labels(row))}"
        separator = ",\n"
    yield "\n}}\n"


def _labels(row: Row) -> list[dict[str, Any]]:
    labels = []
    for found in row["detections"]:
        x1, y1, x2, y2 = found["box"]
        box = [x1 / row["width"], y1 / row["height"], (x2 - x1) / row["width"], (y2 - y1) / row["height"]]
        labels.append({"label": found["class_id"], "bounding_box": [round(one, 6) for one in box], "confidence": found["score"]})
    return labels
