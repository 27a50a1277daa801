"""Parquet of a service that runs for months: two series of files, detections and events, never in the way of the streams."""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import OutputError
from vision_infer.core.frame import Frame
from vision_infer.core.result import Result
from vision_infer.sink.archive.parquet_parts import Parts, PartsError, finish
from vision_infer.sink.archive.rotation import DAY_NS, Rotation, delete_older, left_behind
from vision_infer.sink.files.parquet import ROWS_PER_GROUP, check_requirements
from vision_infer.sink.files.parquet_rows import EventRows, ParquetColumns, ParquetRows
from vision_infer.sink.sink import Written

MAX_QUEUED = 8192
"""The maximum number of results that wait in memory."""
ROWS_PER_PART = ROWS_PER_GROUP
PART_S = 60.0
"""The maximum time that rows are only in memory, seconds: what a killed process loses."""
RETRY_S = 5.0
CLOSE_S = 10.0
_CHECK_S = 0.5

_log = logging.getLogger("vision_infer.rows")


class ParquetLog:
    """Writes ``NAME-TIME.parquet``, a row for each detection, and ``NAME.events-TIME.parquet``, a row for each event and change.

    A file gets its name when it is whole: when the rotation says so, or at the end. Rows that are older than a minute survive a
    kill of the process, and the next one makes a file of them. A separate thread does the work. Results for which the queue
    has no capacity are dropped and counted; a disk that fails is tried again.

    Args:
        path: The path of the files, ``NAME.parquet``.
        rotation: When a new file is begun.
        clock: The clock.

    Raises:
        OutputError: pyarrow is not installed.
    """

    needs_images = False
    kind = "parquet"
    outputs: Sequence[Written] = ()

    def __init__(self, path: str, rotation: Rotation, clock: Clock = SYSTEM_CLOCK) -> None:
        check_requirements()
        base = Path(path)
        self._detections = _FileSeries(base, _ArchiveRows(), rotation, clock)
        self._events = _FileSeries(base.with_stem(base.stem + ".events"), EventRows(), rotation, clock)
        self._queue: deque[Result | Callable[[], str]] = deque()
        # Guards the queue and the two attributes below. A writer holds it to add an item; this thread holds it to check the
        # queue.
        self._lock = threading.Lock()
        self._news = threading.Condition(self._lock)
        self._queue_full = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="parquet", daemon=True)
        self._thread.start()

    @property
    def written(self) -> int:
        """The number of rows that are on the disk."""
        return self._detections.written + self._events.written

    @property
    def drops(self) -> Mapping[str, int]:
        """The number of lost results and rows by reason."""
        return {"queue_full": self._queue_full, "disk_error": self._detections.dropped + self._events.dropped}

    @property
    def error(self) -> str | None:
        """The present problem, one line."""
        return self._detections.error or self._events.error

    def write(self, frame: Frame, result: Result | None) -> None:  # noqa: ARG002
        """Queue a result."""
        if result is not None and (len(result.detections) or result.description is not None):
            self._put(result)

    def add_event(self, make: Callable[[], str]) -> None:
        """Queue an event or a change of state: a function that returns its JSON."""
        self._put(make)

    def _put(self, item: Result | Callable[[], str]) -> None:
        with self._news:
            if self._closed:
                return
            if len(self._queue) >= MAX_QUEUED:
                self._queue_full += 1
                return
            self._queue.append(item)
            self._news.notify()

    def close(self, complete: bool) -> None:  # noqa: ARG002
        """Finish both files, within ten seconds; remaining parts are for the next start."""
        with self._news:
            self._closed = True
            self._news.notify()
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        for series in (self._detections, self._events):
            series.recover(self._drain)
        while True:
            with self._news:
                self._news.wait_for(lambda: self._queue or self._closed, _CHECK_S)
                closed = self._closed and not self._queue
            self._drain()
            for series in (self._detections, self._events):
                series.check(self._drain, closed)
            if closed:
                return

    def _drain(self) -> None:
        """Move the queue into the rows that wait."""
        while self._queue:
            item = self._queue.popleft()
            if isinstance(item, Result):
                self._detections.add(item)
            else:
                self._events.add(json.loads(item()))


class _ArchiveRows:
    """Rows of detections whose set of columns only grows, so that the parts of a file have the same columns."""

    def __init__(self) -> None:
        self._rows = ParquetRows(ROWS_PER_PART)
        self._columns = ParquetColumns()
        self._mixed = False
        """Whether streams have embeddings of different lengths: there is no column for those."""

    @property
    def count(self) -> int:
        return self._rows.count

    @property
    def full(self) -> bool:
        return self._rows.full

    def add(self, row: Result) -> None:
        first, rows = 0, len(row.detections) if row.description is None else 1
        while first < rows and not self._rows.full:
            first += self._rows.add(row, first)

    def take(self) -> Any:
        new, old = self._rows.columns, self._columns
        if None not in (new.embedding, old.embedding) and new.embedding != old.embedding:
            self._mixed = True
        embedding = None if self._mixed else new.embedding or old.embedding
        self._columns = ParquetColumns(
            old.whole or new.whole,
            old.secondary or new.secondary,
            embedding,
            old.live or new.live,
            old.details | new.details,
            old.identity or new.identity,
        )
        try:
            table = self._rows.take(self._columns)
        except OutputError:
            self._mixed = True
            self._columns = replace(self._columns, embedding=None)
            table = self._rows.take(self._columns)
        return table.take(list(range(len(table))))  # a copy: it may wait for the disk while more rows are added


