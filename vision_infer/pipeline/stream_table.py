"""All streams of a supervisor by name, and what happened to them."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from vision_infer.core.clock import Clock
from vision_infer.pipeline.status import StreamEvent, StreamState
from vision_infer.pipeline.stream_record import StreamRecord

EVENTS_KEPT = 1024

_log = logging.getLogger("vision_infer.pipeline")


class StreamTable:
    """The records of the streams; whoever changes it holds :attr:`changed`.

    Args:
        on_event: called with each change of a stream's state, while :attr:`changed` is held.
    """

    def __init__(self, clock: Clock, on_event: Callable[[StreamEvent], None] | None = None) -> None:
        self.changed = threading.Condition()
        self.by_name: dict[str, StreamRecord] = {}
        self._clock = clock
        self._on_event = on_event
        self._events: deque[StreamEvent] = deque(maxlen=EVENTS_KEPT)

    def records(self) -> list[StreamRecord]:
        """All of them as they are now."""
        with self.changed:
            return list(self.by_name.values())

    def take_events(self) -> list[StreamEvent]:
        """The last changes of state, oldest first, at most 1,024; they are not told again."""
        with self.changed:
            events = list(self._events)
            self._events.clear()
        return events

    def set_state(self, record: StreamRecord, state: StreamState, reason: str = "") -> None:
        """A stream came into a state, or has another reason to be in it."""
        with self.changed:
            if (record.state, record.reason) == (state, reason):
                return
            record.state, record.reason = state, reason
            record.since_ns, record.since_wall_ns = self._clock.monotonic_ns(), self._clock.wall_ns()
            if record.private:
                return
            event = StreamEvent(record.name, state, record.since_ns, reason, record.since_wall_ns)
            self._events.append(event)
            if record.live is not None:
                record.live.changes.append(event)
            if self._on_event is not None:
                try:
                    self._on_event(event)
                except Exception:  # noqa: BLE001 - who listens must not end whoever tells
                    _log.exception("%s: its change to %s could not be told", record.name, state.value)

    def set_if_there(self, record: StreamRecord, state: StreamState, reason: str) -> None:
        """As :meth:`set_state`; nothing where the record's place was given to another stream."""
        with self.changed:
            if self.by_name.get(record.name) is record:
                self.set_state(record, state, reason)

    def set_if_in(self, before: StreamState, record: StreamRecord, state: StreamState, reason: str) -> None:
        """As :meth:`set_state`; nothing where the stream has left the state in which it was."""
        with self.changed:
            if record.state is before:
                self.set_state(record, state, reason)
