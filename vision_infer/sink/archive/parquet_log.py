"""Parquet of a service that runs for months: two series of files, detections and happenings, never in the way of the streams."""

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
from vision_infer.sink.archive.event_rows import Happenings
from vision_infer.sink.archive.parquet_parts import Parts, PartsError, delete_older, finish, left_behind
from vision_infer.sink.archive.parquet_rows import Columns, Rows
from vision_infer.sink.files.parquet import require_pyarrow
from vision_infer.sink.sink import Written

MAX_QUEUED = 8192
"""results that wait in memory"""
ROWS_OF_A_PART = 65_536
PART_S = 60.0
"""so long rows are held in memory at most: what a process that is killed loses"""
RETRY_S = 5.0
CLOSE_S = 10.0
_LOOK_S = 0.5
_DAY_NS = 86_400 * 1_000_000_000

_log = logging.getLogger("vision_infer.rows")


class ParquetLog:
    """Writes ``NAME-TIME.parquet``, a row for each detection, and ``NAME.events-TIME.parquet``, a row for each event and change.

    A file takes its name when it is whole: after ``rotate_bytes`` or ``every_s``, with the day, or at the end. What was found a
    minute ago or before survives that the process is killed, and the next one makes a file of it. It has a thread of its own;
    what has no room is dropped and counted, and a disk that fails is tried again.

    Args:
        path: ``NAME.parquet``.
        rotate_bytes: a new file is begun when its parts are larger than this.
        every_s: and after so many seconds.
        daily: and with each day (UTC).
        keep: finished files that are kept, of each series; older ones are deleted.
        clock: tells the time.

    Raises:
        OutputError: pyarrow is not installed.
    """

    needs_images = False
    kind = "parquet"
    outputs: Sequence[Written] = ()

    def __init__(
        self, path: str, rotate_bytes: int, every_s: float, daily: bool = False, keep: int = 10, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        require_pyarrow()
        whole = Path(path)
        rotation = (rotate_bytes, every_s, daily, keep)
        self._detections = _Series(whole, _Detections(), rotation, clock)
        self._happenings = _Series(whole.with_stem(whole.stem + ".events"), Happenings(), rotation, clock)
        self._queue: deque[Result | Callable[[], str]] = deque()
        self._lock = threading.Lock()
        self._news = threading.Condition(self._lock)
        self._queue_full = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="parquet", daemon=True)
        self._thread.start()

    @property
    def written(self) -> int:
        """Rows that are on the disk."""
        return self._detections.written + self._happenings.written

    @property
    def drops(self) -> Mapping[str, int]:
        """Results and rows that were lost, by reason."""
        return {"queue_full": self._queue_full, "disk_error": self._detections.dropped + self._happenings.dropped}

    @property
    def error(self) -> str | None:
        """What is wrong at present, one line."""
        return self._detections.error or self._happenings.error

    def write(self, frame: Frame, result: Result | None) -> None:  # noqa: ARG002
        """Take a result."""
        if result is not None and (len(result.detections) or result.description is not None):
            self._put(result)

    def tell(self, make: Callable[[], str]) -> None:
        """Take an event or a change of state: what makes its JSON."""
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
        """Finish both files, within ten seconds; parts that are left are for the next start."""
        with self._news:
            self._closed = True
            self._news.notify()
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        series = (self._detections, self._happenings)
        for one in series:
            one.recover(self._drain)
        while True:
            with self._news:
                self._news.wait_for(lambda: self._queue or self._closed, _LOOK_S)
                closed = self._closed and not self._queue
            self._drain()
            for one in series:
                one.look(self._drain, closed)
            if closed:
                return

    def _drain(self) -> None:
        """Take what is queued into the rows that wait."""
        while self._queue:
            item = self._queue.popleft()
            if isinstance(item, Result):
                self._detections.add(item)
            else:
                self._happenings.add(json.loads(item()))


