"""Results for whoever listens just now: WebSockets, event streams, snapshots. Nobody who listens can hold up the pipeline.

The results thread puts a reference into each reader's own bounded buffer and goes on. All that costs something, such as writing
JSON, is done on the event loop by the first reader that sends the row, and once only for all with the same filter.

A reader that is too slow loses for itself: when ``DEPTH`` rows of a stream wait for it, they make room for the newest one, and
that one tells how many were skipped, and what happened in them. So a slow reader gets less, never what is old.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import VisionInferError
from vision_infer.core.frame import Frame
from vision_infer.core.result import Result, utc
from vision_infer.core.scene_event import SceneEvent
from vision_infer.pipeline.status import StreamEvent
from vision_infer.service.operations.engine_event import EngineEvent, engine_row
from vision_infer.service.results.row import ResultFilter, Row
from vision_infer.service.streams.degrading import DegradeEvent, degrade_row
from vision_infer.sink.sink import Written
from vision_infer.stream.redact import redact

DEPTH = 8
"""rows of one stream that may wait for a reader"""
EVENTS = 64
"""events in zones and at lines that are kept of the rows of one stream that a reader skipped; the oldest go first"""
STATES = 256
"""changes of state that may wait for a reader; older ones go first"""


class TooManyReadersError(VisionInferError):
    """As many read results as the settings allow."""


class HubClosedError(VisionInferError):
    """The service stops: nothing more comes."""


@dataclass(frozen=True, slots=True)
class Message:
    """What a reader gets."""

    kind: Literal["result", "state", "engine", "degraded"]
    number: int
    """of the result or change, from 1, each counted for itself over all streams"""
    text: str
    """one line of JSON"""


@dataclass(slots=True)
class _Waiting:
    """Of one stream; there is at least one row in it."""

    rows: deque[Row] = field(default_factory=deque)
    skipped: int = 0
    events: deque[SceneEvent] = field(default_factory=lambda: deque(maxlen=EVENTS))
    """of what was skipped"""

    def skip(self, classes: frozenset[str] | None) -> None:
        """Make room; what happened in the scene meanwhile is kept."""
        self.skipped += len(self.rows)
        for row in self.rows:
            if row.result.events:
                self.events += (one for one in row.result.events if classes is None or one.label in classes)
        self.rows.clear()


class Subscription:
    """One reader's own buffer; made by :meth:`ResultHub.subscribe`, and left by leaving the ``with`` block."""

    def __init__(self, hub: ResultHub, wanted: ResultFilter, states: bool, most_streams: int) -> None:
        self.wanted = wanted
        self.states = states
        self.skipped = 0
        """rows that made room for newer ones so far"""
        self._hub = hub
        self._most_streams = most_streams
        self._lock = threading.Lock()
        self._waiting: dict[str, _Waiting] = {}
        self._changes: deque[Message] = deque(maxlen=STATES)
        self._asleep = False
        self._closed = False
        self._news = asyncio.Event()

    def offer(self, row: Row) -> bool:
        """Put a row into the buffer, on the results thread. True when the reader sleeps and has to be woken."""
        wanted = self.wanted
        name = row.result.stream
        if wanted.streams is not None and name not in wanted.streams:
            return False
        if wanted.only_with_detections and not row.holds(wanted):
            return False
        with self._lock:
            waiting = self._waiting.get(name)
            if waiting is None:
                if len(self._waiting) >= self._most_streams:  # streams that came and went while the reader did not read
                    self.skipped += len(self._waiting.pop(next(iter(self._waiting))).rows)
                waiting = self._waiting[name] = _Waiting()
            elif len(waiting.rows) >= DEPTH:
                self.skipped += len(waiting.rows)
                waiting.skip(wanted.classes)
            waiting.rows.append(row)
            return self._must_wake()

    def offer_change(self, message: Message) -> bool:
        """Put a change of state into the buffer. True when the reader sleeps and has to be woken."""
        with self._lock:
            self._changes.append(message)
            return self._must_wake()

    def _must_wake(self) -> bool:
        wake, self._asleep = self._asleep, False
        return wake

    def close(self) -> bool:
        """Let the reader know that nothing more comes. True when it sleeps and has to be woken."""
        with self._lock:
            self._closed = True
            return self._must_wake()

    def wake(self) -> None:
        """Go on waiting no longer; on the event loop."""
        self._news.set()

    async def next(self, timeout_s: float) -> Message | None:
        """The next message, streams taking turns; None when there was none for so long. On the event loop, by one task.

        Raises:
            HubClosedError: nothing more comes.
        """
        message = self._take()
        if message is None:
            try:
                async with asyncio.timeout(timeout_s):
                    while message is None:
                        await self._news.wait()
                        message = self._take()
            except TimeoutError:
                return None
        return message

    def _take(self) -> Message | None:
        with self._lock:
            if self._changes:
                return self._changes.popleft()
            name = next(iter(self._waiting), None)
            if name is None:
                if self._closed:
                    raise HubClosedError("the service stops")
                self._news.clear()
                self._asleep = True
                return None
            waiting = self._waiting.pop(name)
            row, skipped, events = waiting.rows.popleft(), waiting.skipped, tuple(waiting.events)
            if waiting.rows:
                waiting.skipped = 0
                waiting.events.clear()
                self._waiting[name] = waiting  # at the end: the other streams come first
        return Message("result", row.number, row.text(self.wanted, skipped, events))

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._hub.leave(self)


