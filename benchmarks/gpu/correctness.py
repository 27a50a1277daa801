"""Each engine against ONNX Runtime's FP32: what it finds again on the same pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.gpu.engines import Contender
from vision_infer.engine.engine import Engine
from vision_infer.precision.frames import FrameSet
from vision_infer.precision.verification.agreement import Judge

LEAST = {"fp32": (99.0, 0.99), "fp16": (97.0, 0.97), "int8": (80.0, 0.8)}
"""by precision: per cent of FP32's detections that have to be found again, and their mean overlap"""


def compare(reference: Engine, frames: FrameSet, contenders: Sequence[Contender]) -> list[dict[str, Any]]:
    """A row for each engine."""
    judge = Judge(reference, frames)
    rows = []
    for one in contenders:
        with one.open(1, True) as engine:
            found = judge.compare(engine)
        precision = one.name.rpartition("-")[2]
        again, overlap = found.figures["found_again"], found.figures["mean_iou"]
        least = LEAST[precision]
        rows.append({"engine": one.name, **found.to_dict(), "as_it_should_be": bool(again >= least[0] and overlap >= least[1])})
    return rows
