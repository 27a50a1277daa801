"""Records that wait to be sent, in a SQLite database: they survive the process, are bounded in bytes and keep their order.

The database is in WAL mode with ``synchronous=NORMAL``: a commit writes to the WAL and does not wait for the disk. A record
survives a kill of the process once :meth:`Spool.append` returns. :meth:`Spool.sync`, once a second, runs a checkpoint, which
flushes to the disk, so a power failure costs at most the last second and never damages the database (with ``OFF`` it could;
``FULL`` flushes in each commit). Records that were sent but not acknowledged before a kill are sent again, with the same id.

A full spool drops its *oldest* records: after an outage of hours the receiver gets the newest, and the loss is one gap at the
beginning. On a full disk, records are kept in memory, so nothing is lost as long as the receiver keeps up.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import sqlite3
import threading
import zlib
from collections import deque
from collections.abc import Generator, Iterable
from contextlib import closing, suppress
from pathlib import Path

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.sink.delivery.carrier import Record

FILE = "spool.sqlite3"
MAX_MEMORY_BYTES = 4 << 20
"""The maximum size of the records that are only in memory because the disk does not take them."""
RETRY_NS = 1_000_000_000
"""The time between two attempts to write to a disk that failed."""
_PAGE_BYTES = 4096
_OPEN = """
PRAGMA locking_mode=EXCLUSIVE; PRAGMA auto_vacuum=INCREMENTAL; PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;
PRAGMA wal_autocheckpoint={wal_pages}; BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS records
  (number INTEGER PRIMARY KEY AUTOINCREMENT, wall_ns INTEGER, kind TEXT, stream TEXT, crc INTEGER, text BLOB);
