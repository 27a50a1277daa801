"""Images of the frames on which an engine differs most from FP32, with FP32 on the left."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from vision_infer.compare.detections import compare
from vision_infer.compare.diff_images import side_by_side
from vision_infer.compare.row_index import IndexedRow
from vision_infer.compare.runs import FrameReport
from vision_infer.core.errors import OutputError
from vision_infer.core.geometry import Size
from vision_infer.precision.verification.agreement import Judge
from vision_infer.precision.verification.drift import FOUND_IOU
from vision_infer.precision.verification.engine_check import EngineVerification, open_reference


def write_worst(folder: Path | None, judge: Judge, graph: Path, verified: EngineVerification, overwrite: bool) -> tuple[str, ...]:
    """Write the images.

    Args:
        folder: The folder of the images, which is created; None: nothing is written.
        judge: The results of FP32 on the frames.
        graph: The graph of the engine.
        verified: The verification with the numbers of the frames.
        overwrite: Whether to replace existing images.

    Returns:
        The paths, the worst first.

    Raises:
        OutputError: An image exists, or cannot be written.
    """
    if folder is None or judge.card.task != "detect":
        return ()
    from vision_infer.core.opencv import cv2

    paths = []
    with open_reference(graph) as engine:
        for rank, number in enumerate(verified.agreement.worst):
            layout = judge.frames.letterboxes[number]
            first, second = judge.detections(engine, number)
            row = (IndexedRow(layout.source, first), IndexedRow(layout.source, second))
            name = judge.frames.names[number]
            stream, _, frame = name.rpartition(" ")
            source = (stream, int(frame)) if frame.isdecimal() else (name, number)
            report = FrameReport(*source, *row, compare(first, second, FOUND_IOU))
            pixels = np.asarray(judge.frames.pixels[number])
            content = pixels[layout.y : layout.y + layout.content.height, layout.x : layout.x + layout.content.width]
            size = _shown(layout.source)
            rgb = cv2.resize(content, (size.width, size.height), interpolation=cv2.INTER_LINEAR)
            image = side_by_side(np.asarray(rgb, np.uint8), report, judge.card.labels or _numbers(row))
            path = folder / f"{rank + 1:02}-{re.sub(r'[^a-zA-Z0-9_-]+', '_', name)[:100]}.jpg"
            if path.exists() and not overwrite:
                raise OutputError(f"{path}: already exists", "Add --overwrite to replace it.")
            encoded, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            try:
                folder.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data.tobytes() if encoded else b"")
            except OSError as error:
                raise OutputError(f"{path}: cannot be written: {error.strerror}", "Choose another folder.") from error
            paths.append(str(path))
    return tuple(paths)


def _shown(source: Size) -> Size:
    """Return a size of at most 960 pixels in width, because the model's input is not larger."""
    scale = min(1.0, 960 / source.width)
    return Size(max(1, round(source.width * scale)), max(1, round(source.height * scale)))


def _numbers(rows: tuple[IndexedRow, IndexedRow]) -> tuple[str, ...]:
    most = max((int(row.detections.class_ids.max(initial=0)) for row in rows), default=0)
    return tuple(str(number) for number in range(most + 1))
