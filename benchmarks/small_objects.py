"""Measure what tiles find in 4K images with small objects of known truth, and what they cost.

Photographs of a person, a cat and a horse are shrunk and pasted at random positions of 3840×2160 images; see
``tests/support/small_objects.py``. An object is found if a detection of its class (four-legged animals count as one) has an IoU
of at least 0.5 with it. A double is another detection of it with the same label.

The second table compares a region with and without ``crop_region``: in these images, where objects are small, and in the clip
``bikes.mp4``, where they are as large as the region. Lost are the detections without it that are missing with it.

    python -m benchmarks.small_objects
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import av
import numpy as np

from benchmarks.inputs import bikes
from benchmarks.machine import describe_machine, source_line
from tests.support.small_objects import MATCH_IOU, SIZE, SmallObjects, scene, score
from vision_infer import Detector
from vision_infer.analyze.matching import box_overlap
from vision_infer.analyze.tiling import Tiling
from vision_infer.config.stream_policy import TileSettings
from vision_infer.core.detections import Detections
from vision_infer.core.geometry import Size

TILES: dict[str, int | str | None] = {"none": None, "2x3": "2x3", "1280": 1280, "960": 960, "640": 640, "640,whole": "640,whole"}
HEIGHTS = (48, 64, 96, 150)
SCENES = 4


def _count(tiles: int | str | None) -> int:
    return 1 if tiles is None else len(Tiling(TileSettings.model_validate(tiles), None).of(Size(3840, 2160)))


def main() -> None:
    """Print the table of the documentation."""
    truth = {height: [scene(height, seed) for seed in range(SCENES)] for height in HEIGHTS}
    print(f"| Tiles | Tiles per frame | {' | '.join(f'{height} px' for height in HEIGHTS)} | Doubles | ms per frame |")
    print("| --- " * (len(HEIGHTS) + 4) + "|")
    for name, tiles in TILES.items():
        with Detector(device="cpu", tiles=tiles) as detector:
            detector(truth[HEIGHTS[0]][0].rgb)
            recalls, doubles, begin = [], 0, time.perf_counter()
            for images in truth.values():
                found = [score(image, detector(image.rgb)) for image in images]
                recalls.append(sum(one.found for one in found) / sum(one.objects for one in found))
                doubles += sum(one.doubles for one in found)
            spent_ms = (time.perf_counter() - begin) / SCENES / len(HEIGHTS) * 1000
            cells = " | ".join(f"{recall:.0%}" for recall in recalls)
            print(f"| {name} | {_count(tiles)} | {cells} | {doubles} | {spent_ms:.0f} |", flush=True)
    regions(truth)
    print(source_line(describe_machine()))


REGION = (0.4, 0.3, 0.6, 0.7)


def regions(truth: dict[int, list[SmallObjects]]) -> None:
    """Print what is found in a region with and without the crop."""
    x1, y1, x2, y2 = REGION
    with av.open(str(bikes())) as container:
        clip = [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in container.decode(video=0)][::12]
    print("\n| Images | Found | Found with the crop |\n| --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "region.yaml"
        file.write_text(f"units: relative\nlook: [[[{x1}, {y1}], [{x2}, {y1}], [{x2}, {y2}], [{x1}, {y2}]]]\n")
        detectors = [Detector(device="cpu", region=file, crop_region=crop) for crop in (False, True)]
        for height, images in truth.items():
            inside = [_in_region(image) for image in images]
            found = [sum(score(one, detector(one.rgb)).found for one in inside) for detector in detectors]
            of = sum(len(one.labels) for one in inside)
            print(f"| objects of {height} px | {found[0]} of {of} | {found[1]} of {of} |", flush=True)
        before, after = (detector(clip) for detector in detectors)
        lost = sum(_missing(*pair) for pair in zip(before, after, strict=True))
        count = sum(map(len, before))
        print(f"| bikes.mp4 | {count} | {count - lost} of these, and {sum(map(len, after)) - count + lost} others |", flush=True)


def _in_region(image: SmallObjects) -> SmallObjects:
    x = (image.boxes[:, 0] + image.boxes[:, 2]) / 2 / SIZE.width
    y = image.boxes[:, 3] / SIZE.height
    inside = np.flatnonzero((x > REGION[0]) & (x < REGION[2]) & (y > REGION[1]) & (y < REGION[3]))
    return SmallObjects(image.rgb, image.boxes[inside], [image.labels[at] for at in inside])


def _missing(before: Detections, after: Detections) -> int:
    same = (box_overlap(before.boxes, after.boxes) >= MATCH_IOU) & (before.class_ids[:, None] == after.class_ids)
    return int((~same.any(axis=1)).sum())


if __name__ == "__main__":
    main()
