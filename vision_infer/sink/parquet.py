"""Parquet: a row for each detection, in columns that pandas, Polars, DuckDB and Spark read."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from vision_infer.core.errors import OutputError
from vision_infer.core.frame import Frame
from vision_infer.core.result import Result
from vision_infer.sink.output_file import OutputFile, output_error
from vision_infer.sink.sink import OutputSpec, Written
from vision_infer.sink.space import NoSpaceError, ReservedFile, SpaceReserve, is_full

ROWS_OF_A_GROUP = 65_536
"""rows that are held in memory and become a row group: about 4 MB"""
_FOOTER = 64 * 1024
_FOOTER_PER_GROUP = 4096
"""bytes kept free for the end of the file, without which nothing of it can be read"""


def require_pyarrow() -> None:
    """Say what is missing, before any work.

    Raises:
        OutputError: pyarrow is not installed.
    """
    if find_spec("pyarrow") is None:
        raise OutputError(".parquet needs pyarrow, which is not installed", "pip install 'vision-infer[parquet]'")


class _Rows:
    """The rows of a group in columns of a fixed length: what is held does not depend on how many frames they come from."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.count = 0
        self._boxes = np.empty((room, 4), np.float32)
        self._scores = np.empty(room, np.float32)
        self._class_ids, self._tracks = np.empty(room, np.int32), np.empty(room, np.int32)
        self._frames = np.empty(room, np.int64)
        self._pts = np.empty(room, np.float64)  # NaN: there is none
        self._texts = {name: np.empty(room, np.int32) for name in ("stream", "file", "label")}  # -1: there is none
        self._known: dict[str, dict[str, int]] = {name: {} for name in self._texts}

    def add(self, result: Result, first: int) -> int:
        """Add the detections from ``first`` on, as many as there is room for; returns how many."""
        found = result.detections
        taken = min(len(found) - first, self.room - self.count)
        rows, of = slice(self.count, self.count + taken), slice(first, first + taken)
        self._boxes[rows] = found.boxes[of]
        self._scores[rows] = found.scores[of]
        self._class_ids[rows] = found.class_ids[of]
        self._tracks[rows] = 0 if found.track_ids is None else found.track_ids[of]
        self._frames[rows] = result.frame
        self._pts[rows] = np.nan if result.pts_s is None else result.pts_s
        self._texts["stream"][rows] = self._number("stream", result.stream)
        self._texts["file"][rows] = -1 if result.file is None else self._number("file", result.file)
        labels = [self._number("label", found.label_of(class_id)) for class_id in found.class_ids[of].tolist()]
        self._texts["label"][rows] = labels
        self.count += taken
        return taken

    def take(self) -> Any:
        """All rows as a table of Arrow, which is good until more are added; none are left here."""
        import pyarrow as pa

        rows = slice(0, self.count)
        pts, tracks = self._pts[rows], self._tracks[rows]
        columns = [
            self._text("stream"),
            pa.array(self._frames[rows]),
            pa.array(pts, mask=np.isnan(pts)),
            self._text("file"),
            pa.array(self._class_ids[rows]),
            self._text("label"),
            pa.array(self._scores[rows]),
            *(pa.array(np.ascontiguousarray(self._boxes[rows, edge])) for edge in range(4)),
            pa.array(tracks, mask=tracks <= 0),
        ]
        table = pa.Table.from_arrays(columns, schema=_schema())
        self.count = 0
        for known in self._known.values():
            known.clear()
        return table

    def _number(self, column: str, text: str) -> int:
        return self._known[column].setdefault(text, len(self._known[column]))

    def _text(self, column: str) -> Any:
        import pyarrow as pa

        numbers = self._texts[column][: self.count]
        # A file's name may hold bytes that are no text: they are written as escapes.
        texts = [text.encode(errors="backslashreplace").decode() for text in self._known[column]]
        return pa.DictionaryArray.from_arrays(pa.array(numbers, mask=numbers < 0), pa.array(texts, pa.string()))


