"""The counts of zones and lines for each interval of time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import floor

from vision_infer.core.scene_event import SceneEvent

KEPT = 10_080
"""The maximum number of intervals with events that are kept: a week of minutes."""

Counts = Mapping[tuple[str, str], tuple[int, int]]
"""By place and label: the crossings of a line, or the objects that entered and left a zone; in and out."""


@dataclass(slots=True)
class CountHistory:
    """The counts of one stream. :meth:`intervals` and :meth:`totals` may be called on any thread, the rest on one."""

    interval_s: float = 60.0
    """The duration of an interval, seconds; intervals begin at its multiples."""
    begin_s: float | None = None
    """The time of the first frame, seconds; None before it."""
    end_s: float = 0.0
    """The time of the last frame, seconds."""
    _counts: OrderedDict[int, dict[tuple[str, str], tuple[int, int]]] = field(default_factory=OrderedDict)
    """The counts by the number of the interval; intervals without events are left out."""
    # Guards the counts: the results thread adds, others read.
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, now_s: float, events: Iterable[SceneEvent]) -> None:
        """Count the events of a frame.

        Args:
            now_s: The time of the frame, seconds: since 1970 for a live stream, the presentation time for a file.
            events: Its events.
        """
        if self.begin_s is None:
            self.begin_s = self.end_s = now_s
        self.end_s = max(self.end_s, now_s)
        if not events:
            return
        with self._lock:
            number = floor(now_s / self.interval_s)
            counts = self._counts.setdefault(number, {})
            for event in events:
                way = event.direction or {"enter": "in", "leave": "out"}.get(event.kind)
                if way is not None:
                    key = (event.place, event.label)
                    went_in, went_out = counts.get(key, (0, 0))
                    counts[key] = (went_in + (way == "in"), went_out + (way == "out"))
            while len(self._counts) > KEPT:
                self._counts.popitem(last=False)

    def intervals(self, multiple: int = 1, most: int | None = None) -> list[tuple[float, Counts]]:
        """Return the start (seconds) and the counts of each interval from the first frame to the last, also without events.

        Args:
            multiple: The number of intervals that are summed up to one.
            most: The maximum number of intervals, the last ones; None: all.
        """
        if self.begin_s is None:
            return []
        length_s = self.interval_s * multiple
        first, last = floor(self.begin_s / length_s), floor(self.end_s / length_s)
        if most is not None:
            first = max(first, last - most + 1)
        found: dict[int, dict[tuple[str, str], tuple[int, int]]] = {number: {} for number in range(first, last + 1)}
        with self._lock:
            for number, counts in self._counts.items():
                if number // multiple in found:
                    _add(found[number // multiple], counts)
        return [(number * length_s, counts) for number, counts in found.items()]

    def totals(self) -> Counts:
        """Return the sum over the intervals that are kept."""
        total: dict[tuple[str, str], tuple[int, int]] = {}
        with self._lock:
            for counts in self._counts.values():
                _add(total, counts)
        return total


def _add(total: dict[tuple[str, str], tuple[int, int]], counts: Counts) -> None:
    for key, (went_in, went_out) in counts.items():
        before = total.get(key, (0, 0))
        total[key] = (before[0] + went_in, before[1] + went_out)
