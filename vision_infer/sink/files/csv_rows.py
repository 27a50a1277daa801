"""CSV: a row for each detection; a frame in which nothing was found has none."""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Iterator, Sequence

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.description import Description
from vision_infer.core.frame import Frame
from vision_infer.core.result import Result
from vision_infer.sink.files.output_file import output_error
from vision_infer.sink.files.row_file import RowFile
from vision_infer.sink.sink import OutputSpec, SinkStream, Written
from vision_infer.sink.space import SpaceReserve

COLUMNS = ("stream", "frame", "pts_s", "file", "class_id", "label", "score", "x1", "y1", "x2", "y2", "track_id")
THEN_COLUMNS = ("secondary_class_id", "secondary_label", "secondary_score")
"""come after the others where a second network looks at the detections: the best class that it tells"""


def open_sink(spec: OutputSpec, stream: SinkStream) -> CsvSink:  # noqa: ARG001
    """Open the sink of a run."""
    return CsvSink(spec)


class CsvSink:
    """A CSV file of one stream or of all: UTF-8, commas, a header, quotes only where they are needed (RFC 4180, lines end in LF).

    What does not exist is empty: the time of a still picture, the file of a video's frame, the track of a detection without one.
    The first result says whether there is a second network, and with it which columns there are; a file that is gone on with
    keeps its own. A network for classification alone gives a row for each frame, without a box. Embeddings are left out.
    """

    needs_images = False

    def __init__(self, spec: OutputSpec, clock: Clock = SYSTEM_CLOCK) -> None:
        self._lock = threading.Lock()
        self._file = RowFile(spec, clock=clock)
        self._closed = False
        self._told: bool | None = None
        """whether there are THEN_COLUMNS; None: that is not known yet"""
        try:
            # Until the first result the header is not known: space is put aside for it.
            self._space = SpaceReserve(self._file.output.path.parent, len(_header(told=True)))
        except OSError as error:
            self._file.discard()
            raise output_error(spec.path, error) from error
        if self._file.size:
            with self._file.output.partial.open("rb") as before:
                self._begin(THEN_COLUMNS[0].encode() in before.readline())

    @property
    def outputs(self) -> Sequence[Written]:
        """The file, once it is in its place."""
        return [Written(str(self._file.output.path))] if self._file.in_place else []

    def write(self, frame: Frame, result: Result | None) -> None:  # noqa: ARG002
        """Add a row for each detection, or that of the frame."""
        if result is None:
            return
        with self._lock:
            if self._told is None:
                self._begin(result.detections.descriptions is not None)
            if len(result.detections) or result.description is not None:
                self._file.write(_lines(result, bool(self._told)))

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
            if self._told is None:
                self._begin(False)
            self._file.finish(complete)

    def _begin(self, told: bool) -> None:
        self._told = told
        self._space.release()
        self._file.begin(_header(told))


def _header(told: bool) -> bytes:
    return (",".join(COLUMNS + THEN_COLUMNS if told else COLUMNS) + "\n").encode()


def _lines(result: Result, told: bool) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    pts = "" if result.pts_s is None else repr(round(result.pts_s, 6))
    for cells in _cells(result, told):
        writer.writerow((result.stream, result.frame, pts, result.file or "", *cells))
    # A file's name may hold bytes that are no text: they are written as escapes.
    return text.getvalue().encode("utf-8", "backslashreplace")


def _cells(result: Result, told: bool) -> Iterator[tuple[object, ...]]:
    """What stands in the rows of a result after the picture's own columns."""
    found = result.detections
    if result.description is not None:
        yield (*_best(result.description), "", "", "", "", "", *(("", "", "") if told else ()))
    tracks = [0] * len(found) if found.track_ids is None else found.track_ids.tolist()
    descriptions = found.descriptions or (None,) * len(found)
    columns = (found.boxes.tolist(), found.scores.tolist(), found.class_ids.tolist(), tracks, descriptions)
    for box, score, class_id, track, description in zip(*columns, strict=True):
        edges = ["%.2f" % edge for edge in box]
        secondary = _best(description) if told else ()
        yield (class_id, found.label_of(class_id), "%.4f" % score, *edges, track or "", *secondary)


def _best(description: Description | None) -> tuple[object, ...]:
    best = None if description is None else description.best
    return ("", "", "") if best is None else (best.class_id, best.label, "%.4f" % best.score)
