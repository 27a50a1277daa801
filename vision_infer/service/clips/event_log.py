"""The latest events in zones and at lines, each with the state of its clip."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vision_infer.core.result import utc

EVENTS_KEPT = 4096

ClipState = Literal["none", "recording", "ready", "missing", "failed", "removed"]
"""none: not configured; recording: being written; missing: the video was no longer in memory; removed: deleted to make space."""


@dataclass(slots=True)
class EventRecord:
    """An event. The state of its clip changes over time."""

    id: str
    stream: str
    at_wall_ns: int
    """The capture time of the frame, nanoseconds since 1970 (UTC)."""
    event: dict[str, Any]
    """The event as in result rows."""
    state: ClipState = "none"
    reason: str = ""
    """The reason why there is no clip or why it ended early."""
    clip: Path | None = None
    """The clip's file, which may contain several events."""
    from_wall_ns: int | None = None
    """The time of the clip's first frame, nanoseconds since 1970 (UTC)."""
    seconds: float | None = None
    """The length of the clip."""
    bytes: int | None = None
    """The size of the clip."""

    def to_dict(self) -> dict[str, Any]:
        """Return the event as stored next to its clip."""
        return {"stream": self.stream, "at_ns": self.at_wall_ns, "at": utc(self.at_wall_ns), "event": self.event}


class EventLog:
    """The latest events; safe to use from any thread.

    Args:
        max_events: The number of events to keep.
    """

    def __init__(self, max_events: int = EVENTS_KEPT) -> None:
        self._max_events = max_events
        # Guards _by_id: the results thread adds events, the clip writer updates them, API threads read them.
        self._lock = threading.Lock()
        self._by_id: OrderedDict[str, EventRecord] = OrderedDict()

    def add(self, record: EventRecord) -> None:
        """Add an event and drop the oldest ones beyond the limit."""
        with self._lock:
            self._by_id[record.id] = record
            while len(self._by_id) > self._max_events:
                self._by_id.popitem(last=False)

    def get(self, name: str) -> EventRecord | None:
        """Return an event by its id; None if it is unknown or too old."""
        with self._lock:
            return self._by_id.get(name)

    def last(self, stream: str | None, from_ns: int, to_ns: int, limit: int) -> list[EventRecord]:
        """Return the newest matching events, oldest first.

        Args:
            stream: The stream; None means all.
            from_ns: The earliest capture time, nanoseconds since 1970 (UTC).
            to_ns: The latest capture time, exclusive.
            limit: The maximum number of events.
        """
        with self._lock:
            records = list(self._by_id.values())
        found = [record for record in records if stream in (None, record.stream) and from_ns <= record.at_wall_ns < to_ns]
        return found[-limit:]

    def removed(self, clip: Path, reason: str) -> None:
        """Mark the events of a removed clip."""
        with self._lock:
            for record in self._by_id.values():
                if record.clip == clip and record.state == "ready":
                    record.state, record.reason, record.clip = "removed", reason, None
