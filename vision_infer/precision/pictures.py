"""The frames on which a cheaper engine differs most from FP32, as pictures: FP32 on the left."""

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
from vision_infer.precision.verification.proof import Proof, open_reference


def write_worst(folder: Path | None, judge: Judge, graph: Path, proof: Proof, overwrite: bool) -> tuple[str, ...]:
    """Draw them.

    Args:
        folder: for the pictures; made where it is missing. None: nothing is drawn.
        judge: FP32 on the frames.
        graph: of the cheaper engine.
        proof: says which frames differ.
        overwrite: whether pictures there may be replaced.

    Returns:
        The paths, the worst first.

    Raises:
        OutputError: a picture exists already, or cannot be written.
    """
    if folder is None or judge.card.task != "detect":
        return ()
    import cv2

    paths = []
    with open_reference(graph) as engine:
        for rank, number in enumerate(proof.agreement.worst):
            layout = judge.frames.letterboxes[number]
            first, second = judge.detections(engine, number)
            row = (IndexedRow(layout.source, first), IndexedRow(layout.source, second))
            name = judge.frames.names[number]
            stream, _, frame = name.rpartition(" ")
            told = (stream, int(frame)) if frame.isdecimal() else (name, number)
            report = FrameReport(*told, *row, compare(first, second, FOUND_IOU))
            pixels = np.asarray(judge.frames.pixels[number])
            content = pixels[layout.y : layout.y + layout.content.height, layout.x : layout.x + layout.content.width]
            size = _shown(layout.source)
            rgb = cv2.resize(content, (size.width, size.height), interpolation=cv2.INTER_LINEAR)
            image = side_by_side(np.asarray(rgb, np.uint8), report, judge.card.labels or _numbers(row))
            path = folder / f"{rank + 1:02}-{re.sub(r'[^a-zA-Z0-9_-]+', '_', name)[:100]}.jpg"
            if path.exists() and not overwrite:
                raise OutputError(f"{path}: exists already", "add --overwrite to replace it")
            encoded, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            try:
                folder.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data.tobytes() if encoded else b"")
            except OSError as error:
                raise OutputError(f"{path}: cannot be written: {error.strerror}", "choose another folder") from error
            paths.append(str(path))
    return tuple(paths)


def _shown(source: Size) -> Size:
    """At most 960 pixels wide: what the network saw was no larger."""
    scale = min(1.0, 960 / source.width)
    return Size(max(1, round(source.width * scale)), max(1, round(source.height * scale)))


def _numbers(rows: tuple[IndexedRow, IndexedRow]) -> tuple[str, ...]:
    most = max((int(row.detections.class_ids.max(initial=0)) for row in rows), default=0)
    return tuple(str(number) for number in range(most + 1))
