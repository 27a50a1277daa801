"""Compare each engine with FP32 on ONNX Runtime on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.gpu.engines import Contender
from vision_infer.engine.engine import Engine
from vision_infer.precision.frames import FrameSet
from vision_infer.precision.verification.agreement import Judge

MIN_AGREEMENT = {"fp32": (99.0, 0.99), "fp16": (97.0, 0.97), "int8": (80.0, 0.8)}
"""By precision: the minimum percentage of FP32's detections that the engine finds again, and their minimum mean IoU."""


def compare(reference: Engine, frames: FrameSet, contenders: Sequence[Contender]) -> list[dict[str, Any]]:
    """Return a row for each engine."""
    judge = Judge(reference, frames)
    rows = []
    for contender in contenders:
        with contender.open(1, True) as engine:
            found = judge.compare(engine)
        min_percent, min_iou = MIN_AGREEMENT[contender.name.rpartition("-")[2]]
        good = found.figures["found_again"] >= min_percent and found.figures["mean_iou"] >= min_iou
        rows.append({"engine": contender.name, **found.to_dict(), "as_it_should_be": bool(good)})
    return rows
