"""Parquet: a row for each detection, in columns that pandas, Polars, DuckDB and Spark read."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from vision_infer.core.errors import OutputError
from vision_infer.core.frame import Frame
from vision_infer.core.packages import install
from vision_infer.core.result import Result
from vision_infer.sink.files.output_file import OutputFile, output_error
from vision_infer.sink.files.parquet_rows import ParquetColumns, ParquetRows
from vision_infer.sink.sink import OutputSpec, SinkStream, Written
from vision_infer.sink.space import NoSpaceError, ReservedFile, SpaceReserve, is_full

ROWS_PER_GROUP = 65_536
"""The number of rows of a row group, which is in memory until it is full: about 4 MB."""
_FOOTER = 64 * 1024
_FOOTER_PER_GROUP = 4096
"""The space reserved for the end of the file, without which the file cannot be read, bytes."""


def check_requirements() -> None:
    """Check the requirements before any work.

    Raises:
        OutputError: pyarrow is not installed.
    """
    if find_spec("pyarrow") is None:
        raise OutputError(".parquet needs pyarrow, which is not installed", install("parquet"))


def open_sink(spec: OutputSpec, stream: SinkStream) -> ParquetSink:  # noqa: ARG001
    """Open the sink of a run."""
    return ParquetSink(spec)


class ParquetSink:
    """Writes a Parquet file of one stream or of all; a frame without detections has no row.

    Rows go to the file in groups of ``ROWS_PER_GROUP``, compressed with Zstandard; ``stream``, ``file`` and the labels are
    dictionary columns. When the disk is full, the rows that were written and as many of the remaining ones as fit form a whole
    file.

    The results of a secondary model and the details of detections have their own columns, and a model for classification or
    embeddings alone gives a row for each frame. The first group determines the columns; without such models they are those of
    :data:`csv_rows.COLUMNS`.
    """

    needs_images = False

    def __init__(self, spec: OutputSpec, rows_per_group: int = ROWS_PER_GROUP) -> None:
        check_requirements()
        # Guards the whole state: streams may share the sink, and the thread that writes holds it.
        self._lock = threading.Lock()
        self._waiting = ParquetRows(rows_per_group)
        self._columns: ParquetColumns | None = None  # known with the first group
        self._writer: Any = None
        self._rows = 0
        self._groups = 0
        self._closed = False
        self._failure: OutputError | None = None
        self._in_place = False
        self._file = OutputFile(spec.path, spec.overwrite)
        try:
            self._target = ReservedFile(self._file.raw, SpaceReserve(self._file.path.parent, _FOOTER))
        except OSError as error:
            self._file.discard()
            raise output_error(spec.path, error) from error

    @property
    def outputs(self) -> Sequence[Written]:
        """The file, once it is finished."""
        return [Written(str(self._file.path))] if self._in_place else []

    def write(self, frame: Frame, result: Result | None) -> None:  # noqa: ARG002
        """Add the detections of a frame, or the description of the whole frame."""
        if result is None:
            return
        rows = len(result.detections) if result.description is None else 1
        with self._lock:
            if self._failure is not None:
                raise self._failure
            first = self._waiting.add(result, 0)
            while self._waiting.full:
                self._flush()
                first += self._waiting.add(result, first) if first < rows else 0

    def close(self, complete: bool) -> None:
        """Write the last rows and the footer, and rename the file; a run that failed before any row leaves no file."""
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
            if keep:
                self._begin()
            if self._writer is not None:
                self._writer.close()  # always: it would try later by itself, when the file is closed
        except OSError as error:
            self._file.discard()
            raise output_error(self._file.path, error) from error
        if not keep:
            self._file.discard()
            return
        self._file.commit()
        self._in_place = True

    def _begin(self) -> ParquetColumns:
        """Begin the file with the columns that the first group needs.

        Raises:
            OSError: It cannot be written.
        """
        import pyarrow.parquet as pq

        if self._columns is None:
            self._columns = self._waiting.columns
            self._writer = pq.ParquetWriter(self._target, self._columns.schema(), compression="zstd")
        return self._columns

    def _flush(self) -> None:
        """Write the waiting rows as a group, or as many of them as the disk has space for."""
        try:
            table = self._waiting.take(self._begin())
            wanted = len(table)
            while len(table) and not self._reserved(table.nbytes):
                table = table.slice(0, len(table) // 2)
            if len(table):
                self._writer.write_table(table, row_group_size=len(table))
                self._rows += len(table)
                self._groups += 1
        except (OSError, OutputError) as error:
            self._failure = error if isinstance(error, OutputError) else output_error(self._file.path, error)
            raise self._failure from error
        if len(table) < wanted or self._target.full:
            kept = f"its first {self._rows} rows are kept"
            self._failure = NoSpaceError(self._file.path, self._target.size, kept=kept)
            raise self._failure

    def _reserved(self, size: int) -> bool:
        """Return whether there is space for a group of this size and the footer: an incomplete group would spoil the file."""
        try:
            self._target.reserve.grow_to(size + _FOOTER + _FOOTER_PER_GROUP * (self._groups + 1))
        except OSError as error:
            if is_full(error):
                return False
            raise
        return True
