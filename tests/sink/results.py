"""Frames and results as sinks receive them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.support.media import numbered
from vision_infer.core.description import ClassScore, Description
from vision_infer.core.detections import Detections
from vision_infer.core.frame import Frame
from vision_infer.core.result import Result
from vision_infer.core.trace import Latency, Trace
from vision_infer.stream.find import open_source
from vision_infer.stream.image import ArrayImage
from vision_infer.stream.source import SourceSpec, StreamInfo

LABELS = ("person", 'a "quoted" label', "überholt")


def found(count: int = 1, box: tuple[float, float, float, float] = (10, 10, 60, 50)) -> Detections:
    return Detections(
        np.tile(np.array(box, np.float32), (count, 1)),
        np.full(count, 0.75, np.float32),
        np.arange(count, dtype=np.int32) % len(LABELS),
        LABELS,
    )


def classified(label: str = "red", score: float = 0.8) -> Description:
    return Description(classes=(ClassScore(len(label), label, score), ClassScore(0, "other", 0.1)))


def embedded(first: float, size: int = 3) -> Description:
    return Description(embedding=np.array([first, *[0.5] * (size - 1)], np.float32))


def secondary(*descriptions: Description | None) -> Detections:
    """Return detections, each with the description of a secondary model."""
    return replace(found(len(descriptions)), descriptions=descriptions)


def frame(
    index: int = 0,
    pts_s: float | None = 0.0,
    rgb: NDArray[np.uint8] | None = None,
    stream: str = "clip",
    file: str | None = None,
) -> Frame:
    image = ArrayImage(numbered(index, 96, 64) if rgb is None else rgb)
    return Frame(stream, index, pts_s, image, Trace(), file)


def whole(one: Frame, description: Description) -> Result:
    """Return the result of a model for classification or embeddings."""
    return replace(result_of(one, Detections.empty()), description=description)


def result_of(one: Frame, detections: Detections | None = None) -> Result:
    latency = Latency(1_000_000, 2_000_000, 3_000_000, 4_000_000, 5_000_000, 15_000_000)
    given = found(2) if detections is None else detections
    return Result(one.stream, one.index, one.pts_s, one.image.size, "tiny", "null-cpu-none", given, latency, one.file)


def frames_of(path: Path) -> tuple[StreamInfo, Iterator[Frame]]:
    """Yield the info of a clip and its frames; the clip stays open until the last one."""
    source = open_source(SourceSpec("clip", "video", (str(path),)))

    def frames() -> Iterator[Frame]:
        with source:
            yield from source.frames()

    return source.info, frames()
