"""What happened in zones and at lines lately, each with the state of its clip."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vision_infer.core.result import utc

EVENTS_KEPT = 4096

ClipState = Literal["none", "recording", "ready", "missing", "failed", "removed"]
"""none: none is wanted; recording: it is being written; missing: nothing of it was in memory; removed: it had to make room"""


@dataclass(slots=True)
class EventRecord:
    """One event. The clip's state changes as it is written, and goes."""

    id: str
    stream: str
    at_wall_ns: int
    """when the picture was taken, nanoseconds since 1970 (UTC)"""
    event: dict[str, Any]
    """as rows have it"""
    state: ClipState = "none"
    reason: str = ""
    """why there is no clip, or why it ended before its time"""
    clip: Path | None = None
    """its file, which other events may share"""
    from_wall_ns: int | None = None
    """of the clip's first picture"""
    seconds: float | None = None
    """of the clip"""
    bytes: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """As it stands beside its clip."""
        return {"stream": self.stream, "at_ns": self.at_wall_ns, "at": utc(self.at_wall_ns), "event": self.event}


class EventLog:
    """The last events, from any thread.

    Args:
        most: how many are kept.
    """

    def __init__(self, most: int = EVENTS_KEPT) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._by_id: OrderedDict[str, EventRecord] = OrderedDict()

    def add(self, record: EventRecord) -> None:
        """One more has happened."""
        with self._lock:
            self._by_id[record.id] = record
            while len(self._by_id) > self._most:
                self._by_id.popitem(last=False)

    def get(self, name: str) -> EventRecord | None:
        """One by its id; None where it is not known, or not any more."""
        with self._lock:
            return self._by_id.get(name)

    def last(self, stream: str | None, from_ns: int, to_ns: int, limit: int) -> list[EventRecord]:
        """The last ``limit`` of those that are asked for, the newest last.

        Args:
            stream: of this one; None: of all.
            from_ns: of the picture, nanoseconds since 1970 (UTC).
            to_ns: the first that does not count.
            limit: how many at most.
        """
        with self._lock:
            records = list(self._by_id.values())
        found = [one for one in records if stream in (None, one.stream) and from_ns <= one.at_wall_ns < to_ns]
        return found[-limit:]

    def removed(self, clip: Path, reason: str) -> None:
        """A clip is gone."""
        with self._lock:
            for record in self._by_id.values():
                if record.clip == clip and record.state == "ready":
                    record.state, record.reason, record.clip = "removed", reason, None