CREATE TABLE IF NOT EXISTS spool AS SELECT '{name}' AS name;
INSERT INTO sqlite_sequence SELECT 'records', {last} WHERE NOT EXISTS (SELECT * FROM sqlite_sequence); COMMIT
"""

_log = logging.getLogger("vision_infer.sinks")


class Spool:
    """A queue on the disk. One thread appends, another reads and acknowledges; any thread may read the attributes.

    Args:
        folder: The folder of the database; it is created if it does not exist.
        max_bytes: The maximum size of the database and its WAL together.
        clock: The clock.

    Raises:
        OSError: The database cannot be opened, or another process uses it.
    """

    def __init__(self, folder: Path, max_bytes: int, clock: Clock = SYSTEM_CLOCK) -> None:
        self._path = folder / FILE
        self._max_pages = max(12, max_bytes * 3 // 4 // _PAGE_BYTES)  # the remaining quarter is for the WAL
        self._max_memory = min(MAX_MEMORY_BYTES, max_bytes // 4)
        self._clock = clock
        # Guards the database and all that follows. The appending and the sending thread hold it during a query or checkpoint, as
        # long as the disk takes; other threads read the public attributes without it, so they never wait for the disk.
        self._lock = threading.Lock()
        self._news = threading.Condition(self._lock)
        self.dropped: dict[str, int] = {}
        """The number of lost records by reason: ``spool_full``, ``disk_error``, ``damaged``."""
        self.error: str | None = None
        """The present problem with the disk, one line."""
        self.unreadable = False
        """Whether the disk could not be read the last time: the records wait."""
        self.waiting = 0
        """The number of records that are not acknowledged."""
        self.size_bytes = 0
        """The size of the used part of the database, bytes."""
        self.oldest_wall_ns: int | None = None
        """The time at which the oldest waiting record was appended, nanoseconds since 1970 (UTC); None if no record waits."""
        self.name = secrets.token_hex(4)
        """The identifier of this spool. Record numbers are unique in it."""
        self._unwritten: deque[Record] = deque()  # the newest records, which the disk has not taken yet
        self._last = self._acknowledged = self._stored = self._retry_ns = 0
        self._closed = self._hurried = False
        self._db: sqlite3.Connection | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                self._db = self._open()
            except sqlite3.Error as error:
                if not _is_damage(error):
                    raise
                self._stored = self._stored or 1  # at least, where their number is unknown
                self._set_aside(error)
                self._db = self._open()
        except sqlite3.Error as error:
            raise OSError(errno.EIO, str(error)) from error
        self._update()

    def append(self, items: Iterable[tuple[str, str, str]]) -> None:
        """Append records, each of kind, stream and text, in one transaction. Problems with the disk are counted, not raised."""
        with self._news:
            if self._closed:
                return
            wall_ns = self._clock.wall_ns()
            for kind, stream, text in items:
                self._last += 1
                self._unwritten.append(Record(self._last, wall_ns, kind, stream, text))
            self._write()
            self._news.notify_all()

    def sync(self) -> None:
        """Flush to the disk, and write the records that it has not taken yet."""
        with self._lock:
            try:
                os.stat(self._path)
            except FileNotFoundError:
                self._set_aside(sqlite3.DatabaseError("the file was deleted"))
            except OSError:
                pass  # the next query reports it
            if self._unwritten or self._db is None:
                self._write()
            if self._db is not None:
                with suppress(sqlite3.Error):  # the next append reports a disk that fails
                    self._db.execute("PRAGMA wal_checkpoint")

    def read(self, limit: int, max_bytes: int = 1 << 20) -> list[Record]:
        """Return the oldest records that are not acknowledged, in order: at least one if there is any, at most ``max_bytes``."""
        records: list[Record] = []
        size = 0
        with self._lock:
            failed, self.unreadable = self.unreadable, False
            with closing(self._records()) as waiting:
                for record in waiting:
                    size += len(record.text)
                    if records and (size > max_bytes or len(records) == limit):
                        break
                    records.append(record)
            if failed and not self.unreadable:
                self.error = None
            self._update()
        return records

    def acknowledge(self, number: int) -> None:
        """Forget all records up to this number: they were sent, or are given up."""
        with self._lock:
            if number <= self._acknowledged or self._closed:
                return
            while self._unwritten and self._unwritten[0].number <= number:
                self._unwritten.popleft()
            if self._stored and self._db is not None:
                self._forget(self._db, number)
            self._acknowledged = number
            self._update()

    def wait(self, timeout_s: float) -> bool:
        """Wait until there is a record to send, and return whether there is one."""
        with self._news:
            return self._news.wait_for(lambda: self._hurried or self.waiting > 0, timeout_s)

    def hurry(self) -> None:
        """Make :meth:`wait` return at once from now on."""
        with self._news:
            self._hurried = True
            self._news.notify_all()

    def close(self) -> None:
        """Close the database; the waiting records stay in it for the next start."""
        self.sync()
        with self._news:
            self._closed = self._hurried = True
            self._disconnect()
            self._news.notify_all()

    # The caller of the methods below holds the lock.

    def _open(self) -> sqlite3.Connection:
        with suppress(OSError):  # SQLite reports the error
            self._path.touch(0o600)
        db = sqlite3.connect(self._path, timeout=0, check_same_thread=False)
        db.text_factory = lambda text: text.decode("utf-8", "replace")  # a damaged name must not hide its record
        try:
            db.executescript(_OPEN.format(wal_pages=min(1000, self._max_pages // 6), name=self.name, last=self._last))
            (last,) = db.execute("SELECT seq FROM sqlite_sequence").fetchone()
            (self.name,) = db.execute("SELECT name FROM spool").fetchone()
            self._last = max(self._last, last)
            (first,) = db.execute("SELECT min(number) FROM records").fetchone()
            self._stored = 0 if first is None else last - first + 1  # is counted as lost where the next query fails
            (self._stored,) = db.execute("SELECT count(*) FROM records").fetchone()
        except sqlite3.Error:
            db.close()
            raise
        self._acknowledged = max(self._acknowledged, last if first is None else first - 1)
        return db

    def _disconnect(self) -> None:
        if self._db is not None:
            with suppress(sqlite3.Error):
                self._db.close()
        self._db = None

    def _write(self) -> None:
        """Write the records that are only in memory; where that fails, keep the newest of them."""
        now_ns = self._clock.monotonic_ns()
        if self.error is None or now_ns >= self._retry_ns:
            try:
                self._db = self._db or self._open()
                self._insert(self._db)
                self.error = self.error if self.unreadable else None
            except sqlite3.Error as error:
                if _is_damage(error):
                    self._set_aside(error)
                self.error, self._retry_ns = f"{self._path.parent}: {error}", now_ns + RETRY_NS
        size = sum(len(record.text) for record in self._unwritten)
        while size > self._max_memory and len(self._unwritten) > 1:
            size -= len(self._unwritten.popleft().text)
            self._count("disk_error", 1)
        self._update()

    def _insert(self, db: sqlite3.Connection) -> None:
        unchecked = lost = 0
        with db:
            for record in self._unwritten:
                text = record.text.encode("utf-8", "backslashreplace")
                stream = record.stream.encode("utf-8", "replace").decode()
                row = (record.number, record.wall_ns, record.kind, stream, zlib.crc32(text), text)
                db.execute("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?)", row)
                unchecked += len(text)
                if unchecked > self._max_pages * _PAGE_BYTES // 16:
                    unchecked, lost = 0, lost + self._drop_oldest(db)
            lost += self._drop_oldest(db)
        self._stored += len(self._unwritten) - lost
        self._unwritten.clear()
        self._count("spool_full", lost)

    def _drop_oldest(self, db: sqlite3.Connection) -> int:
        """Delete a sixteenth of the records until the database is small enough; return how many of the deleted ones waited."""
        lost = 0
        while _used_pages(db) > self._max_pages:
            first, last = db.execute("SELECT min(number), max(number) FROM records").fetchone()
            if first is None:
                break
            end = first + (last - first) // 16
            query = "SELECT count(*) FROM records WHERE number > ? AND number <= ?"
            lost += db.execute(query, [self._acknowledged, end]).fetchone()[0]
            db.execute("DELETE FROM records WHERE number <= ?", [end])
        return lost

    def _forget(self, db: sqlite3.Connection, number: int) -> None:
        """Delete what was sent. A disk may be too full even for that; then the file goes once all of it was sent."""
        query = "SELECT count(*) FROM records WHERE number > ? AND number <= ?"
        try:
            self._stored -= db.execute(query, [self._acknowledged, number]).fetchone()[0]
            with db:
                db.execute("DELETE FROM records WHERE number <= ?", [number])
            if not self._stored:
                db.executescript("PRAGMA incremental_vacuum")  # execute() would run one step of it
        except sqlite3.Error as error:
            if not self._stored or _is_damage(error):
                self._set_aside(error)

    def _records(self) -> Generator[Record, None, None]:
        """Yield the waiting records in order; end at a problem, so that what follows is not acknowledged first."""
        found, db = False, self._db
        if db is None:
            yield from self._unwritten
            return
        query = "SELECT * FROM records WHERE number > ? ORDER BY number"
        try:
            for number, wall_ns, kind, stream, crc, text in db.execute(query, [self._acknowledged]):
                if isinstance(text, bytes) and zlib.crc32(text) == crc:  # a damaged cell may have another type
                    found = True
                    yield Record(number, wall_ns, kind, stream, text.decode())
                elif found:  # the next read counts it
                    return
                else:
                    self._count("damaged", 1)
                    self._forget(db, number)
                    self._acknowledged = number
                    if self._db is not db:  # set aside, with all that it had
                        break
        except sqlite3.Error as error:
            if found:  # the next read meets it again
                return
            if not _is_damage(error):
                self.error, self.unreadable = f"{self._path.parent}: {error}", True
                return
            self._set_aside(error)
        yield from self._unwritten

    def _set_aside(self, error: Exception) -> None:
        """Rename the file and count its waiting records as lost; delete it if there are none. The next write begins a new one."""
        self._disconnect()
        if self._stored:
            _log.warning("%s is damaged (%s): it is renamed to %s.damaged and replaced", self._path, error, FILE)
            self._count("damaged", self._stored)
            self._stored = 0
            with suppress(OSError):
                self._path.replace(self._path.with_name(FILE + ".damaged"))
        for suffix in ("", "-wal", "-journal"):
            with suppress(OSError):
                self._path.with_name(FILE + suffix).unlink()

    def _update(self) -> None:
        """Bring the public attributes up to date."""
        self.waiting = self._stored + len(self._unwritten)
        self.oldest_wall_ns = self._unwritten[0].wall_ns if self._unwritten else None
        self.size_bytes = 0
        if self._db is not None:
            with suppress(sqlite3.Error):  # the next query reports it
                self.size_bytes = _used_pages(self._db) * _PAGE_BYTES
                query = "SELECT wall_ns FROM records WHERE number > ? ORDER BY number LIMIT 1"
                (self.oldest_wall_ns,) = self._db.execute(query, [self._acknowledged]).fetchone() or (self.oldest_wall_ns,)

    def _count(self, reason: str, count: int) -> None:
        if count:
            self.dropped[reason] = self.dropped.get(reason, 0) + count


def _used_pages(db: sqlite3.Connection) -> int:
    (pages,), (free,) = db.execute("PRAGMA page_count").fetchone(), db.execute("PRAGMA freelist_count").fetchone()
    return int(pages - free)


def _is_damage(error: sqlite3.Error) -> bool:
    codes = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in codes  # the low byte of an extended code