class _FileSeries:
    """Files of one kind, one after the other."""

    def __init__(self, path: Path, rows: _ArchiveRows | EventRows, rotation: Rotation, clock: Clock) -> None:
        self._path = path
        self._rows = rows
        self._rotation = rotation
        self._clock = clock
        self._parts: Parts | None = None
        self._schema: Any = None
        self._began_ns = 0
        self._day = 0
        self._since_ns: int | None = None
        """The monotonic time at which the oldest waiting row was added."""
        self._since_day = 0
        """The day (UTC) on which the oldest row that is in no part was added."""
        self._table: Any = None
        """The rows that could not be written yet."""
        self._retry_ns = 0
        self._unfinished: list[Path] = []
        """The folders of parts that are to become files."""
        self.written = 0
        self.dropped = 0
        self.error: str | None = None

    def add(self, row: Any) -> None:
        if self._rows.full and not self._flush():
            self.dropped += 1
            return
        if self._since_ns is None:
            self._since_ns = self._clock.monotonic_ns()
            if self._table is None:
                self._since_day = self._clock.wall_ns() // DAY_NS
        self._rows.add(row)

    def recover(self, between: Callable[[], None]) -> None:
        """Make files of what an earlier process left."""
        try:
            self._unfinished = left_behind(self._path)
        except OSError as error:
            self._failed(error)
        if self._unfinished:
            _log.info("%s: finishing %d files from parts that an earlier process left", self._path, len(self._unfinished))
        self._finish(between)

    def check(self, between: Callable[[], None], closing: bool) -> None:
        """Write rows that have waited long enough, and finish the file when it is due."""
        now_ns = self._clock.monotonic_ns()
        old = self._since_ns is not None and now_ns - self._since_ns >= PART_S * 1e9
        if self._table is not None or self._rows.full or old or closing:
            self._flush(force=closing)
        if self._parts is not None and (closing or self._is_due(self._parts, now_ns)):
            self._end(self._parts)
        if self._unfinished and (closing or now_ns >= self._retry_ns):
            self._finish(between)

    def _is_due(self, parts: Parts, now_ns: int) -> bool:
        rotation = self._rotation
        if rotation.max_bytes is not None and parts.size >= rotation.max_bytes:
            return True
        another_day = rotation.daily and self._clock.wall_ns() // DAY_NS != self._day
        return another_day or now_ns - self._began_ns >= rotation.every_s * 1e9

    def _flush(self, force: bool = False) -> bool:
        """Write the waiting rows as a part, and return whether there is capacity for more."""
        now_ns = self._clock.monotonic_ns()
        if self._table is not None and now_ns < self._retry_ns and not force:
            return not self._rows.full
        for _ in range(2):  # first what could not be written before, then what came since
            if self._table is None and self._rows.count:
                self._table, self._since_ns = self._rows.take(), None
            if self._table is None:
                break
            try:
                self._write(self._table)
            except OSError as error:
                self._failed(error)
                break
            self.written += len(self._table)
            self._table = None
            self._works()
        return not self._rows.full

    def _write(self, table: Any) -> None:
        if self._parts is not None and table.schema != self._schema:
            self._end(self._parts)
        if self._parts is None:
            self._parts = Parts(self._path, self._clock.wall_ns())
            self._schema = table.schema
            self._began_ns, self._day = self._clock.monotonic_ns(), self._since_day
        self._parts.add(table)

    def _end(self, parts: Parts) -> None:
        self._unfinished.append(parts.folder)
        self._parts = None

    def _finish(self, between: Callable[[], None]) -> None:
        while self._unfinished:
            try:
                finish(self._unfinished[0], between)
            except PartsError as error:
                _log.error("%s; the folder is left as it is", error)
            except Exception as error:  # noqa: BLE001 - an error of the disk or the library must not end the thread
                self._failed(error)
                return
            del self._unfinished[0]
            delete_older(self._path, self._rotation.keep)
            if self._table is None:
                self._works()

    def _failed(self, error: Exception) -> None:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        text = " ".join(f"{self._path}: {reason}".split())
        if self.error is None:
            _log.warning("%s; the next attempt is in %g seconds", text, RETRY_S)
        self.error = text
        self._retry_ns = self._clock.monotonic_ns() + round(RETRY_S * 1e9)

    def _works(self) -> None:
        if self.error is not None:
            _log.warning("%s: works again; %d rows were dropped", self._path, self.dropped)
            self.error = None
