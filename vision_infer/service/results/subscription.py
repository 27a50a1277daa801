"""The buffer of one client that reads results: bounded, and safe to fill from the results thread."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal

from vision_infer.core.errors import VisionInferError
from vision_infer.core.scene_event import SceneEvent
from vision_infer.service.results.row import ResultFilter, ResultRow

DEPTH = 8
"""The maximum number of buffered rows of one stream."""
EVENTS = 64
"""The maximum number of zone and line events that are kept from skipped rows of one stream; the oldest are dropped."""
STATES = 256
"""The maximum number of buffered changes of state; the oldest are dropped."""


class HubClosedError(VisionInferError):
    """The service is stopping; no more messages follow."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message for a client."""

    kind: Literal["result", "state", "engine", "degraded", "moved"]
    number: int
    """The sequence number over all streams, from 1; results and changes are counted separately."""
    text: str
    """One line of JSON."""


@dataclass(slots=True)
class _StreamBuffer:
    """The buffered rows of one stream, at least one."""

    rows: deque[ResultRow] = field(default_factory=deque)
    skipped: int = 0
    events: deque[SceneEvent] = field(default_factory=lambda: deque(maxlen=EVENTS))
    """The events of the skipped rows."""

    def skip(self, classes: frozenset[str] | None) -> None:
        """Drop the buffered rows but keep their events."""
        self.skipped += len(self.rows)
        for row in self.rows:
            if row.result.events:
                self.events += (event for event in row.result.events if classes is None or event.label in classes)
        self.rows.clear()


class Subscription:
    """The buffer of one client; created by :meth:`ResultHub.subscribe` and closed by leaving the ``with`` block.

    Args:
        wanted: The client's filter.
        states: Whether changes of state are delivered as well.
        max_streams: The maximum number of streams with buffered rows.
        on_leave: Called when the client leaves.
    """

    def __init__(self, wanted: ResultFilter, states: bool, max_streams: int, on_leave: Callable[[Subscription], None]) -> None:
        self.wanted = wanted
        self.states = states
        self.skipped = 0
        """The number of rows that this client was too slow to read."""
        self._on_leave = on_leave
        self._max_streams = max_streams
        # Guards all buffers and flags below. The results thread, publishers of events and the event loop hold it for a few
        # operations on a deque; no thread encodes JSON or waits while it holds it.
        self._lock = threading.Lock()
        self._buffers: dict[str, _StreamBuffer] = {}
        self._changes: deque[Message] = deque(maxlen=STATES)
        self._asleep = False
        self._closed = False
        self._news = asyncio.Event()

    def offer(self, row: ResultRow) -> bool:
        """Buffer a row, on the results thread. Return True if the client is asleep and has to be woken."""
        wanted = self.wanted
        name = row.result.stream
        if wanted.streams is not None and name not in wanted.streams:
            return False
        if wanted.only_with_detections and not row.holds(wanted):
            return False
        with self._lock:
            buffer = self._buffers.get(name)
            if buffer is None:
                if len(self._buffers) >= self._max_streams:  # streams were removed and others added while the client was slow
                    self.skipped += len(self._buffers.pop(next(iter(self._buffers))).rows)
                buffer = self._buffers[name] = _StreamBuffer()
            elif len(buffer.rows) >= DEPTH:
                self.skipped += len(buffer.rows)
                buffer.skip(wanted.classes)
            buffer.rows.append(row)
            return self._must_wake()

    def offer_change(self, message: Message) -> bool:
        """Buffer a change of state. Return True if the client is asleep and has to be woken."""
        with self._lock:
            self._changes.append(message)
            return self._must_wake()

    def _must_wake(self) -> bool:
        wake, self._asleep = self._asleep, False
        return wake

    def close(self) -> bool:
        """Announce the end to the client. Return True if the client is asleep and has to be woken."""
        with self._lock:
            self._closed = True
            return self._must_wake()

    def wake(self) -> None:
        """Wake the client; call it on the event loop."""
        self._news.set()

    async def next(self, timeout_s: float) -> Message | None:
        """Return the next message, taking turns between streams; None after a timeout. One task on the event loop may call it.

        Raises:
            HubClosedError: The service is stopping.
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
            name = next(iter(self._buffers), None)
            if name is None:
                if self._closed:
                    raise HubClosedError("the service is stopping")
                self._news.clear()
                self._asleep = True
                return None
            buffer = self._buffers.pop(name)
            row, skipped, events = buffer.rows.popleft(), buffer.skipped, tuple(buffer.events)
            if buffer.rows:
                buffer.skipped = 0
                buffer.events.clear()
                self._buffers[name] = buffer  # goes to the end, so that the other streams come first
        return Message("result", row.number, row.text(self.wanted, skipped, events))

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._on_leave(self)
