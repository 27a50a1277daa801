"""A sink that sends over the network: a bounded queue, a spool and a carrier. The thread that adds records never waits.

It has two threads: one moves records from the queue to the spool, the other delivers them from there. Each record is delivered at
least once, in order; a record that is delivered again has the same id.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.sink.delivery.carrier import Carrier, Record, SinkStatus, UndeliveredError, UnwantedError
from vision_infer.sink.delivery.spool import Spool

MAX_QUEUED = 4096
"""The maximum number of records in memory that wait for the disk."""
FIRST_WAIT_S, MAX_WAIT_S = 0.5, 30.0
PATIENT_WAIT_S = 30.0
"""The time between attempts after a refusal, seconds: repeated attempts with a wrong password may lock the account."""
MAX_AFTER_S = 600.0
"""The maximum wait that a receiver can demand, seconds."""
MAX_HANG_UPS = 8
"""The number of times that a receiver may hang up on one record; then it is dropped, because it would block all others."""
SPOOL_FULL = "the spool is full, the oldest rows are dropped"
GOODBYE_S = 2.0
"""The maximum time at the end for sending the waiting records, seconds."""
_POLL_S = 1.0
_SPOOL_RETRY_S = 5.0

Item = tuple[str, str, Callable[[], str]]
"""The kind, the stream, and a function that makes the text: JSON is not written on the thread of results."""

_log = logging.getLogger("vision_infer.sinks")


class Delivery:
    """Delivers records to a receiver, and keeps them while that is impossible.

    Args:
        name: The name of the sink, unique among those of its kind.
        kind: The kind of the sink.
        folder: The folder of its spool.
        max_bytes: The maximum size of its spool.
        carrier: The connection to the receiver.
        clock: The clock.
        draw: A function that returns random numbers from 0 to 1, by which the waits vary.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        folder: Path,
        max_bytes: int,
        carrier: Carrier,
        clock: Clock = SYSTEM_CLOCK,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self.kind = kind
        self._folder = folder
        self._max_bytes = max_bytes
        self._carrier = carrier
        self._clock = clock
        self._draw = draw
        self._queue: deque[Item] = deque()
        # Guards the queue and the two counters below. The threads hold it for a moment; never during a query or a delivery.
        self._lock = threading.Lock()
        self._news = threading.Condition(self._lock)
        self._queue_full = 0
        self._unwanted: dict[str, int] = {}
        self._sent = 0
        self._spool: Spool | None = None
        self._opened = threading.Event()
        self._error: str | None = None
        self._spool_error: str | None = None
        self._full = False
        """Whether the spool is full, and that was logged."""
        self._lost = 0
        """The number of rows that were lost in this way before the last log line."""
        self._connected = False
        self._patient = False
        self._after_s: float | None = None
        self._ending = threading.Event()
        """Set when no more records are accepted."""
        self._stopped = threading.Event()
        """Set when no more records are sent."""
        self._limit = carrier.max_records
        self._suspect, self._hang_ups = 0, 0
        """The number of a record on which the receiver hung up, and how often it did."""
        self._reached = False
        self._threads = [
            threading.Thread(target=self._fill, name=f"spool-{name}", daemon=True),
            threading.Thread(target=self._send, name=f"send-{name}", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def put(self, kind: str, stream: str, make: Callable[[], str]) -> bool:
        """Add a record, and return whether ``make`` will be called.

        This never waits; a record for which the queue has no capacity is counted.
        """
        with self._news:
            if self._ending.is_set():
                return False
            if len(self._queue) >= MAX_QUEUED:
                self._queue_full += 1
                return False
            self._queue.append((kind, stream, make))
            self._news.notify()
            return True

    def status(self) -> SinkStatus:
        """Return the status."""
        spool = self._spool
        with self._lock:
            dropped = {"queue_full": self._queue_full} | self._unwanted
        for reason, count in ({} if spool is None else dict(spool.dropped)).items():
            dropped[reason] = dropped.get(reason, 0) + count
        problems = [self._error, self._spool_error if spool is None or spool.error is None else spool.error]
        problems += [SPOOL_FULL] if self._full else []
        return SinkStatus(
            name=self.name,
            kind=self.kind,
            connected=self._connected,
            error="; ".join(problem for problem in problems if problem) or None,
            queued=len(self._queue),
            waiting=0 if spool is None else spool.waiting,
            spool_bytes=0 if spool is None else spool.size_bytes,
            oldest_wall_ns=None if spool is None else spool.oldest_wall_ns,
            sent=self._sent,
            dropped={reason: count for reason, count in dropped.items() if count},
        )

    def end(self) -> None:
        """Accept no more records; the queue goes into the spool, and the spool is sent if the receiver takes it immediately."""
        with self._news:
            self._ending.set()
            self._news.notify_all()
        spool = self._spool
        if spool is not None:
            spool.hurry()

    def close(self, goodbye_s: float = GOODBYE_S) -> None:
        """Move the queue into the spool, try for a moment to send it, and leave the remaining records for the next start."""
        self.end()
        filler, sender = self._threads
        filler.join(goodbye_s)
        sender.join(goodbye_s)
        self._stopped.set()
        sender.join(0.1)
        spool = self._spool
        if spool is not None:
            spool.close()

    # The thread that fills the spool

    def _fill(self) -> None:
        spool = self._open_spool()
        if spool is None:
            for _, _, make in self._take_queue():
                self._made(make)  # releases what the record holds, such as a frame
            return
        logged: str | None = None
        synced_ns = self._clock.monotonic_ns()
        while True:
            items = [(kind, stream, text) for kind, stream, make in self._take_queue() if (text := self._made(make)) is not None]
            if items:
                spool.append(items)
            # Log each problem once, when it begins and when it ends.
            if not self._full and spool.dropped.get("spool_full", 0) > self._lost:
                self._full = True
                _log.warning("%s: %s; increase spool_mb to keep more", self.name, SPOOL_FULL)
            now_ns = self._clock.monotonic_ns()
            if now_ns - synced_ns >= _POLL_S * 1e9:
                synced_ns = now_ns
                spool.sync()
            if spool.error != logged:
                logged = spool.error
                if logged is None:
                    _log.warning("%s: the spool works again", self.name)
                else:
                    _log.warning(
                        "%s: the spool cannot be read or written: %s; the newest records are kept in memory", self.name, logged
                    )
            if self._ending.is_set() and not self._queue:
                return

    def _made(self, make: Callable[[], str]) -> str | None:
        """Return the text of a record; one that cannot be made is counted."""
        try:
            return make()
        except Exception:  # noqa: BLE001 - the boundary of a thread: one record must not stop the sink
            with self._lock:
                known = self._unwanted.get("failed", 0)
                self._unwanted["failed"] = known + 1
            if not known:  # what follows is only counted
                _log.exception("%s: a record cannot be made", self.name)
            return None

    def _take_queue(self) -> Sequence[Item]:
        with self._news:
            self._news.wait_for(lambda: self._queue or self._ending.is_set(), _POLL_S)
            items = list(self._queue)
            self._queue.clear()
            return items

    def _open_spool(self) -> Spool | None:
        while True:
            try:
                spool = Spool(self._folder, self._max_bytes, self._clock)
            except OSError as error:
                reason = f"the spool cannot be opened: {self._folder}: {error.strerror or error}"
                if self._spool_error != reason:
                    _log.error("%s: %s; retrying", self.name, reason)
                self._spool_error = reason
                if self._ending.wait(_SPOOL_RETRY_S):
                    self._opened.set()
                    return None
                continue
            self._spool_error = None
            self._spool = spool
            self._opened.set()
            return spool

    # The thread that sends

    def _send(self) -> None:
        self._opened.wait()
        spool = self._spool
        if spool is None:
            return
        failures = 0
        while not self._is_over(spool):
            try:
                self._reached = self._carrier.open(spool.name)
                self._connected = self._error is None
                while not self._is_over(spool):
                    if self._deliver(spool):
                        failures = 0
            except UndeliveredError as error:
                self._note_failure(error)
                failures += 1
            except Exception as raised:  # noqa: BLE001 - the boundary of a thread: no error may get lost
                self._note_failure(
                    UndeliveredError(f"unexpected {type(raised).__name__}", "Please report this bug.", patient=True)
                )
                _log.debug("%s", self.name, exc_info=raised)
                failures += 1
            else:
                break
            self._carrier.close()
            if self._ending.wait(self._wait_s(failures)):
                break
        self._carrier.close()
        self._connected = False

    def _is_over(self, spool: Spool) -> bool:
        return self._stopped.is_set() or (self._ending.is_set() and not self._threads[0].is_alive() and not spool.waiting)

    def _deliver(self, spool: Spool) -> bool:
        """Send the oldest records, and return whether any were sent."""
        spool.wait(_POLL_S)
        self._carrier.poll()
        records = spool.read(self._limit)
        if spool.unreadable:
            self._stopped.wait(_POLL_S)
        elif not records and self._reached:
            self._note_success()
        if not records:
            return False
        try:
            self._carrier.deliver(records)
        except UnwantedError as error:
            if len(records) > 1:  # find the record that is rejected
                self._limit = max(1, len(records) // 2)
                return True
            self._drop(records[0], error.reason, str(error), logging.DEBUG if error.expected else logging.WARNING)
        except UndeliveredError as error:
            if error.hung_up:
                self._isolate(spool)
            raise
        else:
            self._sent += len(records)
            self._limit = min(self._carrier.max_records, 2 * self._limit)
        spool.acknowledge(records[-1].number)
        self._note_success()
        return True

    def _isolate(self, spool: Spool) -> None:
        """After the receiver hung up, send records individually, and drop a record on which it hangs up repeatedly."""
        records = spool.read(1)
        if self._limit > 1 or not records or records[0].number != self._suspect:
            self._limit = 1
            self._suspect, self._hang_ups = records[0].number if records else 0, 0
            return
        self._hang_ups += 1
        if self._hang_ups >= MAX_HANG_UPS:
            self._drop(records[0], "undeliverable", "the receiver hangs up on it")
            spool.acknowledge(records[0].number)

    def _drop(self, record: Record, reason: str, why: str, level: int = logging.WARNING) -> None:
        size = len(record.text)
        _log.log(level, "%s: a record of %s (%d bytes) was dropped: %s", self.name, record.stream or "an engine", size, why)
        with self._lock:
            self._unwanted[reason] = self._unwanted.get(reason, 0) + 1

    def _note_success(self) -> None:
        spool = self._spool
        waiting = 0 if spool is None else spool.waiting
        if self._error is not None:
            _log.warning("%s: works again; %d records are waiting", self.name, waiting)
        if self._full and spool is not None and (self._error is not None or not waiting):
            lost, before = spool.dropped.get("spool_full", 0), self._lost
            self._full, self._lost = False, lost
            _log.warning("%s: %d records were dropped while the spool was full", self.name, lost - before)
        self._error = None
        self._connected = True

    def _note_failure(self, error: UndeliveredError) -> None:
        text = str(error)
        if self._error != text:
            _log.warning("%s: %s; retrying, records are kept", self.name, text)
        self._error = text
        self._connected = False
        self._patient, self._after_s = error.patient, error.after_s

    def _wait_s(self, failures: int) -> float:
        if self._after_s is not None:
            return min(self._after_s, MAX_AFTER_S)
        longest = PATIENT_WAIT_S if self._patient else min(MAX_WAIT_S, FIRST_WAIT_S * 2.0 ** min(failures - 1, 16))
        return longest * (0.5 + 0.5 * self._draw())
