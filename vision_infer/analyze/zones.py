"""Zones and lines: tracks enter, leave and stay in zones, and cross lines."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from vision_infer.analyze.history import CountHistory
from vision_infer.analyze.places import CLEAR, SLACK_S, Line, LineState, Track, Visit, Zone, mean_side
from vision_infer.analyze.region import anchors
from vision_infer.config.zones import LineSettings, ZoneSettings
from vision_infer.core.detections import Detections
from vision_infer.core.geometry import Size
from vision_infer.core.scene_event import SceneEvent

GRACE_S = 2.0
"""The time after which a missing track is gone, seconds; a tracker gives up earlier."""
MAX_TRACKS = 4096
"""The maximum number of tracks; beyond it, the one missing for longest is dropped."""

_NONE: Mapping[int, NDArray[np.float32]] = MappingProxyType({})


class Zones:
    """Follows the tracks of one stream through its zones and over its lines.

    A track is in a zone once it was inside for the zone's ``min_s``, and out of it once it was outside and clear of the edge for
    the same time, or was missing for ``grace_s``. It crosses a line when it moves from one side to the other between the ends of
    the line and gets clear of it; it counts again only once it is clear on the other side. Clear means a distance of 20 %
    of its box's size (:data:`~vision_infer.analyze.places.CLEAR`).

    :meth:`occupancy`, :meth:`counts` and :meth:`reset_counts` may be called on any thread; the other methods on one at a time.

    Args:
        zones: The zones by name.
        lines: The lines by name.
        class_ids: A function that returns the number of a class by label; it is only called here, and its error for an unknown
            label is not caught.
        grace_s: The time after which a missing track is gone, seconds.
        max_tracks: The maximum number of tracks, at least 1.
        interval_s: The duration of the intervals of :attr:`history`, seconds.
        intervals: The maximum number of intervals with events that it keeps; None: all.
    """

    def __init__(
        self,
        zones: Mapping[str, ZoneSettings],
        lines: Mapping[str, LineSettings],
        class_ids: Callable[[str], int],
        grace_s: float = GRACE_S,
        max_tracks: int = MAX_TRACKS,
        interval_s: float = 60.0,
        intervals: int | None = None,
    ) -> None:
        if max_tracks < 1:
            raise ValueError(f"max_tracks must be at least 1, got {max_tracks}")
        self._zones = [Zone(name, settings, class_ids) for name, settings in zones.items()]
        self._lines = [Line(name, settings, class_ids) for name, settings in lines.items()]
        self._grace_s = grace_s
        self._max_tracks = max_tracks
        self._tracks: dict[int, Track] = {}
        """The tracks by number, those missing for longest first."""
        self.history = CountHistory(interval_s, intervals)
        # Guards the numbers of crossings: update() counts on the results thread, reset_counts() is called by the API.
        self._counting = threading.Lock()
        self._size: Size | None = None
        self._now_s = 0.0
        self._ahead_s: float | None = None
        """The offset added to the given times, so that they do not go back; None before the first."""
        self._publish()

    def update(
        self, detections: Detections, size: Size, now_s: float, started: Mapping[int, NDArray[np.float32]] = _NONE
    ) -> tuple[SceneEvent, ...]:
        """Return the events since the last frame. Call it for frames without detections too, so that missing tracks end.

        Args:
            detections: The detections of the next frame, boxes in source pixels. Those without a track are ignored.
            size: The size of the source image, pixels.
            now_s: The time of the frame, seconds since any start. If it goes back, or is not a number, no time has passed.
            started: The first box of tracks that are new in this frame, float32 [4] by number: they may have crossed a line
                before they were confirmed.
        """
        self._advance(now_s)
        events: list[SceneEvent] = []
        numbers = detections.track_ids
        with self._counting:
            if numbers is not None and len(numbers):
                tracked = numbers > 0
                if tracked.any():
                    self._see(detections if tracked.all() else detections[tracked], size, started, events)
            self._forget(events)
            if events:
                self._publish()
        return tuple(events)

    def leave_all(self) -> tuple[SceneEvent, ...]:
        """End all tracks: the stream has ended, or its track numbers restart. Counts stay."""
        events: list[SceneEvent] = []
        for number in list(self._tracks):
            self._end(number, events)
        self._publish()
        return tuple(events)

    def reset_counts(self) -> None:
        """Set the number of crossings of each line to zero. Occupancy and history stay."""
        with self._counting:
            for line in self._lines:
                line.crossed_in = line.crossed_out = 0
            self._publish()

    @property
    def places(self) -> list[str]:
        """The names of the lines and zones."""
        return [*(line.name for line in self._lines), *(zone.name for zone in self._zones)]

    def occupancy(self) -> Mapping[str, int]:
        """Return the number of tracks in each zone, on any thread."""
        return self._occupancy

    def counts(self) -> Mapping[str, tuple[int, int]]:
        """Return the number of crossings of each line, in and out, on any thread."""
        return self._counts

    def _publish(self) -> None:
        # The mappings are replaced, never changed: another thread sees a consistent one.
        self._occupancy = MappingProxyType({zone.name: zone.occupants for zone in self._zones})
        self._counts = MappingProxyType({line.name: (line.crossed_in, line.crossed_out) for line in self._lines})

    def _advance(self, now_s: float) -> None:
        if not math.isfinite(now_s):
            return
        if self._ahead_s is None:
            self._ahead_s = self._now_s - now_s
        self._ahead_s = max(self._ahead_s, self._now_s - now_s)
        self._now_s = max(self._now_s, now_s + self._ahead_s)

    def _see(
        self,
        detections: Detections,
        size: Size,
        started: Mapping[int, NDArray[np.float32]],
        events: list[SceneEvent],
    ) -> None:
        if size != self._size:
            self._measure(size)
        boxes, now_s, zones, lines = detections.boxes, self._now_s, self._zones, self._lines
        assert detections.track_ids is not None
        numbers, class_ids = detections.track_ids.tolist(), detections.class_ids.tolist()
        points = {center: anchors(boxes, center) for center in self._anchors}
        seen: set[int] = set()
        for row, (number, class_id, inside, at_lines) in enumerate(
            zip(numbers, class_ids, self._in_zones(points, len(boxes)), self._at_lines(boxes), strict=True)
        ):
            if number in seen:
                continue
            seen.add(number)
            begin = started.get(number) if number not in self._tracks else None
            track = self._track(number, class_id, detections)
            if begin is not None:
                for line, path, (along, right, clear) in zip(lines, track.paths, self._at_lines(begin[None])[0], strict=True):
                    line.see(track, path, along, right, clear, events)
            for zone, visit, here in zip(zones, track.visits, inside, strict=True):
                if not here and visit.inside:
                    here = zone.near(points[zone.center][row], float(mean_side(boxes[row])))
                zone.see(track, visit, here and (zone.classes is None or class_id in zone.classes), now_s, events)
            for line, path, (along, right, clear) in zip(lines, track.paths, at_lines, strict=True):
                line.see(track, path, along, right, clear, events)

    def _measure(self, size: Size) -> None:
        """Prepare the geometry for frames of this size."""
        self._size = size
        self._anchors = {zone.center for zone in self._zones}
        for zone in self._zones:
            zone.measure(size)
        self._from_boxes = np.zeros((4, len(self._lines), 3))
        self._offsets, self._units = np.zeros((len(self._lines), 3)), np.ones((len(self._lines), 3))
        corners = np.eye(4, dtype=np.float32)
        for column, line in enumerate(self._lines):
            start, end = line.ends(size)
            (across, down), length = end - start, math.dist(start, end)
            directions = np.array([[across, -down], [down, across]])
            self._from_boxes[:, column, :2] = anchors(corners, line.center) @ directions
            self._from_boxes[:, column, 2] = mean_side(corners)
            self._offsets[column, :2] = -start @ directions
            self._units[column] = length**2, length**2, length / CLEAR

    def _in_zones(self, points: Mapping[bool, NDArray[np.float64]], count: int) -> list[tuple[bool, ...]]:
        """Return for each box and zone whether the box is inside."""
        inside = [zone.polygon.contain(points[zone.center]).tolist() for zone in self._zones]
        return list(zip(*inside, strict=True)) if inside else [()] * count

    def _at_lines(self, boxes: NDArray[np.float32]) -> list[list[list[float]]]:
        """Return for each box and line the position along and to the right, as in :class:`LineState`, and the clear distance."""
        # All three are linear in the corners of a box. Dividing last is exact for whole pixels: a point on a line is on neither
        # side of it.
        values = (boxes.astype(np.float64) @ self._from_boxes.reshape(4, -1)).reshape(len(boxes), len(self._lines), 3)
        at_lines: list[list[list[float]]] = ((values + self._offsets) / self._units).tolist()
        return at_lines

    def _track(self, number: int, class_id: int, detections: Detections) -> Track:
        """Return the track of a number, marked as seen now."""
        track = self._tracks.pop(number, None)
        if track is None:
            visits, paths = [Visit() for _ in self._zones], [LineState() for _ in self._lines]
            track = Track(number, class_id, detections.label_of(class_id), self._now_s, visits, paths)
        elif track.class_id != class_id:
            track.class_id, track.label = class_id, detections.label_of(class_id)
        track.seen_s = self._now_s
        self._tracks[number] = track
        return track

    def _forget(self, events: list[SceneEvent]) -> None:
        """End tracks that are gone, or that exceed the maximum."""
        while self._tracks:
            number, track = next(iter(self._tracks.items()))
            if len(self._tracks) <= self._max_tracks and self._now_s - track.seen_s < self._grace_s - SLACK_S:
                break
            self._end(number, events)

    def _end(self, number: int, events: list[SceneEvent]) -> None:
        track = self._tracks.pop(number)
        for zone, visit in zip(self._zones, track.visits, strict=True):
            if visit.inside:
                zone.leave(track, visit, track.seen_s if visit.changed_s is None else visit.changed_s, events)
