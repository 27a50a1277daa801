"""Label Studio: ``tasks.json`` with predictions to correct, and ``config.xml``, the labeling interface of the project."""

from __future__ import annotations

from collections.abc import Iterator
from math import cos, degrees, sin
from typing import Any
from xml.sax.saxutils import quoteattr

from vision_infer.sink.datasets.dataset import Dataset, Found, Row, json_list, keypoints, polygons

IMAGES = "images"


def write(dataset: Dataset) -> None:
    """Write the tasks. Label Studio finds the images in its folder of local files, of which this dataset is a subfolder."""
    dataset.write("tasks.json", json_list(_task(row, dataset) for row in dataset.rows()))
    labels = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in dataset.names)
    controls = [("RectangleLabels", "label"), ("PolygonLabels", "polygon")]
    controls += [("KeyPointLabels", "point")] if dataset.layout is not None else []
    points = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in dataset.layout.names) if dataset.layout else ""
    tags = (
        f'  <{tag} name="{name}" toName="image">\n{points if name == "point" else labels}  </{tag}>\n' for tag, name in controls
    )
    dataset.write("config.xml", ['<View>\n  <Image name="image" value="$image"/>\n', *tags, "</View>\n"])


def _task(row: Row, dataset: Dataset) -> dict[str, Any]:
    folder = dataset.folder.name.removeprefix(".").removesuffix(".partial")
    results = [
        {"id": f"{number}-{kind}", "type": kind, "to_name": "image", "score": found["score"], "value": value}
        | {"from_name": name, "original_width": row["width"], "original_height": row["height"], "image_rotation": 0}
        for number, found in enumerate(row["detections"])
        for kind, name, value in _values(found, row, dataset)
    ]
    score = min((found["score"] for found in row["detections"]), default=0.0)
    prediction = {"model_version": row["model"], "score": score, "result": results}
    return {
        "data": {"image": f"/data/local-files/?d={folder}/{IMAGES}/{row['image']}"},
        "predictions": [prediction],
        "meta": {"stream": row["stream"], "frame": row["frame"], "pts_s": row["pts_s"]},
    }


def _values(found: Found, row: Row, dataset: Dataset) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the type, the name of the control and the value of each region; coordinates are percentages of the image."""
    across, down, label = 100 / row["width"], 100 / row["height"], [found["label"]]
    shapes = polygons(found) if "mask" in found else []
    for shape in shapes:
        yield "polygonlabels", "polygon", {"points": (shape * [across, down]).round(4).tolist(), "polygonlabels": label}
    if shapes:
        return
    x, y, x2, y2 = found["box"]
    width, height, angle = x2 - x, y2 - y, 0.0
    if "box_rotated" in found:  # it turns around its first corner
        center_x, center_y, width, height, angle = found["box_rotated"]
        x = center_x - (width * cos(angle) - height * sin(angle)) / 2
        y = center_y - (width * sin(angle) + height * cos(angle)) / 2
    box = {"x": x * across, "y": y * down, "width": width * across, "height": height * down, "rotation": degrees(angle) % 360}
    yield "rectanglelabels", "label", {name: round(value, 4) for name, value in box.items()} | {"rectanglelabels": label}
    for number, (x, y, visible) in enumerate(keypoints(found, row) if "keypoints" in found else ()):
        if visible:
            names = dataset.layout.names if dataset.layout is not None else label
            value = {"x": round(x * across, 4), "y": round(y * down, 4), "width": 0.5, "keypointlabels": [names[number]]}
            yield "keypointlabels", "point", value
