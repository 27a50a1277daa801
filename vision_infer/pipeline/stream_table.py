"""All streams of a supervisor by name, and their state changes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from vision_infer.core.clock import Clock
from vision_infer.pipeline.status import StreamEvent, StreamState
from vision_infer.pipeline.stream_record import StreamRecord

_log = logging.getLogger("vision_infer.pipeline")


class StreamTable:
    """The records of the streams.

    Args:
        clock: The monotonic and the wall clock.
        on_event: Called with each state change of a stream, while :attr:`changed` is held.
    """

    def __init__(self, clock: Clock, on_event: Callable[[StreamEvent], None] | None = None) -> None:
        self.changed = threading.Condition()
        """Guards the table, the states, and the supervisor's lists of streams. A thread that changes one of them holds it. It is
        reentrant, and notified when a stream ends."""
        self.by_name: dict[str, StreamRecord] = {}
        self._clock = clock
        self._on_event = on_event

    def records(self) -> list[StreamRecord]:
        """Return all records."""
        with self.changed:
            return list(self.by_name.values())

    def set_state(self, record: StreamRecord, state: StreamState, reason: str = "") -> None:
        """Set the state of a stream and its reason; report the change, if it is one."""
        with self.changed:
            if (record.state, record.reason) == (state, reason):
                return
            record.state, record.reason = state, reason
            record.since_ns, record.since_wall_ns = self._clock.monotonic_ns(), self._clock.wall_ns()
            if record.private:
                return
            event = StreamEvent(record.name, state, record.since_ns, reason, record.since_wall_ns)
            if record.live is not None:
                record.live.changes.append(event)
            if self._on_event is not None:
                try:
                    self._on_event(event)
                except Exception:  # noqa: BLE001 - a listener's error must not end the stream
                    _log.exception("%s: the listener for the change to %s failed", record.name, state.value)

    def set_if_there(self, record: StreamRecord, state: StreamState, reason: str) -> None:
        """Do the same as :meth:`set_state`, unless the name belongs to another stream by now."""
        with self.changed:
            if self.by_name.get(record.name) is record:
                self.set_state(record, state, reason)

    def set_if_in(self, before: StreamState, record: StreamRecord, state: StreamState, reason: str) -> None:
        """Do the same as :meth:`set_state`, unless the stream has left the state ``before``."""
        with self.changed:
            if record.state is before:
                self.set_state(record, state, reason)
