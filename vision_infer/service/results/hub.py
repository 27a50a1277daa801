"""Distribution of results to connected clients: WebSockets, event streams, snapshots. No client can slow down the pipeline.

The results thread puts a reference into each client's bounded buffer and continues. Expensive work such as JSON encoding is done
on the event loop by the first client that sends the row, and only once for all clients with the same filter.

A slow client loses only its own rows: when ``DEPTH`` rows of a stream are buffered, the newest row replaces them. That row
reports the number of skipped rows and the events in them. A slow client therefore gets fewer rows, but never old ones.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import VisionInferError
from vision_infer.core.frame import Frame
from vision_infer.core.result import Result
from vision_infer.pipeline.completion import NoImage
from vision_infer.service.events import EngineEvent, ServiceEvent, kind_of, to_row, wall_ns_of
from vision_infer.service.results.row import ResultFilter, ResultRow
from vision_infer.service.results.subscription import HubClosedError, Message, Subscription
from vision_infer.sink.sink import Written


class TooManyReadersError(VisionInferError):
    """The maximum number of clients already reads results."""


class ResultHub:
    """A sink with any number of clients; safe to call from any thread.

    Args:
        max_readers: The maximum number of clients; further ones are rejected.
        max_streams: The maximum number of streams with buffered rows for each client.
    """

    needs_images = False
    outputs: Sequence[Written] = ()

    def __init__(self, max_readers: int = 64, max_streams: int = 256, clock: Clock = SYSTEM_CLOCK) -> None:
        self._max_readers = max_readers
        self._max_streams = max_streams
        self._clock = clock
        # Guards the attributes below. Clients that join or leave, publishers of events and the results thread (only for
        # snapshots and to wake clients) hold it for a few operations; callbacks and futures run outside of it.
        self._lock = threading.Lock()
        self._readers: tuple[Subscription, ...] = ()
        """The clients. The tuple is replaced as a whole, so that the results thread can iterate over it without the lock."""
        self._one_shots: dict[str, list[Future[tuple[Frame, Result]]]] = {}
        self._ready: list[Subscription] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._results = 0
        self._changes = 0
        self._skipped_before = 0
        self._closed = False

    @property
    def readers(self) -> int:
        """The number of connected clients."""
        return len(self._readers)

    @property
    def skipped(self) -> int:
        """The number of rows that clients were too slow to read, over all clients so far."""
        return self._skipped_before + sum(reader.skipped for reader in self._readers)

    def write(self, frame: Frame, result: Result | None) -> None:
        """Distribute a result; called on the results thread."""
        if result is None:
            return
        self._results += 1
        if self._one_shots and not isinstance(frame.image, NoImage):
            self._serve_one_shots(frame, result)
        readers = self._readers
        if readers:
            row = ResultRow(result, self._results)
            self._wake([reader for reader in readers if reader.offer(row)])

    def publish(self, event: ServiceEvent) -> None:
        """Distribute a change. Changes of engines go to the clients of all streams."""
        with self._lock:
            self._changes += 1
            number = self._changes
        readers = [reader for reader in self._readers if reader.states]
        if readers:
            message = Message(kind_of(event), number, to_row(event, wall_ns_of(event, self._clock)))
            if not isinstance(event, EngineEvent):
                readers = [one for one in readers if one.wanted.streams is None or event.stream in one.wanted.streams]
            self._wake([reader for reader in readers if reader.offer_change(message)])

    def subscribe(self, wanted: ResultFilter | None = None, states: bool = False) -> Subscription:
        """Subscribe to results, on the event loop. Earlier results are not sent.

        Args:
            wanted: The filter; None means all results.
            states: Whether changes of streams and engines are sent as well.

        Raises:
            TooManyReadersError: The maximum number of clients is reached.
            HubClosedError: The service is stopping.
        """
        loop = asyncio.get_running_loop()
        reader = Subscription(wanted or ResultFilter(), states, self._max_streams, self.leave)
        with self._lock:
            if self._closed:
                raise HubClosedError("the service is stopping")
            if len(self._readers) >= self._max_readers:
                hint = "Close one of them, or raise service.max_clients."
                raise TooManyReadersError(f"{len(self._readers)} clients already read results", hint)
            if self._readers and self._loop is not loop:
                raise RuntimeError("all readers must be on one event loop")
            self._loop = loop
            self._readers = (*self._readers, reader)
        return reader

    def leave(self, reader: Subscription) -> None:
        """Remove a client."""
        with self._lock:
            if reader in self._readers:
                self._readers = tuple(one for one in self._readers if one is not reader)
                self._skipped_before += reader.skipped

    def one_shot(self, stream: str) -> Future[tuple[Frame, Result]]:
        """Return a future of a stream's next result with its frame, for callers on other threads; ``cancel()`` gives it up.

        The hub cancels the future when the service stops.
        """
        future: Future[tuple[Frame, Result]] = Future()
        with self._lock:
            if not self._closed:
                self._one_shots.setdefault(stream, []).append(future)
        if self._closed:
            future.cancel()
        future.add_done_callback(lambda done: self._forget(stream, done))
        return future

    def _forget(self, stream: str, future: Future[tuple[Frame, Result]]) -> None:
        with self._lock:
            waiting = self._one_shots.get(stream)
            if waiting is not None and future in waiting:
                waiting.remove(future)
                if not waiting:
                    del self._one_shots[stream]

    def _serve_one_shots(self, frame: Frame, result: Result) -> None:
        with self._lock:
            waiting = self._one_shots.pop(result.stream, ())
        for future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_result((frame, result))

    def _wake(self, readers: list[Subscription]) -> None:
        if not readers:
            return
        with self._lock:
            scheduled = bool(self._ready)
            self._ready += readers
            loop = self._loop
        if scheduled or loop is None:
            return
        try:
            loop.call_soon_threadsafe(self._wake_ready)
        except RuntimeError:  # the loop is closed: no client is left
            with self._lock:
                self._ready.clear()
                self._readers = ()

    def _wake_ready(self) -> None:
        with self._lock:
            ready, self._ready = self._ready, []
        for reader in ready:
            reader.wake()

    def close(self, complete: bool) -> None:
        """Announce the end to all clients; buffered messages are still sent."""
        del complete
        with self._lock:
            self._closed = True
            futures = [future for waiting in self._one_shots.values() for future in waiting]
        for future in futures:
            future.cancel()
        self._wake([reader for reader in self._readers if reader.close()])
