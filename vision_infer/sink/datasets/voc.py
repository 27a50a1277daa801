"""Pascal VOC: an XML file for each image, with boxes only. Pixels are counted from 1, and the last one is part of the box."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

from vision_infer.sink.datasets.dataset import Dataset, Found, Row

IMAGES = "JPEGImages"


def write(dataset: Dataset) -> None:
    """Write the labels, the list of images, and ``labelmap.txt``, which CVAT and Datumaro read."""
    (dataset.folder / "Annotations").mkdir()
    for row in dataset.rows():
        dataset.write(f"Annotations/{Path(row['image']).stem}.xml", _annotation(row))
    dataset.write("ImageSets/Main/train.txt", (f"{Path(row['image']).stem}\n" for row in dataset.rows()))
    labels = (f"{name.replace(':', ' ')}:::\n" for name in ("background", *dataset.names))
    dataset.write("labelmap.txt", ["# label:color_rgb:parts:actions\n", *labels])


def _annotation(row: Row) -> list[str]:
    size = f"<size><width>{row['width']}</width><height>{row['height']}</height><depth>3</depth></size>"
    head = f"<annotation>\n<folder>{IMAGES}</folder><filename>{escape(row['image'])}</filename>\n{size}<segmented>0</segmented>\n"
    return [head, *(_object(found) for found in row["detections"]), "</annotation>\n"]


def _object(found: Found) -> str:
    x1, y1, x2, y2 = (round(value) for value in found["box"])
    box = f"<xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{max(x2, x1 + 1)}</xmax><ymax>{max(y2, y1 + 1)}</ymax>"
    flags = "<pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>"
    return f"<object><name>{escape(found['label'].replace(':', ' '))}</name>{flags}<bndbox>{box}</bndbox></object>\n"
