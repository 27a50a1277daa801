"""A sink that sends: a bounded queue, a spool, and a carrier. Whoever writes never waits.

Two threads of its own: one puts what was queued into the spool, the other takes it from there to the receiver. Each record is
delivered at least once, in order; what is delivered again has the same id.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import VisionInferError
from vision_infer.sink.delivery.carrier import Carrier, Record, SinkStatus, UndeliveredError, UnwantedError
from vision_infer.sink.delivery.spool import Spool

MAX_QUEUED = 4096
"""what waits in memory for the disk"""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
PATIENT_WAIT_S = 30.0
"""after a refusal: a wrong password that is tried again and again may lock the account"""
MAX_AFTER_S = 600.0
"""a receiver that wants a longer wait is asked before"""
TRIES = 8
"""so often a receiver may hang up on a single record; then that is given up, for it would hold up all others for ever"""
SPOOL_FULL = "its spool is full: the oldest rows are lost"
GOODBYE_S = 2.0
"""how long is tried at the end to send what still waits"""
_LOOK_S = 1.0
_SPOOL_RETRY_S = 5.0

Item = tuple[str, str, Callable[[], str]]
"""kind, stream, and what makes the text: JSON is not written on the thread of results"""

_log = logging.getLogger("vision_infer.sinks")


class Delivery:
    """Sends what it is given.

    Args:
        name: of the sink, unique among those of its kind.
        kind: of the sink.
        folder: of its spool.
        most_bytes: of its spool.
        carrier: takes records to the receiver.
        clock: tells the time.
        draw: gives numbers from 0 to 1, evenly, by which waits differ.
    """

    def __init__(
        self,
        name: str,
        kind: Literal["mqtt", "webhook"],
        folder: Path,
        most_bytes: int,
        carrier: Carrier,
        clock: Clock = SYSTEM_CLOCK,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self.kind = kind
        self._folder = folder
        self._most_bytes = most_bytes
        self._carrier = carrier
        self._clock = clock
        self._draw = draw
        self._queue: deque[Item] = deque()
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
        """rows have been lost since the spool ran full, and it has been told"""
        self._lost = 0
        """rows that were lost so until it was told last"""
        self._connected = False
        self._patient = False
        self._after_s: float | None = None
        self._ending = threading.Event()
        """no more is taken"""
        self._stopped = threading.Event()
        """nothing more is sent"""
        self._limit = carrier.most
        self._suspect, self._tries = 0, 0
        """the number of a record on which the receiver hung up, and how often"""
        self._reached = False
        self._threads = [
            threading.Thread(target=self._fill, name=f"spool-{name}", daemon=True),
            threading.Thread(target=self._empty, name=f"send-{name}", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def put(self, kind: str, stream: str, make: Callable[[], str]) -> None:
        """Take what is to be sent; it never waits for anything, and counts what it has no room for."""
        with self._news:
            if self._ending.is_set():
                return
            if len(self._queue) >= MAX_QUEUED:
                self._queue_full += 1
                return
            self._queue.append((kind, stream, make))
            self._news.notify()

    def status(self) -> SinkStatus:
        """How it stands."""
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
            error="; ".join(one for one in problems if one) or None,
            queued=len(self._queue),
            waiting=0 if spool is None else spool.waiting,
            spool_bytes=0 if spool is None else spool.size_bytes,
            oldest_wall_ns=None if spool is None else spool.oldest_wall_ns,
            sent=self._sent,
            dropped={reason: count for reason, count in dropped.items() if count},
        )

    def end(self) -> None:
        """Take no more; what is queued goes into the spool, and what waits there is sent if that works at once."""
        with self._news:
            self._ending.set()
            self._news.notify_all()
        spool = self._spool
        if spool is not None:
            spool.hurry()

    def close(self, goodbye_s: float = GOODBYE_S) -> None:
        """Put what is queued into the spool, try for a moment to send it, and leave the rest for the next start."""
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
            return
        told: str | None = None
        synced_ns = self._clock.monotonic_ns()
        while True:
            items = [(kind, stream, make()) for kind, stream, make in self._taken()]
            if items:
                spool.append(items)
            if not self._full and spool.dropped.get("spool_full", 0) > self._lost:
                self._full = True
                _log.warning("%s: %s; a larger spool_mb keeps more", self.name, SPOOL_FULL)
            now_ns = self._clock.monotonic_ns()
            if now_ns - synced_ns >= _LOOK_S * 1e9:
                synced_ns = now_ns
                spool.sync()
            if spool.error != told:
                told = spool.error
                if told is None:
                    _log.warning("%s: what waits can be written to the disk again", self.name)
                else:
                    _log.warning(
                        "%s: what waits cannot be written to the disk: %s; the newest is kept in memory", self.name, told
                    )
            if self._ending.is_set() and not self._queue:
                return

    def _taken(self) -> Sequence[Item]:
        with self._news:
            self._news.wait_for(lambda: self._queue or self._ending.is_set(), _LOOK_S)
            taken = list(self._queue)
            self._queue.clear()
            return taken

    def _open_spool(self) -> Spool | None:
        while True:
            try:
                spool = Spool(self._folder, self._most_bytes, self._clock)
            except OSError as error:
                reason = f"its spool cannot be opened: {self._folder}: {error.strerror or error}"
                if self._spool_error != reason:
                    _log.error("%s: %s; it is tried again", self.name, reason)
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

    def _empty(self) -> None:
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
                self._failed(error)
                failures += 1
            except Exception as raised:  # noqa: BLE001 - a thread is a boundary: nothing may vanish there
                self._failed(UndeliveredError(f"unexpected {type(raised).__name__}", "please report this", patient=True))
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
        """Send the oldest; whether something was sent."""
        spool.wait(_LOOK_S)
        self._carrier.look()
        records = spool.read(self._limit)
        if not records:
            if self._reached:
                self._works()
            return False
        try:
            self._carrier.deliver(records)
        except UnwantedError as error:
            if len(records) > 1:  # find the one that is meant
                self._limit = max(1, len(records) // 2)
                return True
            self._drop(records[0], error.reason, str(error))
        except UndeliveredError as error:
            if error.hung_up:
                self._find_out(spool)
            raise
        else:
            self._sent += len(records)
            self._limit = min(self._carrier.most, 2 * self._limit)
        spool.acknowledge(records[-1].number)
        self._works()
        return True

    def _find_out(self, spool: Spool) -> None:
        """A receiver hung up: send records one by one, and give one up on which it does so again and again."""
        records = spool.read(1)
        if self._limit > 1 or not records or records[0].number != self._suspect:
            self._limit = 1
            self._suspect, self._tries = records[0].number if records else 0, 0
            return
        self._tries += 1
        if self._tries >= TRIES:
            self._drop(records[0], "undeliverable", "the receiver hangs up on it")
            spool.acknowledge(records[0].number)

    def _drop(self, record: Record, reason: str, why: str) -> None:
        size = len(record.text)
        _log.warning("%s: a record of %s (%d bytes) is dropped: %s", self.name, record.stream or "an engine", size, why)
        with self._lock:
            self._unwanted[reason] = self._unwanted.get(reason, 0) + 1

    def _works(self) -> None:
        spool = self._spool
        waiting = 0 if spool is None else spool.waiting
        if self._error is not None:
            _log.warning("%s: works again; %d records wait", self.name, waiting)
        if self._full and spool is not None and (self._error is not None or not waiting):
            lost, before = spool.dropped.get("spool_full", 0), self._lost
            self._full, self._lost = False, lost
            _log.warning("%s: %d records were lost while its spool was full", self.name, lost - before)
        self._error = None
        self._connected = True

    def _failed(self, error: UndeliveredError) -> None:
        text = str(error)
        if self._error != text:
            _log.warning("%s: %s; it is tried again, and what waits is kept", self.name, text)
        self._error = text
        self._connected = False
        self._patient, self._after_s = error.patient, error.after_s

    def _wait_s(self, failures: int) -> float:
        if self._after_s is not None:
            return min(self._after_s, MAX_AFTER_S)
        longest = PATIENT_WAIT_S if self._patient else min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(failures - 1, 16))
        return longest * (0.5 + 0.5 * self._draw())


def one_line(error: BaseException) -> str:
    """What an exception says, as one line."""
    if isinstance(error, VisionInferError):
        return str(error)
    return " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())
