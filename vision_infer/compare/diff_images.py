"""Images of the frames in which two runs differ most: A on the left, B on the right."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vision_infer.analyze.draw import Drawer
from vision_infer.compare.row_index import IndexedRow
from vision_infer.compare.runs import DiffReport, FrameReport
from vision_infer.core.errors import OutputError, StreamError, UsageError
from vision_infer.core.geometry import Size
from vision_infer.core.opencv import cv2
from vision_infer.engine.device import available_cpus
from vision_infer.sink.files.output_file import OutputFile, check_output
from vision_infer.stream.find import find_sources, open_source
from vision_infer.stream.source import SourceSpec

_GAP = 4
"""The gap between the two halves, pixels."""
_WHITE = (255, 255, 255)


class DiffImages:
    """Draws frames of a report into a folder. The constructor checks the sources and the folder before any work is done.

    Raises:
        UsageError: There is nothing to read.
        OutputError: The folder cannot be written.
    """

    def __init__(self, folder: Path, videos: Sequence[str], overwrite: bool) -> None:
        self._folder = folder
        self._overwrite = overwrite
        found = find_sources(videos)
        if found.errors:
            raise UsageError(found.errors[0].message, found.errors[0].hint)
        self._sources = {spec.name: spec for spec in found.specs}
        check_output(folder / "image.jpg", overwrite=True)  # checks that files can be created there

    def write(self, report: DiffReport) -> list[str]:
        """Draw the frames that differ most, as far as the sources have them; return the paths of the images in that order.

        Raises:
            UsageError: No source has the name of a stream, or one cannot be read.
            OutputError: An image exists already, or cannot be written.
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
            raise UsageError(f"--video: no source for stream {stream!r}, only for {names}", "Give the sources of the runs.")
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
        name = re.sub(r"[^\w-]+", "_", frame.stream)[:100]  # the name comes from a file: it must not lead out of the folder
        path = self._folder / f"{rank + 1:02}-{name}-{frame.frame:06}.jpg"
        encoded, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
        if not encoded:
            raise OutputError(f"{path}: cannot be encoded as JPEG", f"the image has {rgb.shape[1]}x{rgb.shape[0]} pixels")
        output = OutputFile(str(path), self._overwrite)
        try:
            output.partial.write_bytes(data.tobytes())
        except OSError as error:
            output.discard()
            raise OutputError(f"{path}: cannot be written: {error.strerror or error}", "Choose another folder.") from error
        output.commit()
        return str(path)


def side_by_side(rgb: NDArray[np.uint8], frame: FrameReport, label_names: tuple[str, ...]) -> NDArray[np.uint8]:
    """Draw the detections of A on the left and of B on the right: gray if both have them, in color otherwise.

    Args:
        rgb: The image, uint8 [H, W, 3] RGB.

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


def _mark(rgb: NDArray[np.uint8], row: IndexedRow, single: NDArray[np.intp], label_names: tuple[str, ...]) -> NDArray[np.uint8]:
    size = Size(rgb.shape[1], rgb.shape[0])
    found = replace(row.detections.scaled(row.size, size), label_names=label_names)
    alone = np.zeros(len(found), np.bool_)
    alone[single] = True
    draw = Drawer()
    # Objects without a track are drawn in gray: used here for detections that both have.
    draw(rgb, replace(found[~alone], track_ids=np.zeros(np.count_nonzero(~alone), np.int32)))
    return draw(rgb, found[alone])


def _titled(rgb: NDArray[np.uint8], text: str) -> NDArray[np.uint8]:
    """Return the image below a line of text, which is scaled to fit."""
    font, thickness = cv2.FONT_HERSHEY_SIMPLEX, 1
    scale = max(0.4, min(1.0, rgb.shape[0] / 900))
    (width, height), below = cv2.getTextSize(text, font, scale, thickness)
    scale *= min(1.0, (rgb.shape[1] - 12) / width)
    strip = np.zeros((height + below + 12, rgb.shape[1], 3), np.uint8)
    cv2.putText(strip, text, (6, height + 6), font, scale, _WHITE, thickness, cv2.LINE_AA)
    return np.concatenate((strip, rgb), axis=0)
