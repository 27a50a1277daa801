"""The counts of zones and lines for each interval of time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import floor

from vision_infer.core.scene_event import SceneEvent

_PAUSE_S = 86_400.0
"""The time without frames after which the intervals without frames are left out: the clock of a computer may jump by years."""

Counts = Mapping[tuple[str, str], tuple[int, int]]
"""By place and label: the crossings of a line, or the objects that entered and left a zone; in and out."""


@dataclass(slots=True)
class CountHistory:
    """The counts of one stream. :meth:`intervals` and :meth:`totals` may be called on any thread, the rest on one."""

    interval_s: float = 60.0
    """The duration of an interval, seconds; intervals begin at its multiples."""
    kept: int | None = None
    """The maximum number of intervals with events that are kept, the last ones; None: all."""
    end_s: float = 0.0
    """The time of the last frame, seconds."""
    _spans: list[tuple[float, float]] = field(default_factory=list)
    """The times of the first and last frames, seconds, with a pause or a jump of the clock between them."""
    _totals: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    """The sum over all intervals, also over those that are no longer kept."""
    _counts: OrderedDict[int, dict[tuple[str, str], tuple[int, int]]] = field(default_factory=OrderedDict)
    """The counts by the number of the interval; intervals without events are left out."""
    # Guards the counts, totals and spans: the results thread adds, others read.
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, now_s: float, events: Iterable[SceneEvent]) -> None:
        """Count the events of a frame.

        Args:
            now_s: The time of the frame, seconds: since 1970 for a live stream, the presentation time for a file.
            events: Its events.
        """
        self.end_s = now_s
        with self._lock:
            begin_s, end_s = self._spans[-1] if self._spans else (now_s, now_s)
            if self._spans and begin_s - _PAUSE_S <= now_s <= end_s + _PAUSE_S:
                self._spans[-1] = (min(begin_s, now_s), max(end_s, now_s))
            else:
                self._spans.append((now_s, now_s))
            if not events:
                return
            found: dict[tuple[str, str], tuple[int, int]] = {}
            for event in events:
                way = event.direction or {"enter": "in", "leave": "out"}.get(event.kind)
                if way is not None:
                    _add(found, {(event.place, event.label): (int(way == "in"), int(way == "out"))})
            _add(self._totals, found)
            _add(self._counts.setdefault(floor(now_s / self.interval_s), {}), found)
            if self.kept is not None and len(self._counts) > self.kept:
                self._counts.popitem(last=False)

    def intervals(self, multiple: int = 1, most: int | None = None) -> Iterator[tuple[float, Counts]]:
        """Give the start (seconds) and the counts of each interval from the first frame to the last, also without events.

        After more than a day without frames, the intervals without frames are left out.

        Args:
            multiple: The number of intervals that are summed up to one.
            most: The maximum number of intervals, the last ones; None: all.
        """
        length_s = self.interval_s * multiple
        found: dict[int, dict[tuple[str, str], tuple[int, int]]] = {}
        with self._lock:
            spans = sorted((floor(begin_s / length_s), floor(end_s / length_s)) for begin_s, end_s in self._spans)
            for number, counts in self._counts.items():
                _add(found.setdefault(number // multiple, {}), counts)
        if not spans:
            return
        start = spans[0][0] if most is None else max(last for _, last in spans) - most + 1
        for first, last in spans:
            for number in range(max(first, start), last + 1):
                yield number * length_s, found.get(number, {})
            start = max(start, last + 1)

    def totals(self) -> Counts:
        """Return the sum over all intervals."""
        with self._lock:
            return dict(self._totals)


def _add(total: dict[tuple[str, str], tuple[int, int]], counts: Counts) -> None:
    for key, (went_in, went_out) in counts.items():
        before = total.get(key, (0, 0))
        total[key] = (before[0] + went_in, before[1] + went_out)
