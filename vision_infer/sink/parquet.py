"""Parquet: a row for each detection, in columns that pandas, Polars, DuckDB and Spark read."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from vision_infer.core.detections import Detections
from vision_infer.core.errors import OutputError
from vision_infer.core.frame import Frame
from vision_infer.core.result import Result
from vision_infer.sink.output_file import OutputFile, output_error
from vision_infer.sink.sink import OutputSpec, Written
from vision_infer.sink.space import NoSpaceError, ReservedFile, SpaceReserve, is_full

ROWS_OF_A_GROUP = 65_536
"""rows that are held in memory and become a row group: about 3 MB"""
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


@dataclass(frozen=True, slots=True)
class _Found:
    stream: str
    frame: int
    pts_s: float | None
    file: str | None
    detections: Detections


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
        self._group = rows_of_a_group
        self._waiting: list[_Found] = []
        self._rows_waiting = 0
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
            self._waiting.append(_Found(result.stream, result.frame, result.pts_s, result.file, result.detections))
            self._rows_waiting += len(result.detections)
            if self._rows_waiting >= self._group:
                self._flush()

    def close(self, complete: bool) -> None:
        """Write the last rows and the footer, and put the file in its place; a run that broke before any row leaves none."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            known, failure = self._failure, None
            try:
                if self._waiting and known is None:
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
        table = _table(self._waiting)
        self._waiting.clear()
        self._rows_waiting = 0
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


def _table(found: Sequence[_Found]) -> Any:
    import pyarrow as pa

    counts = [len(one.detections) for one in found]
    boxes = np.concatenate([one.detections.boxes for one in found])
    classes = np.concatenate([one.detections.class_ids for one in found])
    tracks = np.concatenate([_tracks(one.detections) for one in found])
    labels = [one.detections.label_of(class_id) for one in found for class_id in one.detections.class_ids.tolist()]

    def text(values: list[str | None]) -> Any:
        return pa.array(values, pa.string()).dictionary_encode()

    def repeated(values: list[Any], kind: Any) -> Any:
        return pa.array(values, kind).take(pa.array(np.repeat(np.arange(len(counts)), counts)))

    columns = [
        repeated([_text(one.stream) for one in found], pa.string()).dictionary_encode(),
        repeated([one.frame for one in found], pa.int64()),
        repeated([one.pts_s for one in found], pa.float64()),
        repeated([None if one.file is None else _text(one.file) for one in found], pa.string()).dictionary_encode(),
        pa.array(classes, pa.int32()),
        text([_text(label) for label in labels]),
        pa.array(np.concatenate([one.detections.scores for one in found]), pa.float32()),
        *(pa.array(np.ascontiguousarray(boxes[:, edge]), pa.float32()) for edge in range(4)),
        pa.array(tracks, pa.int32(), mask=tracks <= 0),
    ]
    return pa.Table.from_arrays(columns, schema=_schema())


def _tracks(found: Detections) -> Any:
    return np.zeros(len(found), np.int32) if found.track_ids is None else found.track_ids


def _text(text: str) -> str:
    # A file's name may hold bytes that are no text: they are written as escapes.
    return text.encode(errors="backslashreplace").decode()
