"""One zone and one line: when a track is inside the zone, and when it has crossed the line."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vision_infer.analyze.region import Polygons
from vision_infer.config.zones import LineSettings, ZoneSettings
from vision_infer.core.geometry import Size
from vision_infer.core.scene_event import SceneEvent

SLACK_S = 1e-6
"""The tolerance of comparisons of times, seconds."""
CLEAR = 0.2
"""The fraction of a box's size (the mean of its sides) from which a track is clearly beyond a line or an edge: the jitter
of boxes is proportional to their size."""
AGAIN = 3
"""How many times farther than that a track must be beyond a line to be counted there again."""
_ENDS = 1e-9
"""The fraction by which a line is extended at its ends, so that a crossing exactly there does not depend on rounding."""


@dataclass(slots=True)
class Visit:
    """The state of a track with respect to a zone."""

    inside: bool = False
    """Whether the track counts as inside."""
    changed_s: float | None = None
    """The time since which it is seen otherwise, seconds; None if it is not."""
    entered_s: float = 0.0
    dwelt: bool = False
    """Whether the ``dwell`` event was emitted."""


@dataclass(slots=True)
class LineState:
    """The state of a track with respect to a line. Coordinates are relative to the line: 0 to 1 along it, and to its right in its
    lengths."""

    along: float = 0.0
    right: float = 0.0
    side: int = 0
    """The last side that was not on the line: 1 right, -1 left; 0 at the beginning."""
    counted_side: int = 0
    """The last side on which the track was clear of the line."""
    hit: bool = False
    """Whether the last change of sides was between the ends of the line."""
    crossed: bool = False
    """Whether the track was counted before; it must then move farther to count again."""


@dataclass(slots=True)
class Track:
    """The state of a track."""

    number: int
    class_id: int
    label: str
    seen_s: float
    """The time of its last detection, seconds."""
    visits: list[Visit]
    """The state for each zone."""
    paths: list[LineState]
    """The state for each line."""


class _SceneShape:
    """The common part of zones and lines."""

    def __init__(self, name: str, settings: ZoneSettings | LineSettings, class_ids: Callable[[str], int]) -> None:
        self.name = name
        self.relative = settings.units == "relative"
        self.center = settings.anchor == "center"
        self.classes: Collection[int] | None = (
            None if settings.classes is None else frozenset(class_ids(label) for label in settings.classes)
        )

    def _in_pixels(self, points: Iterable[tuple[float, float]], size: Size) -> NDArray[np.float64]:
        return np.array(list(points), np.float64) * ((size.width, size.height) if self.relative else (1, 1))


class Zone(_SceneShape):
    """A zone, with the number of tracks inside."""

    def __init__(self, name: str, settings: ZoneSettings, class_ids: Callable[[str], int]) -> None:
        super().__init__(name, settings, class_ids)
        self._corners = settings.polygon
        self.min_s = settings.min_s
        self.dwell_s = math.inf if settings.dwell_s is None else settings.dwell_s
        self.occupants = 0

    def measure(self, size: Size) -> None:
        """Prepare the geometry for frames of this size."""
        corners = self._in_pixels(self._corners, size)
        self.polygon = Polygons([corners])
        self._x, self._y = corners.T.copy()
        self._across, self._down = (np.roll(corners, -1, axis=0) - corners).T.copy()
        squares = self._across**2 + self._down**2
        self._squares = np.where(squares > 0, squares, 1)

    def near(self, point: NDArray[np.float64], size: float) -> bool:
        """Return whether a point, float64 [2] in pixels, is not clear of the edge for a box of this size (mean of its sides)."""
        across, down = point[0] - self._x, point[1] - self._y
        along = (across * self._across + down * self._down) / self._squares
        along = np.minimum(np.maximum(along, 0), 1)
        across -= along * self._across
        down -= along * self._down
        return bool((across * across + down * down).min() <= (CLEAR * size) ** 2)

    def see(self, track: Track, visit: Visit, inside: bool, now_s: float, events: list[SceneEvent]) -> None:
        """Update the state with the position of a track."""
        if inside == visit.inside:
            visit.changed_s = None
        else:
            if visit.changed_s is None:
                visit.changed_s = now_s
            if now_s - visit.changed_s >= self.min_s - SLACK_S:
                if inside:
                    self._enter(track, visit, visit.changed_s, events)
                else:
                    self.leave(track, visit, visit.changed_s, events)
        if inside and visit.inside and not visit.dwelt and now_s - visit.entered_s >= self.dwell_s - SLACK_S:
            visit.dwelt = True
            seconds = now_s - visit.entered_s
            events.append(SceneEvent("dwell", self.name, track.number, track.class_id, track.label, seconds))

    def _enter(self, track: Track, visit: Visit, at_s: float, events: list[SceneEvent]) -> None:
        visit.inside, visit.changed_s, visit.entered_s, visit.dwelt = True, None, at_s, False
        self.occupants += 1
        events.append(SceneEvent("enter", self.name, track.number, track.class_id, track.label))

    def leave(self, track: Track, visit: Visit, at_s: float, events: list[SceneEvent]) -> None:
        """Emit that the track has left."""
        visit.inside, visit.changed_s = False, None
        self.occupants -= 1
        seconds = at_s - visit.entered_s
        events.append(SceneEvent("leave", self.name, track.number, track.class_id, track.label, seconds))


class Line(_SceneShape):
    """A line, with the number of its crossings."""

    def __init__(self, name: str, settings: LineSettings, class_ids: Callable[[str], int]) -> None:
        super().__init__(name, settings, class_ids)
        self._ends = (settings.from_, settings.to)
        self.crossed_in = self.crossed_out = 0

    def ends(self, size: Size) -> NDArray[np.float64]:
        """Return its start and end, float64 [2, 2], x and y, pixels."""
        return self._in_pixels(self._ends, size)

    def see(self, track: Track, path: LineState, along: float, right: float, clear: float, events: list[SceneEvent]) -> None:
        """Update the state with the position of a track; it is clear of the line if ``right`` is more than ``clear`` from 0."""
        side = (right > 0) - (right < 0)
        if side:
            if not path.side:
                path.counted_side = side
            elif side != path.side:
                where = path.along + (along - path.along) * (path.right / (path.right - right))
                path.hit = -_ENDS <= where <= 1 + _ENDS
            path.side = side
            if side != path.counted_side and abs(right) > (AGAIN * clear if path.crossed else clear):
                path.counted_side = side
                path.crossed |= path.hit
                if path.hit and (self.classes is None or track.class_id in self.classes):
                    self._cross(track, side, events)
        path.along, path.right = along, right

    def _cross(self, track: Track, side: int, events: list[SceneEvent]) -> None:
        if side > 0:
            self.crossed_in += 1
        else:
            self.crossed_out += 1
        events.append(
            SceneEvent(
                "cross",
                self.name,
                track.number,
                track.class_id,
                track.label,
                direction="in" if side > 0 else "out",
                counts=(self.crossed_in, self.crossed_out),
            )
        )


def mean_side(boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the mean of width and height, float64 [...], of boxes, float32 [..., 4] xyxy."""
    sides: NDArray[np.float64] = boxes.astype(np.float64) @ _HALVES
    return sides


_HALVES = np.array([-0.5, -0.5, 0.5, 0.5])
