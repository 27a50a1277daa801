"""Who enters and leaves zones, stays in them, and crosses lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from vision_infer.analyze.places import CLEAR, SLACK_S, Line, Path, Track, Visit, Zone, mean_side
from vision_infer.analyze.region import anchors
from vision_infer.config.zones import LineSettings, ZoneSettings
from vision_infer.core.detections import Detections
from vision_infer.core.geometry import Size
from vision_infer.core.scene_event import SceneEvent

GRACE_S = 2.0
"""a track that was not seen for so long is gone; a tracker gives up sooner"""
MAX_TRACKS = 4096
"""tracks that are remembered; the one that was not seen for longest makes room"""


class Zones:
    """Follows the tracks of one stream through its zones and over its lines.

    A track is in a zone once it was inside for the zone's ``min_s``, and out of it once it was outside and clear of the edge for
    as long, or was not seen for ``grace_s``. It has crossed a line when it went from one side to the other between the line's
    ends and got clear of it; it counts again only when it got clear on the other side again. Clear is a twentieth of its box's
    size away (:data:`~vision_infer.analyze.places.CLEAR`).

    :meth:`occupancy` and :meth:`counts` may be called on any thread; the rest on one at a time.

    Args:
        zones: by name.
        lines: by name.
        class_ids: the number of a class, from its label; called here and not later. What it raises for a label that is
            unknown comes out.
        grace_s: a track that was not seen for so long is gone, seconds.
        most_tracks: tracks that are remembered, at least 1.
    """

    def __init__(
        self,
        zones: Mapping[str, ZoneSettings],
        lines: Mapping[str, LineSettings],
        class_ids: Callable[[str], int],
        grace_s: float = GRACE_S,
        most_tracks: int = MAX_TRACKS,
    ) -> None:
        if most_tracks < 1:
            raise ValueError(f"most_tracks must be at least 1, got {most_tracks}")
        self._zones = [Zone(name, settings, class_ids) for name, settings in zones.items()]
        self._lines = [Line(name, settings, class_ids) for name, settings in lines.items()]
        self._grace_s = grace_s
        self._most_tracks = most_tracks
        self._tracks: dict[int, Track] = {}
        """by number, those that were not seen for longest first"""
        self._size: Size | None = None
        self._now_s = 0.0
        self._ahead_s: float | None = None
        """what is added to the times that are given, so that they do not go back; None before the first"""
        self._publish()

    def update(self, detections: Detections, size: Size, now_s: float) -> tuple[SceneEvent, ...]:
        """What has happened since the last frame. To be called without detections too: tracks are gone only then.

        Args:
            detections: of the next frame, boxes in source pixels. Those without a track are passed over.
            size: of the source picture, pixels.
            now_s: when the frame was, seconds since any start. Where it goes back, or is no number, no time has passed.
        """
        self._advance(now_s)
        events: list[SceneEvent] = []
        numbers = detections.track_ids
        if numbers is not None and len(numbers):
            tracked = numbers > 0
            if tracked.any():
                self._see(detections if tracked.all() else detections[tracked], size, events)
        self._forget(events)
        if events:
            self._publish()
        return tuple(events)

    def leave_all(self) -> tuple[SceneEvent, ...]:
        """Forget all tracks: the stream has ended, or those that come now are numbered anew. Counts stay."""
        events: list[SceneEvent] = []
        for number in list(self._tracks):
            self._end(number, events)
        self._publish()
        return tuple(events)

    def occupancy(self) -> Mapping[str, int]:
        """How many tracks are in each zone; a moment old where another thread asks."""
        return self._occupancy

    def counts(self) -> Mapping[str, tuple[int, int]]:
        """How often each line was crossed, in and out; a moment old where another thread asks."""
        return self._counts

    def _publish(self) -> None:
        # Never changed once they are here: another thread sees the whole of one or of the other.
        self._occupancy = MappingProxyType({zone.name: zone.occupants for zone in self._zones})
        self._counts = MappingProxyType({line.name: (line.crossed_in, line.crossed_out) for line in self._lines})

    def _advance(self, now_s: float) -> None:
        if not math.isfinite(now_s):
            return
        if self._ahead_s is None:
            self._ahead_s = self._now_s - now_s
        self._ahead_s = max(self._ahead_s, self._now_s - now_s)
        self._now_s = max(self._now_s, now_s + self._ahead_s)

    def _see(self, detections: Detections, size: Size, events: list[SceneEvent]) -> None:
        if size != self._size:
            self._measure(size)
        boxes, now_s, zones, lines = detections.boxes, self._now_s, self._zones, self._lines
        assert detections.track_ids is not None
        numbers, class_ids = detections.track_ids.tolist(), detections.class_ids.tolist()
        points = {center: anchors(boxes, center) for center in self._anchors}
        seen: set[int] = set()
        for row, (number, class_id, inside, beside) in enumerate(
            zip(numbers, class_ids, self._in_zones(points, len(boxes)), self._beside_lines(boxes), strict=True)
        ):
            if number in seen:
                continue
            seen.add(number)
            track = self._track(number, class_id, detections)
            for zone, visit, here in zip(zones, track.visits, inside, strict=True):
                if not here and visit.inside:
                    here = zone.near(points[zone.center][row], float(mean_side(boxes[row])))
                zone.see(track, visit, here and (zone.classes is None or class_id in zone.classes), now_s, events)
            for line, path, (along, right, clear) in zip(lines, track.paths, beside, strict=True):
                if line.classes is None or class_id in line.classes:
                    line.see(track, path, along, right, clear, events)

    def _measure(self, size: Size) -> None:
        """Set up the geometry for pictures of this size."""
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
        """For each of so many boxes and each zone whether it is inside."""
        inside = [zone.polygon.contain(points[zone.center]).tolist() for zone in self._zones]
        return list(zip(*inside, strict=True)) if inside else [()] * count

    def _beside_lines(self, boxes: NDArray[np.float32]) -> list[list[list[float]]]:
        """For each box and line the place along it and to its right, as in :class:`Path`, and from where on that is clear."""
        # All three are linear in the corners of a box. What is divided only here is exact for whole pixels: a point on a line
        # is on neither side of it.
        values = (boxes.astype(np.float64) @ self._from_boxes.reshape(4, -1)).reshape(len(boxes), len(self._lines), 3)
        beside: list[list[list[float]]] = ((values + self._offsets) / self._units).tolist()
        return beside

    def _track(self, number: int, class_id: int, detections: Detections) -> Track:
        """The track of a number, noted as seen now."""
        track = self._tracks.pop(number, None)
        if track is None:
            visits, paths = [Visit() for _ in self._zones], [Path() for _ in self._lines]
            track = Track(number, class_id, detections.label_of(class_id), self._now_s, visits, paths)
        elif track.class_id != class_id:
            track.class_id, track.label = class_id, detections.label_of(class_id)
        track.seen_s = self._now_s
        self._tracks[number] = track
        return track

    def _forget(self, events: list[SceneEvent]) -> None:
        """Let tracks go that are gone, or are too many."""
        while self._tracks:
            number, track = next(iter(self._tracks.items()))
            if len(self._tracks) <= self._most_tracks and self._now_s - track.seen_s < self._grace_s - SLACK_S:
                break
            self._end(number, events)

    def _end(self, number: int, events: list[SceneEvent]) -> None:
        track = self._tracks.pop(number)
        for zone, visit in zip(self._zones, track.visits, strict=True):
            if visit.inside:
                zone.leave(track, visit, track.seen_s if visit.changed_s is None else visit.changed_s, events)
