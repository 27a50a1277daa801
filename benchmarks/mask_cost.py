"""Measure the selection of detections with masks, next to the same selection without masks (the control), in turn.

300 candidates, of which 20 are kept; 32 prototypes of 160×160 values for an input of 640×640, and a source of 1280×720. The masks
are also written as run lengths, as a row needs them.

    python -m benchmarks.mask_cost [--rounds 200] [--instances 20]
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from benchmarks.machine import describe_machine, source_line
from vision_infer.analyze.select import Selector, select
from vision_infer.core.details.masks import Masks
from vision_infer.core.geometry import Size, letterbox

CANDIDATES, CHANNELS, SIDE = 300, 32, 160
INPUT, SOURCE = Size(640, 640), Size(1280, 720)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--instances", type=int, default=20)
    args = parser.parse_args()
    chance = np.random.default_rng(1)
    corners = chance.uniform((0, 140), (440, 300), (1, CANDIDATES, 2))
    scores = np.where(np.arange(CANDIDATES) < args.instances, 0.9, 0.1)
    plain = {
        "boxes": np.concatenate([corners, corners + chance.uniform(40, 200, corners.shape)], axis=2).astype(np.float32),
        "scores": scores[None].astype(np.float32),
        "class_ids": np.arange(CANDIDATES, dtype=np.int32)[None],
    }
    masked = plain | {
        "coefficients": chance.normal(size=(1, CANDIDATES, CHANNELS)).astype(np.float32),
        "prototypes": chance.normal(size=(1, CHANNELS, 10, 10)).repeat(SIDE // 10, 2).repeat(SIDE // 10, 3).astype(np.float32),
    }
    selector = Selector(confidence=0.35, iou=0.6, label_names=tuple(map(str, range(CANDIDATES))))
    place = [letterbox(SOURCE, INPUT, "center", (0, 0, 0))]
    seen: dict[str, list[float]] = {"boxes alone": [], "boxes and masks": [], "difference": [], "run lengths of all masks": []}
    for _ in range(args.rounds):
        start = time.perf_counter()
        select(plain, place, selector)
        middle = time.perf_counter()
        (found,) = select(masked, place, selector)
        end = time.perf_counter()
        assert len(found) == args.instances
        assert isinstance(found.details, Masks)
        for index in range(len(found)):
            found.details.row(index)
        times = (middle - start, end - middle, (end - middle) - (middle - start), time.perf_counter() - end)
        for values, value in zip(seen.values(), times, strict=True):
            values.append(1e3 * value)
    for name, values in seen.items():
        low, high = np.percentile(values, (5, 95))
        print(f"{name:<26} {statistics.median(values):7.3f} ms ({low:.3f}–{high:.3f})")
    print(source_line(describe_machine()))


if __name__ == "__main__":
    main()