class _Detections:
    """Rows of detections, with columns that only ever become more, so that a file has one set of them."""

    def __init__(self) -> None:
        self._rows = Rows(ROWS_OF_A_PART)
        self._columns = Columns()
        self._mixed = False
        """streams have embeddings of different lengths: there is no column for those"""

    @property
    def count(self) -> int:
        return self._rows.count

    @property
    def full(self) -> bool:
        return self._rows.full

    def add(self, result: Result) -> None:
        first, rows = 0, len(result.detections) if result.description is None else 1
        while first < rows and not self._rows.full:
            first += self._rows.add(result, first)

    def take(self) -> Any:
        seen, old = self._rows.columns, self._columns
        if None not in (seen.embedding, old.embedding) and seen.embedding != old.embedding:
            self._mixed = True
        embedding = None if self._mixed else seen.embedding or old.embedding
        self._columns = Columns(old.whole or seen.whole, old.secondary or seen.secondary, embedding, old.live or seen.live)
        try:
            table = self._rows.take(self._columns)
        except OutputError:
            self._mixed = True
            self._columns = replace(self._columns, embedding=None)
            table = self._rows.take(self._columns)
        return table.take(list(range(len(table))))  # a copy: it may wait for the disk while more rows are added


class _Series:
    """Files of one kind, one after the other."""

    def __init__(self, path: Path, rows: Any, rotation: tuple[int, float, bool, int], clock: Clock) -> None:
        self._path = path
        self._rows = rows
        self._rotate_bytes, self._every_s, self._daily, self._keep = rotation
        self._clock = clock
        self._parts: Parts | None = None
        self._schema: Any = None
        self._began_ns = 0
        self._day = 0
        self._since_ns: int | None = None
        """when the oldest row that waits came"""
        self._since_day = 0
        """the day (UTC) on which the oldest row came that is in no part"""
        self._table: Any = None
        """rows that could not be written yet"""
        self._retry_ns = 0
        self._unfinished: list[Path] = []
        """folders of parts that are to become files"""
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
                self._since_day = self._clock.wall_ns() // _DAY_NS
        self._rows.add(row)

    def recover(self, between: Callable[[], None]) -> None:
        """Make files of what an earlier process has left."""
        try:
            self._unfinished = left_behind(self._path)
        except OSError as error:
            self._failed(error)
        if self._unfinished:
            _log.info("%s: parts of %d files were left behind, and are finished now", self._path, len(self._unfinished))
        self._finish(between)

    def look(self, between: Callable[[], None], closing: bool) -> None:
        """Write what has waited long enough, and finish the file when it is time."""
        now_ns = self._clock.monotonic_ns()
        old = self._since_ns is not None and now_ns - self._since_ns >= PART_S * 1e9
        if self._table is not None or self._rows.full or old or closing:
            self._flush(force=closing)
        parts = self._parts
        if parts is not None and (closing or self._is_due(parts, now_ns)):
            self._end()
        if self._unfinished and (closing or now_ns >= self._retry_ns):
            self._finish(between)

    def _is_due(self, parts: Parts, now_ns: int) -> bool:
        another_day = self._daily and self._clock.wall_ns() // _DAY_NS != self._day
        return parts.size >= self._rotate_bytes or now_ns - self._began_ns >= self._every_s * 1e9 or another_day

    def _flush(self, force: bool = False) -> bool:
        """Write the rows that wait as a part; whether there is room for more."""
        now_ns = self._clock.monotonic_ns()
        if self._table is not None and now_ns < self._retry_ns and not force:
            return not self._rows.full
        for _ in range(2):  # what could not be written before, and what came since
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
            self._end()
        if self._parts is None:
            self._parts = Parts(self._path, self._clock.wall_ns())
            self._schema = table.schema
            self._began_ns, self._day = self._clock.monotonic_ns(), self._since_day
        self._parts.add(table)

    def _end(self) -> None:
        assert self._parts is not None
        self._unfinished.append(self._parts.folder)
        self._parts = None

    def _finish(self, between: Callable[[], None]) -> None:
        while self._unfinished:
            try:
                finish(self._unfinished[0], between)
            except PartsError as error:
                _log.error("%s: it is left as it is", error)
            except Exception as error:  # noqa: BLE001 - the disk, or what the library makes of it: nothing may end the thread
                self._failed(error)
                return
            del self._unfinished[0]
            delete_older(self._path, self._keep)
            if self._table is None:
                self._works()

    def _failed(self, error: Exception) -> None:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        text = " ".join(f"{self._path}: {reason}".split())
        if self.error is None:
            _log.warning("%s; it is tried again", text)
        self.error = text
        self._retry_ns = self._clock.monotonic_ns() + round(RETRY_S * 1e9)

    def _works(self) -> None:
        if self.error is not None:
            _log.warning("%s: works again; %d rows were dropped", self._path, self.dropped)
            self.error = None
