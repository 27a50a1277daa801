"""CSV: a row for each detection; a frame in which nothing was found has none."""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Sequence

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.frame import Frame
from vision_infer.core.result import Result
from vision_infer.sink.row_file import RowFile
from vision_infer.sink.sink import OutputSpec, Written

COLUMNS = ("stream", "frame", "pts_s", "file", "class_id", "label", "score", "x1", "y1", "x2", "y2", "track_id")


class CsvSink:
    """A CSV file of one stream or of all: UTF-8, commas, a header, quotes only where they are needed (RFC 4180, lines end in LF).

    What does not exist is empty: the time of a still picture, the file of a video's frame, the track of a detection without one.
    """

    needs_pictures = False

    def __init__(self, spec: OutputSpec, clock: Clock = SYSTEM_CLOCK) -> None:
        self._lock = threading.Lock()
        self._file = RowFile(spec, (",".join(COLUMNS) + "\n").encode(), clock=clock)
        self._closed = False

    @property
    def outputs(self) -> Sequence[Written]:
        """The file, once it is in its place."""
        return [Written(str(self._file.output.path))] if self._file.in_place else []

    def write(self, frame: Frame, result: Result | None) -> None:  # noqa: ARG002
        """Add a row for each detection."""
        if result is None or not len(result.detections):
            return
        rows = _rows(result)
        with self._lock:
            self._file.write(rows)

    def flush(self) -> None:
        """Hand all rows so far to the system: they outlive the process.

        Raises:
            OutputError: they cannot be written.
        """
        with self._lock:
            if not self._closed:
                self._file.flush()

    def close(self, complete: bool) -> None:
        """Put the file in its place; a run that broke before its first detection leaves none."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._file.finish(complete)


def _rows(result: Result) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    found = result.detections
    pts = "" if result.pts_s is None else repr(round(result.pts_s, 6))
    file = result.file or ""
    tracks = [0] * len(found) if found.track_ids is None else found.track_ids.tolist()
    columns = (found.boxes.tolist(), found.scores.tolist(), found.class_ids.tolist(), tracks)
    for box, score, class_id, track in zip(*columns, strict=True):
        edges = ["%.2f" % edge for edge in box]
        label = found.label_of(class_id)
        writer.writerow((result.stream, result.frame, pts, file, class_id, label, "%.4f" % score, *edges, track or ""))
    # A file's name may hold bytes that are no text: they are written as escapes.
    return text.getvalue().encode("utf-8", "backslashreplace")
