"""What waits to be sent, on the disk: it survives the process, is bounded, and keeps its order.

A spool is a folder of files (``segment.py``). Each record is with the system when :meth:`Spool.append` returns, so it survives
that the process is killed; :meth:`Spool.sync`, once a second, brings it to the disk, so that a power failure costs the last
second at most. What was sent is acknowledged by its number, and files that hold nothing else are deleted. After a kill, what was
sent and not yet acknowledged is sent again, with the same :meth:`Record.id_in`, by which receivers can tell.

When it is full the *oldest* file goes: a receiver that comes back after hours wants to know what is, and what was lost is one gap
at the beginning instead of a hole that begins when the spool ran full and lasts until now.

A disk that is full loses nothing as long as the receiver keeps up: the newest records are in memory too.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.sink.delivery.segment import Record, Segment, read_segments, records_in, segment_path
from vision_infer.sink.delivery.spool_marks import SLOT, acknowledged, name_of, slot

SEGMENTS = 16
"""files of a spool that is full, about"""
LARGEST_SEGMENT = 8 << 20
TAIL_BYTES = 4 << 20
"""of the newest records that are in memory too"""
RETRY_NS = 1_000_000_000
"""so long after a failure the disk is tried again"""


class Spool:
    """One thread appends, another reads and acknowledges, both at the same time; others may look.

    Args:
        folder: of its files; made where it is not there.
        most_bytes: of all files together.
        clock: tells the time.

    Raises:
        OSError: the folder cannot be made or read, or another process uses it.
    """

    def __init__(self, folder: Path, most_bytes: int, clock: Clock = SYSTEM_CLOCK) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._segment_bytes = max(4096, min(LARGEST_SEGMENT, most_bytes // SEGMENTS), most_bytes // 1024)
        self._clock = clock
        self._lock = threading.Lock()
        self._news = threading.Condition(self._lock)
        self.dropped: dict[str, int] = {}
        """records that were lost, by reason: ``spool_full``, ``disk_error``, ``damaged``"""
        self.error: str | None = None
        """what is wrong with the disk at present, one line"""
        self._fd: int | None = None
        """of the last segment, while it is written to"""
        self._unsynced = False
        self._retry_ns = 0
        self._tail: deque[Record] = deque()
        """the newest records"""
        self._tail_bytes = 0
        self._most_tail_bytes = min(TAIL_BYTES, most_bytes // 4)
        self._memory_only: set[int] = set()
        """numbers of those that are in memory, not on the disk, and not acknowledged"""
        self._place: tuple[Path, int, int] | None = None
        """where the reader goes on: file, number of the record before, offset"""
        self._closed = self._hurried = False
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock_fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._segments = read_segments(folder)
            self._ack_fd = os.open(folder / "acknowledged", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._acknowledged = acknowledged(self._ack_fd)
            self._last = max([self._acknowledged, *(one.last for one in self._segments)])
            self.name = name_of(folder, fresh=not self._last)
            """tells this spool from all others"""
        except OSError:
            os.close(self._lock_fd)
            raise
        self._size = sum(one.size for one in self._segments)
        self._count_gaps()
        self._forget_sent()

    # What there is

    @property
    def waiting(self) -> int:
        """Records that are not acknowledged."""
        with self._lock:
            return self._waiting()

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return self._size

    @property
    def oldest_wall_ns(self) -> int | None:
        """When the oldest of what waits was put in, or the first of its file; None where nothing waits."""
        with self._lock:
            if not self._waiting():
                return None
            held = next((one.wall_ns for one in self._segments if one.last > self._acknowledged), None)
            tail = next((one for one in self._tail if one.number > self._acknowledged), None)
            if tail is None or (held is not None and tail.number > self._acknowledged + 1):
                return held
            return tail.wall_ns

    def _waiting(self) -> int:
        held = sum(one.last - max(one.first - 1, self._acknowledged) for one in self._segments if one.last > self._acknowledged)
        return held + len(self._memory_only)

    # The writer's

    def append(self, kind: str, stream: str, text: str) -> None:
        """Put a record in; what is lost by it is counted. Raises nothing that has to do with the disk."""
        with self._lock:
            if self._closed:
                return
            self._last += 1
            record = Record(self._last, self._clock.wall_ns(), kind, stream, text)
            if not self._write(record, record.packed()):
                self._memory_only.add(record.number)
            self._tail.append(record)
            self._tail_bytes += len(text)
            while self._tail_bytes > self._most_tail_bytes and len(self._tail) > 1:
                self._leave_memory("disk_error")
            self._news.notify_all()

    def sync(self) -> None:
        """Bring what was written to the disk."""
        with self._lock:
            fd = None if self._fd is None or not self._unsynced else os.dup(self._fd)
            self._unsynced = False
        if fd is not None:
            with suppress(OSError):  # what could not be written is told by the next record
                os.fdatasync(fd)
            os.close(fd)

    def _write(self, record: Record, packed: bytes) -> bool:
        """Whether the record is on the disk."""
        now_ns = self._clock.monotonic_ns()
        if self.error is not None and now_ns < self._retry_ns:
            return False
        try:
            self._make_room(len(packed))
            if self._fd is None:
                path = segment_path(self._folder, record.number)
                self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
                self._segments.append(Segment(path, record.number, record.number - 1, 0, record.wall_ns))
            done = 0
            while done < len(packed):
                done += os.write(self._fd, packed[done:] if done else packed)
        except OSError as error:
            self.error = f"{self._folder}: {error.strerror or error}"
            self._retry_ns = now_ns + RETRY_NS
            self._give_up_segment()
            return False
        self.error = None
        self._unsynced = True
        segment = self._segments[-1]
        segment.last, segment.size = record.number, segment.size + len(packed)
        self._size += len(packed)
        return True

    def _give_up_segment(self) -> None:
        """Cut what is torn; the next record that can be written begins a new file, so that numbers in a file have no gaps."""
        if self._fd is None:
            return
        segment = self._segments[-1]
        with suppress(OSError):
            os.ftruncate(self._fd, segment.size)
        self._end_segment()
        if not segment.size:
            self._delete(self._segments.pop())

    def _end_segment(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _make_room(self, more: int) -> None:
        if self._fd is not None and self._segments[-1].size + more > self._segment_bytes:
            with suppress(OSError):
                os.fdatasync(self._fd)
            self._end_segment()
        while self._segments and self._size + more > self._most_bytes:
            if len(self._segments) == 1:
                self._end_segment()
            oldest = self._segments.pop(0)
            self._count("spool_full", max(0, oldest.last - max(oldest.first - 1, self._acknowledged)))
            while self._tail and self._tail[0].number <= oldest.last:
                self._leave_memory("spool_full")
            self._delete(oldest)

    def _leave_memory(self, reason: str) -> None:
        record = self._tail.popleft()
        self._tail_bytes -= len(record.text)
        if record.number in self._memory_only:
            self._memory_only.discard(record.number)
            self._count(reason, 1)

    # The reader's

    def read(self, most: int, most_bytes: int = 1 << 20) -> list[Record]:
        """The oldest records that are not acknowledged, in order; at least one where there is any.

        Args:
            most: so many at most.
            most_bytes: of their texts together, where it is more than one.
        """
        with self._lock:
            found = self._oldest(most)
        size = 0
        for count, record in enumerate(found):
            size += len(record.text)
            if count and size > most_bytes:
                return found[:count]
        return found

    def _oldest(self, most: int) -> list[Record]:
        after = self._acknowledged
        tail = [record for record in self._tail if record.number > after][:most]
        if tail and tail[0].number == after + 1:
            return tail
        before = tail[0].number if tail else self._last + 1
        for segment in [one for one in self._segments if one.last > after and one.first < before]:
            found = self._from_segment(segment, after, most, before)
            if found:
                return found
            # A file that went away, or was changed under our hands.
            self._count("damaged", min(segment.last, before - 1) - max(segment.first - 1, after))
            if segment is self._segments[-1]:
                self._end_segment()
            self._segments.remove(segment)
            self._size -= segment.size
        return tail

    def _from_segment(self, segment: Segment, after: int, most: int, before: int) -> list[Record]:
        """The first records of a file with numbers after one and before another."""
        offset = 0
        if self._place is not None and self._place[0] == segment.path and self._place[1] <= after:
            offset = self._place[2]
        found: list[Record] = []
        with suppress(OSError):
            fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                for record, behind in records_in(fd, offset):
                    if record.number > segment.last or record.number >= before or len(found) == most:
                        break
                    if record.number > after:
                        found.append(record)
                    else:
                        self._place = (segment.path, record.number, behind)
            finally:
                os.close(fd)
        return found

    def acknowledge(self, number: int) -> None:
        """All records up to this one were sent, or are given up."""
        with self._lock:
            if number <= self._acknowledged or self._closed:
                return
            self._acknowledged = number
            with suppress(OSError):  # then some are sent twice after a kill
                os.pwrite(self._ack_fd, slot(number), (number % 2) * SLOT.size)
            while self._tail and self._tail[0].number <= number:
                self._memory_only.discard(self._tail[0].number)
                self._tail_bytes -= len(self._tail.popleft().text)
            self._forget_sent()

    def wait(self, timeout_s: float) -> bool:
        """Wait until there is something to send; whether there is."""
        with self._news:
            return self._news.wait_for(lambda: self._hurried or self._waiting() > 0, timeout_s)

    def hurry(self) -> None:
        """From now on :meth:`wait` does not wait."""
        with self._news:
            self._hurried = True
            self._news.notify_all()

    def close(self) -> None:
        """Leave it as it is, for whoever opens it next."""
        self.sync()
        with self._lock:
            if self._closed:
                return
            self._closed = self._hurried = True
            self._end_segment()
            os.close(self._ack_fd)
            os.close(self._lock_fd)
            self._news.notify_all()

    def _forget_sent(self) -> None:
        """Delete files that hold nothing else than what was sent, but for the one that is written to."""
        sent = 0
        while sent < len(self._segments) and self._segments[sent].last <= self._acknowledged:
            sent += 1
        if self._fd is not None:
            sent = min(sent, len(self._segments) - 1)
        if sent:
            with suppress(OSError):  # numbers must never begin anew
                os.fdatasync(self._ack_fd)
        for segment in self._segments[:sent]:
            self._delete(segment)
        del self._segments[:sent]

    def _count_gaps(self) -> None:
        """What is missing between files was torn, or in memory only."""
        for before, segment in zip(self._segments, self._segments[1:], strict=False):
            self._count("damaged", max(0, segment.first - 1 - max(before.last, self._acknowledged)))

    def _delete(self, segment: Segment) -> None:
        self._size -= segment.size
        with suppress(OSError):
            segment.path.unlink()

    def _count(self, reason: str, count: int) -> None:
        if count:
            self.dropped[reason] = self.dropped.get(reason, 0) + count