class ParquetSink:
    """A Parquet file of one stream or of all; a frame in which nothing was found has no row.

    Rows go to the file in groups of ``ROWS_OF_A_GROUP``, compressed with Zstandard; ``stream``, ``file`` and ``label`` are
    dictionary columns. When the disk is full, what was written and as much of the rest as fits is a whole file.
    """

    needs_pictures = False

    def __init__(self, spec: OutputSpec, rows_of_a_group: int = ROWS_OF_A_GROUP) -> None:
        require_pyarrow()
        import pyarrow.parquet as pq

        self._lock = threading.Lock()
        self._waiting = _Rows(rows_of_a_group)
        self._rows = 0
        self._groups = 0
        self._closed = False
        self._failure: OutputError | None = None
        self._in_place = False
        self._file = OutputFile(spec.path, spec.overwrite)
        try:
            self._target = ReservedFile(self._file.raw, SpaceReserve(self._file.path.parent, _FOOTER))
            self._writer = pq.ParquetWriter(self._target, _schema(), compression="zstd")
        except OSError as error:
            self._file.discard()
            raise output_error(spec.path, error) from error

    @property
    def outputs(self) -> Sequence[Written]:
        """The file, once it is in its place."""
        return [Written(str(self._file.path))] if self._in_place else []

    def write(self, frame: Frame, result: Result | None) -> None:  # noqa: ARG002
        """Take the detections of a frame."""
        if result is None or not len(result.detections):
            return
        with self._lock:
            if self._failure is not None:
                raise self._failure
            first = 0
            while first < len(result.detections):
                first += self._waiting.add(result, first)
                if self._waiting.count == self._waiting.room:
                    self._flush()

    def close(self, complete: bool) -> None:
        """Write the last rows and the footer, and put the file in its place; a run that broke before any row leaves none."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            known, failure = self._failure, None
            try:
                if self._waiting.count and known is None:
                    self._flush()
            except OutputError as error:
                failure = error
            if not self._rows and (not complete or self._failure is not None):
                self._finish(keep=False)
            else:
                self._finish(keep=True)
            if failure is not None:
                raise failure

    def _finish(self, keep: bool) -> None:
        self._target.reserve.release()
        try:
            self._writer.close()  # always: it would try later by itself, when the file is closed
        except OSError as error:
            self._file.discard()
            raise output_error(self._file.path, error) from error
        if not keep:
            self._file.discard()
            return
        self._file.commit()
        self._in_place = True

    def _flush(self) -> None:
        """Write the rows that wait as a group, or as many of them as the disk has space for."""
        table = self._waiting.take()
        wanted = len(table)
        try:
            while len(table) and not self._reserved(table.nbytes):
                table = table.slice(0, len(table) // 2)
            if len(table):
                self._writer.write_table(table, row_group_size=len(table))
                self._rows += len(table)
                self._groups += 1
        except OSError as error:
            self._failure = output_error(self._file.path, error)
            raise self._failure from error
        if len(table) < wanted or self._target.full:
            kept = f"its first {self._rows} rows are kept"
            self._failure = NoSpaceError(self._file.path, self._target.size, kept=kept)
            raise self._failure

    def _reserved(self, size: int) -> bool:
        """Whether there is space for a group of this size and the footer after it: a group that breaks off spoils the file."""
        try:
            self._target.reserve.grow_to(size + _FOOTER + _FOOTER_PER_GROUP * (self._groups + 1))
        except OSError as error:
            if is_full(error):
                return False
            raise
        return True


def _schema() -> Any:
    import pyarrow as pa

    text = pa.dictionary(pa.int32(), pa.string())
    edges = [(edge, pa.float32()) for edge in ("x1", "y1", "x2", "y2")]
    return pa.schema(
        [
            pa.field("stream", text, nullable=False),
            pa.field("frame", pa.int64(), nullable=False),
            pa.field("pts_s", pa.float64()),
            pa.field("file", text),
            pa.field("class_id", pa.int32(), nullable=False),
            pa.field("label", text, nullable=False),
            pa.field("score", pa.float32(), nullable=False),
            *(pa.field(name, kind, nullable=False) for name, kind in edges),
            pa.field("track_id", pa.int32()),
        ]
    )
