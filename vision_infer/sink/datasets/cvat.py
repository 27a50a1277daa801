"""CVAT for images 1.1: ``annotations.xml`` next to ``images``. Masks are polygons, keypoints are points."""

from __future__ import annotations

from collections.abc import Iterator
from math import degrees
from xml.sax.saxutils import escape, quoteattr

from vision_infer.sink.datasets.dataset import Dataset, Found, Row, keypoints, polygons

IMAGES = "images"


def write(dataset: Dataset) -> None:
    """Write the labels."""
    dataset.write("annotations.xml", _text(dataset))


def _text(dataset: Dataset) -> Iterator[str]:
    labels = "".join(f"<label><name>{escape(name)}</name><attributes></attributes></label>\n" for name in dataset.names)
    task = f"<task><name>{escape(dataset.folder.name)}</name><mode>annotation</mode><labels>\n{labels}</labels></task>"
    yield f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n<meta>{task}</meta>\n'
    for number, row in enumerate(dataset.rows()):
        name = quoteattr(row["image"])
        yield f'<image id="{number}" name={name} width="{row["width"]}" height="{row["height"]}">\n'
        for found in row["detections"]:
            yield from _shapes(found, row)
        yield "</image>\n"
    yield "</annotations>\n"


def _shapes(found: Found, row: Row) -> Iterator[str]:
    common = f'label={quoteattr(found["label"])} source="auto" occluded="0" z_order="0"'
    shapes = [shape.tolist() for shape in polygons(found)] if "mask" in found else []
    if shapes:
        yield from (f'<polygon {common} points="{_points(shape)}"></polygon>\n' for shape in shapes)
        return
    x1, y1, x2, y2 = found["box"]
    if "box_rotated" in found:
        x, y, width, height, angle = found["box_rotated"]
        x1, y1, x2, y2 = x - width / 2, y - height / 2, x + width / 2, y + height / 2
        common += f' rotation="{degrees(angle) % 360:.2f}"'
    yield f'<box {common} xtl="{x1:.2f}" ytl="{y1:.2f}" xbr="{x2:.2f}" ybr="{y2:.2f}"></box>\n'
    points = [[x, y] for x, y, visible in keypoints(found, row) if visible] if "keypoints" in found else []
    if points:
        yield f'<points {common} points="{_points(points)}"></points>\n'


def _points(shape: list[list[float]]) -> str:
    return ";".join(f"{x:.2f},{y:.2f}" for x, y in shape)
