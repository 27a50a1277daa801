"""Pictures of the frames in which two runs differ most: A on the left, B on the right."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vision_infer.analyze.draw import Drawer
from vision_infer.compare.row_index import Row
from vision_infer.compare.runs import DiffReport, FrameReport
from vision_infer.core.detections import Detections
from vision_infer.core.errors import OutputError, StreamError, UsageError
from vision_infer.core.geometry import Size
from vision_infer.engine.device import available_cpus
from vision_infer.sink.files.output_file import OutputFile, check_output
from vision_infer.stream.find import find_sources, open_source
from vision_infer.stream.source import SourceSpec

_GAP = 4
"""between the two halves, pixels"""
_WHITE = (255, 255, 255)


class DiffImages:
    """Draws frames of a report. Making it checks what can be checked before the work.

    Args:
        folder: for the pictures; made where it is missing.
        videos: the sources of the runs: files, pictures or folders.
        overwrite: whether pictures there may be replaced.

    Raises:
        UsageError: there is nothing to read.
        OutputError: the folder cannot be written.
    """

    def __init__(self, folder: Path, videos: Sequence[str], overwrite: bool) -> None:
        self._folder = folder
        self._overwrite = overwrite
        found = find_sources(videos)
        if found.errors:
            raise UsageError(found.errors[0].message, found.errors[0].hint)
        self._sources = {spec.name: spec for spec in found.specs}
        check_output(folder / "picture.jpg", overwrite=True)  # whether there can be files in it

    def write(self, report: DiffReport) -> list[str]:
        """Draw the frames that differ most.

        Returns:
            The paths of the pictures, the worst frame first; shorter where a source holds no such frame.

        Raises:
            UsageError: no source has the name of a stream that is wanted, or one cannot be read.
            OutputError: a picture exists already, or cannot be written.
        """
        wanted: dict[str, dict[int, int]] = {}
        for rank, frame in enumerate(report.most_different):
            wanted.setdefault(frame.stream, {})[frame.frame] = rank
        pairs = [(self._source_of(stream, report), ranks) for stream, ranks in wanted.items()]
        paths: dict[int, str] = {}
        for source, ranks in pairs:
            try:
                self._draw(source, ranks, report, paths)
            except StreamError as error:
                raise UsageError(error.message, error.hint) from error
        return [paths[rank] for rank in sorted(paths)]

    def _source_of(self, stream: str, report: DiffReport) -> SourceSpec:
        if len(self._sources) == 1 and len(report.streams) == 1:
            return next(iter(self._sources.values()))
        if stream not in self._sources:
            names = ", ".join(list(self._sources)[:3])
            raise UsageError(f"--video: none is stream {stream!r}, only {names}", "give the sources of the runs")
        return self._sources[stream]

    def _draw(self, spec: SourceSpec, ranks: dict[int, int], report: DiffReport, paths: dict[int, str]) -> None:
        left = set(ranks)
        with open_source(spec, available_cpus()) as source:
            for frame in source.frames():
                if frame.index in left:
                    rank = ranks[frame.index]
                    image = side_by_side(frame.image.to_rgb(), report.most_different[rank], report.labels.names)
                    paths[rank] = self._write(image, rank, report.most_different[rank])
                    left.discard(frame.index)
                if not left:
                    return

    def _write(self, rgb: NDArray[np.uint8], rank: int, frame: FrameReport) -> str:
        name = re.sub(r"[^\w-]+", "_", frame.stream)[:100]  # it comes from a file: it must not lead out of the folder
        path = self._folder / f"{rank + 1:02}-{name}-{frame.frame:06}.jpg"
        encoded, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
        if not encoded:
            raise OutputError(f"{path}: cannot be encoded as JPEG", f"it is {rgb.shape[1]}x{rgb.shape[0]}")
        output = OutputFile(str(path), self._overwrite)
        try:
            output.partial.write_bytes(data.tobytes())
        except OSError as error:
            output.discard()
            raise OutputError(f"{path}: cannot be written: {error.strerror or error}", "choose another folder") from error
        output.commit()
        return str(path)


def side_by_side(rgb: NDArray[np.uint8], frame: FrameReport, label_names: tuple[str, ...]) -> NDArray[np.uint8]:
    """A's detections on the left, B's on the right: in colour what the other lacks, in grey what both have.

    Args:
        rgb: the picture, uint8 [H, W, 3] RGB.
        frame: what differs in it.
        label_names: labels by class number.

    Returns:
        uint8 [H + caption, 2 W + gap, 3] RGB.
    """
    difference = frame.difference
    caption = f"{frame.stream}, frame {frame.frame}: {len(difference.pairs)} in both"
    if len(difference.pairs):
        caption += f", scores differ by {np.abs(difference.score_changes).max():.2f} at most"
    halves = []
    for side, row, single in (("A", frame.a, difference.only_a), ("B", frame.b, difference.only_b)):
        canvas = _mark(rgb.copy(), row, single, label_names)
        halves.append(_titled(canvas, f"{side} ({len(single)} only here)  {caption if side == 'A' else ''}"))
    gap = np.full((halves[0].shape[0], _GAP, 3), 255, np.uint8)
    return np.concatenate((halves[0], gap, halves[1]), axis=1)


def _mark(rgb: NDArray[np.uint8], row: Row, single: NDArray[np.intp], label_names: tuple[str, ...]) -> NDArray[np.uint8]:
    size = Size(rgb.shape[1], rgb.shape[0])
    scale = np.array([size.width / row.size.width, size.height / row.size.height] * 2, np.float32)
    found = row.detections
    alone = np.zeros(len(found), np.bool_)
    alone[single] = True
    draw = Drawer()
    # The grey of what has no track stands for what both have.
    both = found[~alone]
    nothing = np.zeros(len(both), np.int32)
    draw(rgb, Detections(both.boxes * scale, both.scores, both.class_ids, label_names, nothing))
    ours = found[alone]
    return draw(rgb, Detections(ours.boxes * scale, ours.scores, ours.class_ids, label_names))


def _titled(rgb: NDArray[np.uint8], text: str) -> NDArray[np.uint8]:
    """The picture below a line of text, whose letters shrink until it fits."""
    font, thickness = cv2.FONT_HERSHEY_SIMPLEX, 1
    scale = max(0.4, min(1.0, rgb.shape[0] / 900))
    (width, height), below = cv2.getTextSize(text, font, scale, thickness)
    scale *= min(1.0, (rgb.shape[1] - 12) / width)
    strip = np.zeros((height + below + 12, rgb.shape[1], 3), np.uint8)
    cv2.putText(strip, text, (6, height + 6), font, scale, _WHITE, thickness, cv2.LINE_AA)
    return np.concatenate((strip, rgb), axis=0)
