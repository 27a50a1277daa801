"""CSV: a row for each detection; a frame without detections has none."""

from __future__ import annotations

import csv
import io
import json
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
SECONDARY_COLUMNS = ("secondary_class_id", "secondary_label", "secondary_score")
"""The additional columns with a secondary model: the best class of each detection."""


def open_sink(spec: OutputSpec, stream: SinkStream) -> CsvSink:  # noqa: ARG001
    """Open the sink of a run."""
    return CsvSink(spec)


class CsvSink:
    """Writes a CSV file of one stream or of all: UTF-8, commas, a header, quotes only if needed (RFC 4180, lines end in LF).

    Missing values are empty: the time of a still image, the file of a video frame, the track of a detection without one. The
    results up to the first row determine whether there are columns of a secondary model, ``identity``, one for the details
    (``keypoints``, ``mask`` or ``box_rotated``) and one for the ``extra`` fields of hooks, both in the JSON form of rows. A
    continued file keeps its columns. A model for classification alone gives a row for each frame, without a box. Embeddings are
    left out.
    """

    needs_images = False

    def __init__(self, spec: OutputSpec, clock: Clock = SYSTEM_CLOCK) -> None:
        # Guards the file: streams may share the sink, and the thread that writes holds it.
        self._lock = threading.Lock()
        self._file = RowFile(spec, clock=clock)
        self._closed = False
        self._secondary = False
        """Whether a result had descriptions by a secondary model."""
        self._more: tuple[str, ...] | None = None
        """The columns after COLUMNS; None: not known yet."""
        try:
            # The header is unknown until the first result: space is reserved for it.
            self._space = SpaceReserve(
                self._file.output.path.parent, len(_header((*SECONDARY_COLUMNS, "identity", "box_rotated")))
            )
        except OSError as error:
            self._file.discard()
            raise output_error(spec.path, error) from error
        if self._file.size:
            with self._file.output.partial.open("rb") as before:
                self._begin(tuple(before.readline().decode().strip().split(",")[len(COLUMNS) :]))

    @property
    def outputs(self) -> Sequence[Written]:
        """The file, once it is finished."""
        return [Written(str(self._file.output.path))] if self._file.in_place else []

    def write(self, frame: Frame, result: Result | None) -> None:  # noqa: ARG002
        """Add a row for each detection, or one for the frame."""
        if result is None:
            return
        with self._lock:
            found = result.detections
            self._secondary |= found.descriptions is not None
            if len(found) or result.description is not None:
                details = () if found.details is None else tuple(found.details.row(0))
                identity = () if found.identities is None else ("identity",)
                extra = () if result.extra is None else ("extra",)
                self._file.write(_lines(result, self._begun((*identity, *details, *extra))))

    def flush(self) -> None:
        """Write all rows so far to the system, so that they survive a kill of the process.

        Raises:
            OutputError: They cannot be written.
        """
        with self._lock:
            if not self._closed:
                self._file.flush()

    def close(self, complete: bool) -> None:
        """Finish the file; a run that failed before its first detection leaves none."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._begun(())
            self._file.finish(complete)

    def _begun(self, details: tuple[str, ...]) -> tuple[str, ...]:
        """Return the columns after COLUMNS; the first time, begin the file with them."""
        if self._more is None:
            self._begin((*(SECONDARY_COLUMNS if self._secondary else ()), *details))
        return self._more or ()

    def _begin(self, more: tuple[str, ...]) -> None:
        self._more = more
        self._space.release()
        self._file.begin(_header(more))


def _header(more: tuple[str, ...]) -> bytes:
    return (",".join(COLUMNS + more) + "\n").encode()


def _lines(result: Result, more: tuple[str, ...]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    pts = "" if result.pts_s is None else repr(round(result.pts_s, 6))
    for cells in _cells(result, more):
        writer.writerow((result.stream, result.frame, pts, result.file or "", *cells))
    # A file name may hold bytes that are not valid text: they are written as escapes.
    return text.getvalue().encode("utf-8", "backslashreplace")


def _cells(result: Result, more: tuple[str, ...]) -> Iterator[tuple[object, ...]]:
    """Yield the cells of each row of a result, after those of the frame."""
    found = result.detections
    extra = {} if result.extra is None else {"extra": json.dumps(result.extra)}
    if result.description is not None:
        yield (*_best(result.description), "", "", "", "", "", *(extra.get(name, "") for name in more))
    tracks = [0] * len(found) if found.track_ids is None else found.track_ids.tolist()
    descriptions = found.descriptions or (None,) * len(found)
    columns = (found.boxes.tolist(), found.scores.tolist(), found.class_ids.tolist(), tracks, descriptions)
    for index, (box, score, class_id, track, description) in enumerate(zip(*columns, strict=True)):
        edges = ["%.2f" % edge for edge in box]
        cells: dict[str, object] = dict(zip(SECONDARY_COLUMNS, _best(description), strict=True)) | extra
        if found.identities is not None:
            cells["identity"] = found.identities[index] or ""
        if found.details is not None:
            cells |= {name: json.dumps(value) for name, value in found.details.row(index).items()}
        yield (class_id, found.label_of(class_id), "%.4f" % score, *edges, track or "", *(cells.get(name, "") for name in more))


def _best(description: Description | None) -> tuple[object, ...]:
    best = None if description is None else description.best
    return ("", "", "") if best is None else (best.class_id, best.label, "%.4f" % best.score)