class ResultHub:
    """A sink from which any number of readers listen; safe to call from any thread.

    Args:
        max_readers: more are refused.
        max_streams: streams of which rows may wait for one reader at the same time.
    """

    needs_images = False
    outputs: Sequence[Written] = ()

    def __init__(self, max_readers: int = 64, max_streams: int = 256, clock: Clock = SYSTEM_CLOCK) -> None:
        self._max_readers = max_readers
        self._max_streams = max_streams
        self._clock = clock
        self._lock = threading.Lock()
        self._readers: tuple[Subscription, ...] = ()
        """replaced as a whole, so that the results thread needs no lock to go through it"""
        self._one_shots: dict[str, list[Future[tuple[Frame, Result]]]] = {}
        self._ready: list[Subscription] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._results = 0
        self._changes = 0
        self._skipped_before = 0
        self._closed = False

    @property
    def readers(self) -> int:
        """How many listen now."""
        return len(self._readers)

    @property
    def skipped(self) -> int:
        """Rows that readers were too slow for, over all readers so far."""
        return self._skipped_before + sum(reader.skipped for reader in self._readers)

    def write(self, frame: Frame, result: Result | None) -> None:
        """Take a result, on the results thread."""
        if result is None:
            return
        self._results += 1
        if self._one_shots:
            self._serve_one_shots(frame, result)
        readers = self._readers
        if readers:
            row = Row(result, self._results)
            self._wake([reader for reader in readers if reader.offer(row)])

    def tell(self, event: StreamEvent | EngineEvent | DegradeEvent) -> None:
        """Take a change of a stream, or of an engine, which is for readers of any stream."""
        with self._lock:
            self._changes += 1
            number = self._changes
        readers = [reader for reader in self._readers if reader.states]
        if readers:
            wall_ns = self._clock.wall_ns() - (self._clock.monotonic_ns() - event.at_ns)
            if isinstance(event, EngineEvent):
                message, chosen = Message("engine", number, engine_row(event, wall_ns)), readers
            else:
                degraded = isinstance(event, DegradeEvent)
                row = degrade_row(event, wall_ns) if isinstance(event, DegradeEvent) else state_row(event, wall_ns)
                message = Message("degraded" if degraded else "state", number, row)
                chosen = [one for one in readers if one.wanted.streams is None or event.stream in one.wanted.streams]
            self._wake([reader for reader in chosen if reader.offer_change(message)])

    def subscribe(self, wanted: ResultFilter | None = None, states: bool = False) -> Subscription:
        """Begin to listen, on the event loop. What was before is not sent.

        Args:
            wanted: what to send; None: all results.
            states: changes of state, and of engines, too.

        Raises:
            TooManyReadersError: as many listen as may.
            HubClosedError: the service stops.
        """
        loop = asyncio.get_running_loop()
        reader = Subscription(self, wanted or ResultFilter(), states, self._max_streams)
        with self._lock:
            if self._closed:
                raise HubClosedError("the service stops")
            if len(self._readers) >= self._max_readers:
                hint = "raise service.max_clients, or close one of them"
                raise TooManyReadersError(f"{len(self._readers)} clients read results already", hint)
            if self._readers and self._loop is not loop:
                raise RuntimeError("all readers must be on one event loop")
            self._loop = loop
            self._readers = (*self._readers, reader)
        return reader

    def leave(self, reader: Subscription) -> None:
        """Listen no longer."""
        with self._lock:
            if reader in self._readers:
                self._readers = tuple(one for one in self._readers if one is not reader)
                self._skipped_before += reader.skipped

    def one_shot(self, stream: str) -> Future[tuple[Frame, Result]]:
        """The next result of a stream with its frame, for one who waits on another thread; give up with ``cancel()``.

        It is cancelled when the service stops.
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
        except RuntimeError:  # the loop is closed: nobody listens any more
            with self._lock:
                self._ready.clear()
                self._readers = ()

    def _wake_ready(self) -> None:
        with self._lock:
            ready, self._ready = self._ready, []
        for reader in ready:
            reader.wake()

    def close(self, complete: bool) -> None:
        """Let all readers know that nothing more comes; what waits for them is sent before."""
        del complete
        with self._lock:
            self._closed = True
            futures = [future for waiting in self._one_shots.values() for future in waiting]
        for future in futures:
            future.cancel()
        self._wake([reader for reader in self._readers if reader.close()])


def state_row(event: StreamEvent, wall_ns: int) -> str:
    """A change of state as one line of JSON.

    Args:
        event: the change.
        wall_ns: when it was, nanoseconds since 1970 (UTC).
    """
    reason = redact(event.reason)
    row = {"type": "state", "stream": event.stream, "state": event.state.value, "at": utc(wall_ns), "reason": reason}
    return json.dumps(row, ensure_ascii=False)
